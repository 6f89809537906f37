"""Meshes: load, clean, normalise; and points on their surface."""

import hashlib
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import miniball
import numpy as np
import pymeshlab
import trimesh

from dss.errors import InputError
from dss.files import is_file, unicode_name
from dss.geometry.orientation import inverted
from dss.geometry.polygons import OBJ_POLYGON, OFF_POLYGON, read_obj, read_off, read_ply
from dss.geometry.similarity import Similarity

FORMATS = "obj, stl, ply, off, glb or 3mf"
# The number of faces that a PLY or OFF header announces
DECLARED = re.compile(
    rb"\s*(?:ply\b.*?\nelement face (\d+)|C?OFF\s+(?:#.*?\n\s*)*\d+\s+(\d+))", re.S
)
# A sheet of size 1 encloses 1e-16 by rounding, a wire 3e-5 thick encloses this much
MIN_VOLUME = 1e-9
JITTER = 1e-9  # of points that have no smallest ball in floating point


@dataclass(frozen=True)
class MeshReport:
    """What a mesh is after cleaning, and what was done to it.

    Edges are counted before zero-area faces are removed.
    """

    vertices: int
    faces: int
    bodies: int  # sets of faces connected through edges
    boundary_edges: int  # edges of one face
    nonmanifold_edges: int  # edges of three or more faces
    repairs: tuple[str, ...]

    @property
    def watertight(self) -> bool:
        """Every edge has two faces."""
        return not self.boundary_edges and not self.nonmanifold_edges

    def __str__(self) -> str:
        bodies = f"{self.bodies} {'body' if self.bodies == 1 else 'bodies'}"
        edges = (
            f"{self.boundary_edges:,} boundary and {self.nonmanifold_edges:,} non-manifold edges"
        )
        closed = "watertight" if self.watertight else f"not watertight ({edges})"
        parts = [f"{self.faces:,} faces", f"{self.vertices:,} vertices", bodies, closed]
        return "; ".join([", ".join(parts), *self.repairs])


@dataclass(frozen=True)
class Mesh:
    """Triangles in the normalised frame: their smallest enclosing ball is centred at the origin.

    vertices (v, 3) float64, faces (f, 3) int64.
    """

    vertices: np.ndarray
    faces: np.ndarray
    similarity: Similarity  # from the normalised frame to the input's units
    report: MeshReport
    path: str
    sha256: str  # of the file's bytes; of the arrays for the generated mesh


def load_mesh(path: Path | str, radius: float = 0.9) -> Mesh:
    """Load, clean and normalise a mesh file, or `demo`, the generated mesh.

    Any format that trimesh reads will do. Scenes are merged and polygons triangulated; duplicate
    vertices, coincident faces and faces without area are removed. The faces of a manifold mesh are
    oriented alike, and bodies that are inside out are turned. The smallest enclosing ball gets the
    given `radius`. Raises InputError on a file that is not a mesh, or that encloses no volume.
    """
    path = str(path)
    if not 0 < radius <= 1:
        remedy = "choose one above 0 and at most 1, such as 0.9"
        raise InputError(f"{path}: cannot be given the radius {radius:g}; {remedy}")
    vertices, faces, sha256 = _read(path)
    if not len(faces):
        reason = "no faces (a point cloud, a curve, or a damaged file)"
        raise InputError(f"{path}: {reason}; give a complete triangle mesh")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(
            f"{path}: a face names a vertex that is not there; the file is damaged, export it again"
        )
    listed, used = len(vertices), np.unique(faces)
    if len(used) < listed:  # those that no face uses may be anywhere, and say nothing of the size
        vertices, faces = vertices[used], np.searchsorted(used, faces)
    unusable = int((~np.isfinite(vertices)).any(1).sum())
    if unusable:
        reason = f"{unusable} of {len(vertices)} vertices are NaN or infinite"
        raise InputError(f"{path}: {reason}; remove them, or export the mesh again")

    low, high = vertices.min(0), vertices.max(0)
    middle, size = 0.5 * low + 0.5 * high, float((0.5 * high - 0.5 * low).max())
    if not 1e-150 < size < 1e150:
        reason = f"the vertices span {2 * size:g}, too little or too much to compute with"
        raise InputError(f"{path}: {reason}; scale the mesh")
    vertices, faces, report = _clean((vertices - middle) / size, faces, listed, path)

    center, reach = enclosing_ball(vertices)
    similarity = Similarity(tuple((middle + size * center).tolist()), size * reach / radius)
    return Mesh((vertices - center) * (radius / reach), faces, similarity, report, path, sha256)


