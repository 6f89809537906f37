"""The classic way to store a mesh in few bytes: fewer triangles, and Draco.

What every field has to beat.
"""

from pathlib import Path

import DracoPy
import numpy as np
import pymeshlab
import trimesh

from dss.errors import InputError
from dss.files import replacing

LEVEL = 10  # Draco's slowest and smallest


def simplify(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """The mesh with at most `faces` triangles, by quadric edge collapse; as it is where it has no
    more.

    Raises InputError below 4.
    """
    if faces < 4:
        raise InputError(f"faces={faces}: no solid has fewer than 4; choose more")
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces))
    meshes.meshing_decimation_quadric_edge_collapse(targetfacenum=faces, preservenormal=True)
    result = meshes.current_mesh()
    return trimesh.Trimesh(
        result.vertex_matrix(), result.face_matrix().astype(np.int64), process=False
    )


def save_draco(mesh: trimesh.Trimesh, path: Path | str, bits: int) -> None:
    """Write vertices and faces, in any order, as a Draco file; coordinates of `bits` bits each, 1
    to 30."""
    if not 1 <= bits <= 30:
        raise InputError(
            f"bits={bits}: Draco stores a coordinate in 1 to 30 bits; choose one of those"
        )
    content = DracoPy.encode(
        np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32), bits, LEVEL
    )
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_draco(path: Path | str) -> trimesh.Trimesh:
    """The mesh in a Draco file. Raises InputError where it is not one, or damaged."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give one that save_draco wrote")
    try:
        decoded = DracoPy.decode(Path(path).read_bytes())
        return trimesh.Trimesh(decoded.points, decoded.faces, process=False)
    except Exception as error:  # DracoPy raises several kinds
        raise InputError(
            f"{path}: not a Draco mesh, or damaged ({error}); write it again"
        ) from error
