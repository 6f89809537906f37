"""Fewer triangles for the same shape."""

import numpy as np
import pymeshlab
import trimesh

from dss.errors import InputError

QUALITY = 0.3  # what the shape of triangles counts in a collapse, by default


def simplify(
    mesh: trimesh.Trimesh, faces: int, quality: float = QUALITY, topology: bool = False
) -> trimesh.Trimesh:
    """The mesh with at most `faces` triangles, by quadric edge collapse.

    It stays as it is where it has no more. `quality`, from 0 to 1, is what the shape of triangles
    counts, and `topology` keeps that of the surface. Raises InputError below 4 faces.
    """
    if faces < 4:
        raise InputError(f"faces={faces}: no solid has fewer than 4; choose more")
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces))
    # All that anyone here sets: what is left out would be what the last call said.
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=faces, qualitythr=quality, preservetopology=topology, preservenormal=True
    )
    result = meshes.current_mesh()
    faces = result.face_matrix().astype(np.int64)
    return trimesh.Trimesh(result.vertex_matrix(), faces, process=False)