def enclosing_ball(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the smallest ball around points (n, 3) float64 of size about 1.

    miniball takes seconds for thousands of points, so it gets a handful: the farthest point joins
    until none is outside.
    """
    active = np.unique(np.concatenate([points.argmin(0), points.argmax(0)]))
    while True:
        center = _ball_center(points[active])
        distance = np.linalg.norm(points - center, axis=1)
        farthest = distance.argmax()
        if distance[farthest] <= distance[active].max() * (1 + 1e-12):
            return center, float(distance[farthest])
        active = np.append(active, farthest)


def _ball_center(points: np.ndarray) -> np.ndarray:
    """Centre (3,) of the smallest ball around a handful of points (n, 3) of size about 1.

    miniball fails where more points lie on a circle than define it, but for rounding. Moved by
    JITTER, they do not.
    """
    generator, jitter = np.random.default_rng(0), 0
    while True:
        with suppress(np.linalg.LinAlgError):
            return miniball.get_bounding_ball(points + jitter, rng=generator)[0]
        jitter = JITTER * generator.standard_normal(points.shape)


def surface_samples(
    vertices: np.ndarray, faces: np.ndarray, count: int, seed: int | tuple[int, ...] = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`count` points (n, 3) float64 uniform by area on a mesh, and their faces (n,) int64."""
    generator = np.random.default_rng(seed)
    corner, first, second = _edges(vertices, faces)
    area = np.linalg.norm(np.cross(first, second), axis=1).cumsum()
    face = np.searchsorted(area, generator.random(count) * area[-1], side="right")
    weights = generator.random((count, 2))
    folded = weights.sum(1) > 1
    weights[folded] = 1 - weights[folded]
    return corner[face] + weights[:, :1] * first[face] + weights[:, 1:] * second[face], face


def _edges(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First corner, and the two edges that leave it, (f, 3) each."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return a, b - a, c - a


def _read(path: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Vertices (v, 3) float64, faces (f, 3) int64 and SHA-256 of a file as it stands."""
    if path == "demo":
        # scikit-image loads slowly, and only the demo needs it here
        from dss.geometry.demo_mesh import demo_mesh

        mesh = demo_mesh()
        vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
        return vertices, faces, hashlib.sha256(vertices.tobytes() + faces.tobytes()).hexdigest()
    if not is_file(path):
        raise InputError(
            f"{path}: no such file; give a mesh ({FORMATS}), or `demo` for the generated one"
        )
    try:
        content = Path(path).read_bytes()
        header = DECLARED.match(content)
        declared = int(header[1] or header[2]) if header else 0
        with _quiet():
            vertices, faces = _parse(path, content, declared)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check the file's permissions"
        ) from error
    except Exception as error:  # readers raise whatever they like on what they cannot parse
        reason = textwrap.shorten(str(error), 80) or type(error).__name__
        remedy = f"give {FORMATS}, complete and under its own suffix"
        raise InputError(f"{path}: not a readable mesh ({reason}); {remedy}") from error
    if len(faces) < declared:
        reason = f"truncated, {len(faces)} of {declared} faces are there"
        raise InputError(f"{path}: {reason}; get the whole file")
    return vertices, faces, hashlib.sha256(content).hexdigest()


def _parse(path: str, content: bytes, declared: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) float64 and faces (f, 3) int64 of a file with this content.

    Its header, if it has one, declares so many faces. trimesh reads what has triangles only.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".off" and OFF_POLYGON.search(content):
        return read_off(path, content)
    try:
        with unicode_name(path) as name:
            scene = trimesh.load_scene(name, process=False, skip_materials=True)
    except Exception:  # of any kind, such as on a binary PLY file with faces of different sizes
        if suffix == ".ply" and len((found := read_ply(path, content))[1]) > declared > 0:
            return found
        raise
    mesh = scene.to_mesh() if scene.geometry else trimesh.Trimesh()
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    if np.isfinite(vertices).all():
        if suffix == ".obj" and OBJ_POLYGON.search(content):
            return read_obj(path, content)
        if suffix == ".ply" and 0 < declared < len(faces):
            return read_ply(path, content)
    return vertices, faces


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the warnings and log lines of mesh readers: what matters is raised or reported."""
    logger = logging.getLogger("trimesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _clean(
    vertices: np.ndarray, faces: np.ndarray, listed: int, path: str
) -> tuple[np.ndarray, np.ndarray, MeshReport]:
    """Clean a mesh of size about 1, see `load_mesh`. The file lists so many vertices."""
    no_volume = InputError(
        f"{path}: encloses no volume (a sheet or a sliver); give a closed surface, or thicken it"
    )
    repairs = []

    def note(count: int, what: str) -> None:
        if count:
            repairs.append(f"{what}: {count:,}")

    vertices, faces = _filter(
        vertices, faces, "meshing_remove_duplicate_vertices", "meshing_remove_unreferenced_vertices"
    )
    note(listed - len(vertices), "duplicate or unreferenced vertices removed")

    kept = _distinct(faces)
    note(len(faces) - len(kept), "coincident faces removed")
    faces = faces[kept]
    if not len(faces):
        raise no_volume

    ends = trimesh.geometry.faces_to_edges(faces)
    _, edge = trimesh.grouping.unique_rows(np.sort(ends, axis=1))
    sides = np.bincount(np.bincount(edge), minlength=3)
    boundary, nonmanifold = int(sides[1]), int(sides[3:].sum())
    links = np.stack([np.repeat(np.arange(len(faces)), 3), len(faces) + edge], 1)
    body = trimesh.graph.connected_component_labels(links, node_count=links.max() + 1)[: len(faces)]
    one_way = np.abs(np.bincount(edge, np.where(ends[:, 0] < ends[:, 1], 1, -1)))
    if one_way.max() > 1 and not nonmanifold:
        turned = _against_neighbours(vertices, faces, body)
        note(int(turned.sum()), "faces turned to agree with their neighbours")
        faces[turned] = faces[turned, ::-1]
    turned = inverted(vertices, faces, body)
    if turned.all():
        repairs.append("inside out, so turned")
    else:
        note(len(np.unique(body[turned])), "bodies that were inside out turned")
    faces[turned] = faces[turned, ::-1]

    before = len(faces)
    vertices, faces = _filter(
        vertices, faces, "meshing_remove_null_faces", "meshing_remove_unreferenced_vertices"
    )
    note(before - len(faces), "zero-area faces removed")
    if not len(faces) or _volume(vertices, faces) < MIN_VOLUME:
        raise no_volume
    sizes = len(vertices), len(faces), int(body.max()) + 1
    return vertices, faces, MeshReport(*sizes, boundary, nonmanifold, tuple(repairs))


def _filter(
    vertices: np.ndarray, faces: np.ndarray, *filters: str
) -> tuple[np.ndarray, np.ndarray]:
    """Apply parameterless MeshLab filters; coordinates stay float64."""
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertices, faces))
    for name in filters:
        meshes.apply_filter(name)
    return _arrays(meshes.current_mesh())


def _arrays(mesh: pymeshlab.Mesh) -> tuple[np.ndarray, np.ndarray]:
    return mesh.vertex_matrix(), mesh.face_matrix().astype(np.int64)


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume between the faces and the mean vertex.

    That vertex lies in the plane of a mesh that is flat, whose volume is then 0.
    """
    corner, first, second = _edges(vertices, faces)
    return ((corner - vertices.mean(0)) * np.cross(first, second)).sum() / 6


def _rolled(faces: np.ndarray) -> np.ndarray:
    """The same oriented triangles, each beginning with its lowest vertex."""
    return np.take_along_axis(faces, (faces.argmin(1)[:, None] + np.arange(3)) % 3, 1)


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Index of the faces to keep: one of those that coincide.

    None is kept where as many look one way as the other: such pairs are membranes between bodies
    that touch. MeshLab would keep one, which makes half of the solid ambiguous.
    """
    rolled = _rolled(faces)
    sign = np.where(rolled[:, 1] < rolled[:, 2], 1, -1)
    _, group = trimesh.grouping.unique_rows(np.sort(faces, axis=1))
    balance = np.sign(np.bincount(group, sign)).astype(int)
    _, first = np.unique(group * 2 + (sign > 0), return_index=True)
    return np.sort(first[sign[first] == balance[group[first]]])


def _against_neighbours(vertices: np.ndarray, faces: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Mask (f,) of the faces to turn so that all faces of a body look the same way.

    That is the way in which most of them look already.
    """
    oriented = _filter(vertices, faces, "meshing_re_orient_faces_coherently")[1]
    turned = (_rolled(oriented) != _rolled(faces)).any(1)
    return turned ^ (np.bincount(body, turned) > 0.5 * np.bincount(body))[body]
