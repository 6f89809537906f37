"""Mesh codecs: fewer triangles, and Draco. They are what every field has to beat."""

from pathlib import Path

import DracoPy
import numpy as np
import trimesh
from scipy import sparse
from scipy.sparse.linalg import spsolve
from trimesh.triangles import points_to_barycentric

from dss.errors import InputError
from dss.files import is_file, replacing
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import surface_samples
from dss.geometry.simplify import simplify

LEVEL = 10  # of Draco: the slowest, with the smallest files
TUNED_QUALITY = 0.1  # of triangles, by `tuned`: less than usual, for smaller errors
TUNED_BITS = range(8, 13)  # per coordinate, of which `tuned` takes the best
ATTEMPTS = 4  # at a number of faces for a size
SAMPLES = 40_000  # points on each surface, of an error and of `refined`
ROUNDS = 6  # of `refined`
DAMPING = 1e-3  # of a step of `refined`, against the samples per vertex


def save_draco(mesh: trimesh.Trimesh, path: Path | str, bits: int) -> None:
    """Write vertices and faces as a Draco file, which may reorder them.

    A coordinate takes `bits` bits, 1 to 30; InputError is raised on others.
    """
    if not 1 <= bits <= 30:
        reason = "Draco stores a coordinate in 1 to 30 bits"
        raise InputError(f"bits={bits}: {reason}; choose one of those")
    content = draco(mesh, bits)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def draco(mesh: trimesh.Trimesh, bits: int) -> bytes:
    """A mesh as a Draco file."""
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
    return DracoPy.encode(vertices, faces, bits, LEVEL)


def load_draco(path: Path | str) -> trimesh.Trimesh:
    """The mesh in a Draco file. Raises InputError where it is not one, or damaged."""
    if not is_file(path):
        raise InputError(f"{path}: no such file; give one that save_draco wrote")
    try:
        return decode(Path(path).read_bytes())
    except ValueError as error:
        raise InputError(
            f"{path}: not a Draco mesh, or damaged ({error}); write it again"
        ) from error


def decode(content: bytes) -> trimesh.Trimesh:
    """The mesh in the bytes of a Draco file. Raises ValueError where they are not one."""
    try:
        mesh = DracoPy.decode(content)
        return trimesh.Trimesh(mesh.points, mesh.faces, process=False)
    except Exception as error:  # DracoPy raises several kinds
        raise ValueError(f"no Draco mesh: {error}") from error


def tuned(mesh: trimesh.Trimesh, size: int, move: bool = False) -> tuple[trimesh.Trimesh, int]:
    """The mesh with fewer faces, and the bits per coordinate, that come nearest to the surface in a
    Draco file of about `size` bytes. With `move`, the vertices are `refined`, for each number of
    bits, before they are coded."""
    truth, choices = MeshDistance(mesh.vertices, mesh.faces), []
    for bits in TUNED_BITS:
        faces = size
        for _ in range(ATTEMPTS):
            fewer = simplify(mesh, max(4, round(faces)), TUNED_QUALITY)
            content = draco(fewer, bits)
            faces *= size / len(content)
        if move:
            fewer = refined(fewer, truth)
            content = draco(fewer, bits)
        # twice the bytes halve the error, so that this compares files of nearly the same size
        cost = surface_error(decode(content), truth) * len(content)
        choices.append((cost, bits, fewer))
    _, bits, best = min(choices, key=lambda choice: choice[0])
    return best, bits


def surface_error(mesh: trimesh.Trimesh, truth: MeshDistance) -> float:
    """The mean distance between two surfaces over both directions, by SAMPLES points on each."""
    ours, _ = surface_samples(mesh.vertices, mesh.faces, SAMPLES, 1)
    theirs, _ = surface_samples(truth.vertices, truth.faces, SAMPLES, 2)
    there, back = truth.exact(ours), MeshDistance(mesh.vertices, mesh.faces).exact(theirs)
    return float(np.concatenate([there, back]).mean())


def refined(mesh: trimesh.Trimesh, truth: MeshDistance) -> trimesh.Trimesh:
    """The mesh with its vertices moved so that its faces fit a surface; the faces stay.

    Points of each surface ask, along the true normal, for the point of the other surface that is
    nearest to them. Least squares, reweighted to come near the least sum of distances, move the
    vertices. That is done in rounds, because what is nearest changes.
    """
    faces, vertices = np.asarray(mesh.faces), np.array(mesh.vertices)
    theirs, their_faces = surface_samples(truth.vertices, truth.faces, SAMPLES, 3)
    normals = truth.normals.cpu().numpy()
    for number in range(ROUNDS):
        found, face = MeshDistance(vertices, faces).closest(theirs)
        ours, our_faces = surface_samples(vertices, faces, SAMPLES, 4 + number)
        wanted, true_faces = truth.closest(ours)
        places, wanted = np.concatenate([found, ours]), np.concatenate([theirs, wanted])
        corners = faces[np.concatenate([face, our_faces])]
        normal = normals[np.concatenate([their_faces, true_faces])]
        # a sliver has no barycentric coordinates; its points ask for nothing
        share = np.nan_to_num(points_to_barycentric(vertices[corners], places, method="cross"))
        gap = (normal * (wanted - (share[:, :, None] * vertices[corners]).sum(1))).sum(1)
        weight = 1 / (np.abs(gap) + np.abs(gap).mean() + 1e-12)
        weight = np.sqrt(weight / weight.mean())[:, None, None]
        rows = np.arange(len(gap)).repeat(9)
        columns = (3 * corners[:, :, None] + np.arange(3)).ravel()
        values = (weight * share[:, :, None] * normal[:, None]).ravel()
        matrix = sparse.csr_matrix((values, (rows, columns)), (len(gap), vertices.size))
        damping = DAMPING * len(gap) / len(vertices) * sparse.identity(vertices.size)
        right = matrix.T @ (weight[:, 0, 0] * gap)
        vertices += spsolve((matrix.T @ matrix + damping).tocsc(), right).reshape(-1, 3)
    return trimesh.Trimesh(vertices, faces, process=False)
