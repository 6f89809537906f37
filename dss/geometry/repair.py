"""Mending meshes that do not bound a solid, where the configuration asks for it (`mesh.repair`).

holes   holes are closed, by MeshLab's filters
solid   holes, and then the union of all bodies, each with its voids, by Manifold: no face is left
        inside the solid

What a repair adds is a guess. Nothing is mended unless asked for, and then the run says so.
"""

from typing import Literal

import manifold3d
import numpy as np
import pymeshlab
import trimesh

from dss.errors import InputError

Repair = Literal["none", "holes", "solid"]
MAX_HOLE = 1_000_000  # edges around a hole
ROUNDS = 4  # what MeshLab makes of a hole that meets itself at a vertex may leave smaller ones
INSIDE = 0.5  # share of a void that lies in the body that it belongs to


def close_holes(
    vertices: np.ndarray, faces: np.ndarray, path: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """A clean mesh without its holes: vertices (v, 3), faces (f, 3), and what was done.

    MeshLab closes the holes of manifolds only, so fins go first, and then other faces at edges of
    three or more. Raises InputError where it cannot be done.
    """
    before, faces = len(faces), _without_fins(faces)
    if not (_sides(faces) == 1).any():
        return vertices, faces, _became("fins removed", before, len(faces))
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertices, faces))
    try:
        meshes.meshing_repair_non_manifold_edges(method="Remove Faces")
        meshes.meshing_repair_non_manifold_vertices(vertdispratio=0)
        done = meshes.meshing_close_holes(maxholesize=MAX_HOLE, newfaceselected=False)
    except pymeshlab.PyMeshLabException as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: its holes cannot be closed ({reason}); leave mesh.repair out, or mend the "
            "mesh by hand"
        ) from error
    mesh, holes = meshes.current_mesh(), int(done["closed_holes"])
    faces = mesh.face_matrix().astype(np.int64)
    return mesh.vertex_matrix(), faces, _became(f"{holes:,} holes closed", before, len(faces))


def unite(vertices: np.ndarray, faces: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray, str]:
    """The union of the bodies of a clean mesh that are closed, each without its voids: as
    `close_holes`. Raises InputError where there is none."""
    solids, voids, left_out = [], [], 0
    for part in trimesh.graph.connected_components(
        trimesh.graph.face_adjacency(faces), nodes=np.arange(len(faces)), min_len=1
    ):
        body = _manifold(vertices, faces[part])
        if body.is_empty():
            left_out += 1
        elif body.volume() > 0:
            solids.append(body)
        else:
            voids.append(_manifold(vertices, faces[part][:, ::-1]))
    solids.sort(key=lambda body: body.volume())
    bodies = list(solids)
    for void in voids:
        for index, solid in enumerate(solids):  # the smallest around it has it
            if (void ^ solid).volume() > INSIDE * void.volume():
                bodies[index] -= void
                break
    united = manifold3d.Manifold.batch_boolean(bodies, manifold3d.OpType.Add)
    if united.is_empty():
        raise InputError(
            f"{path}: no body of it closes, so no solid can be made of it; try mesh.repair=holes, "
            "or mend the mesh by hand"
        )
    mesh, note = united.to_mesh64(), f"{len(solids):,} bodies with {len(voids):,} voids united"
    if left_out:
        note += f", {left_out:,} left out that do not close"
    result = mesh.tri_verts.astype(np.int64)
    return mesh.vert_properties[:, :3], result, _became(note, len(faces), len(result))


CLOSE = (close_holes,) * ROUNDS
STEPS = {"none": (), "holes": CLOSE, "solid": (*CLOSE, unite)}


def _became(what: str, before: int, after: int) -> str:
    return "" if before == after else f"{what} ({before:,} faces became {after:,})"


def _sides(faces: np.ndarray) -> np.ndarray:
    """(f, 3): how many faces the edges of each face have."""
    ends = np.sort(trimesh.geometry.faces_to_edges(faces), axis=1)
    edge = trimesh.grouping.unique_rows(ends)[1]
    return np.bincount(edge)[edge].reshape(-1, 3)


def _without_fins(faces: np.ndarray) -> np.ndarray:
    """The faces but for those that hang on an edge of others, and end freely."""
    while True:
        sides = _sides(faces)
        fin = (sides == 1).any(1) & (sides > 2).any(1)
        if not fin.any() or fin.all():
            return faces
        faces = faces[~fin]


def _manifold(vertices: np.ndarray, faces: np.ndarray) -> manifold3d.Manifold:
    """A body as Manifold has it; an empty one where its faces do not close."""
    used, inverse = np.unique(faces, return_inverse=True)
    triangles = inverse.reshape(-1, 3).astype(np.uint64)
    return manifold3d.Manifold(manifold3d.Mesh64(vertices[used], triangles))
