"""Mesh codecs: fewer triangles, and Draco. They are what every field has to beat."""

from pathlib import Path

import DracoPy
import numpy as np
import pymeshlab
import trimesh

from dss.errors import InputError
from dss.files import is_file, replacing

LEVEL = 10  # of Draco: the slowest, with the smallest files


def simplify(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """The mesh with at most `faces` triangles, by quadric edge collapse.

    It stays as it is where it has no more. Raises InputError below 4.
    """
    if faces < 4:
        raise InputError(f"faces={faces}: no solid has fewer than 4; choose more")
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces))
    meshes.meshing_decimation_quadric_edge_collapse(targetfacenum=faces, preservenormal=True)
    result = meshes.current_mesh()
    faces = result.face_matrix().astype(np.int64)
    return trimesh.Trimesh(result.vertex_matrix(), faces, process=False)


def save_draco(mesh: trimesh.Trimesh, path: Path | str, bits: int) -> None:
    """Write vertices and faces as a Draco file, which may reorder them.

    A coordinate takes `bits` bits, 1 to 30; InputError is raised on others.
    """
    if not 1 <= bits <= 30:
        reason = "Draco stores a coordinate in 1 to 30 bits"
        raise InputError(f"bits={bits}: {reason}; choose one of those")
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
    content = DracoPy.encode(vertices, faces, bits, LEVEL)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_draco(path: Path | str) -> trimesh.Trimesh:
    """The mesh in a Draco file. Raises InputError where it is not one, or damaged."""
    if not is_file(path):
        raise InputError(f"{path}: no such file; give one that save_draco wrote")
    try:
        decoded = DracoPy.decode(Path(path).read_bytes())
        return trimesh.Trimesh(decoded.points, decoded.faces, process=False)
    except Exception as error:  # DracoPy raises several kinds
        raise InputError(
            f"{path}: not a Draco mesh, or damaged ({error}); write it again"
        ) from error
