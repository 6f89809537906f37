"""A synthetic collection: parametric shapes, a known share of them with a known defect each.

The same seed gives the same files. What a mesh is, is in collection.csv beside the meshes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from manifold3d import CrossSection, JoinType, Manifold, OpType

from dss.files import replacing
from dss.progress import Progress, silent, tracked
from dss.tables import write_csv

COLUMNS = ("name", "shape", "defect", "severity", "faces")
FORMATS = ("ply", "stl", "obj", "off")  # in turn
PLY_ONLY = ("not_finite", "truncated")  # a PLY file says how much it should hold
SEGMENTS = 32  # of circles

Shape = Callable[[np.random.Generator], trimesh.Trimesh]
# A mesh with a defect, and how bad it is: a share of faces, a number of bodies, a factor
Defect = Callable[[trimesh.Trimesh, np.random.Generator], tuple[trimesh.Trimesh, float]]


@dataclass(frozen=True)
class Item:
    """A mesh of the collection; `content` is what its file holds."""

    name: str
    shape: str
    defect: str
    severity: float
    faces: int
    suffix: str
    content: bytes


def make_collection(
    folder: Path, count: int, seed: int, defects: bool, progress: Progress = silent
) -> list[Path]:
    """Write `count` meshes and collection.csv; the paths of the meshes."""
    items = tracked(collection(count, seed, defects), "meshes", count, progress)
    paths, rows = [], []
    for item in items:
        paths.append(folder / f"{item.name}.{item.suffix}")
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(item.content)
        rows.append({key: getattr(item, key) for key in COLUMNS})
    write_csv(folder / "collection.csv", rows, COLUMNS)
    return paths


def collection(count: int, seed: int, defects: bool) -> Iterator[Item]:
    """`count` meshes. Shapes take turns, and with `defects` so do these and their absence, so that
    each has the same share."""
    kinds = ["none", *DEFECTS] if defects else ["none"]
    for index in range(count):
        generator = np.random.default_rng((seed, index))
        shape, defect = list(SHAPES)[index % len(SHAPES)], kinds[index % len(kinds)]
        suffix, severity, mesh = FORMATS[index % len(FORMATS)], 0.0, SHAPES[shape](generator)
        if defect != "none":
            mesh, severity = DEFECTS[defect](mesh, generator)
        if defect in PLY_ONLY:
            suffix = "ply"
        content = mesh.export(file_type=suffix)
        content = content.encode() if isinstance(content, str) else content
        if defect == "truncated":
            content = content[: int(len(content) * (1 - severity))]
        name = f"{index:04d}_{shape}_{defect}"
        yield Item(name, shape, defect, severity, len(mesh.faces), suffix, content)


def _mesh(solid: Manifold) -> trimesh.Trimesh:
    mesh = solid.to_mesh64()
    return trimesh.Trimesh(mesh.vert_properties[:, :3], mesh.tri_verts, process=False)


def _bored(generator: np.random.Generator) -> trimesh.Trimesh:
    """A box or a ball, less cylinders through it along the axes."""
    size = generator.uniform(1, 2, 3)
    body = Manifold.cube(size, True)
    if generator.random() < 0.5:
        body = Manifold.sphere(1, 2 * SEGMENTS).scale(size / 2)
    for axis in range(generator.integers(1, 4)):
        turn = [90.0 * (axis == 1), 90.0 * (axis == 2), 0.0]
        radius = generator.uniform(0.1, 0.25)
        body -= Manifold.cylinder(4, radius, -1, SEGMENTS, True).rotate(turn)
    return _mesh(body)


def _union(generator: np.random.Generator) -> trimesh.Trimesh:
    """The union of boxes and balls, each of which meets the first one."""
    parts = [Manifold.sphere(0.7, SEGMENTS)]
    for _ in range(generator.integers(2, 7)):
        size, place = generator.uniform(0.3, 0.9, 3), generator.normal(size=3)
        part = Manifold.cube(size, True)
        if generator.random() < 0.5:
            part = Manifold.sphere(0.5, SEGMENTS).scale(size)
        turned = part.rotate(generator.uniform(0, 360, 3))
        parts.append(turned.translate(0.7 * place / np.linalg.norm(place)))
    return _mesh(Manifold.batch_boolean(parts, OpType.Add))


def _knot(generator: np.random.Generator) -> trimesh.Trimesh:
    """A tube along a torus knot."""
    p, q = ((2, 3), (3, 2), (2, 5), (3, 4), (1, 3))[generator.integers(5)]
    along = np.linspace(0, 2 * np.pi, 60 * max(p, q), endpoint=False)
    ring = 1 + 0.4 * np.cos(q * along)
    curve = np.stack([ring * np.cos(p * along), ring * np.sin(p * along)], 1)
    curve = np.column_stack([curve, -0.4 * np.sin(q * along)])
    tangent = np.roll(curve, -1, 0) - np.roll(curve, 1, 0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # From the axis of the torus' tube: continuous around the knot
    center = np.stack([np.cos(p * along), np.sin(p * along), 0 * along], 1)
    first = curve - center
    first -= (first * tangent).sum(1, keepdims=True) * tangent
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = generator.uniform(0.06, 0.11)
    circle = np.cos(around)[:, None] * first[:, None] + np.sin(around)[:, None] * second[:, None]
    vertices = (curve[:, None] + radius * circle).reshape(-1, 3)
    return trimesh.Trimesh(vertices, _grid(len(along), len(around)), process=False)


def _grid(rows: int, columns: int) -> np.ndarray:
    """Faces (2 rows columns, 3) of a torus of vertices."""
    i, j = np.divmod(np.arange(rows * columns), columns)
    below, right = (i + 1) % rows, (j + 1) % columns
    a, b = i * columns + j, below * columns + j
    c, d = below * columns + right, i * columns + right
    return np.concatenate([np.stack([a, c, b], 1), np.stack([a, d, c], 1)])


def _plate(generator: np.random.Generator) -> trimesh.Trimesh:
    """A thin plate with round holes in it."""
    width, depth = generator.uniform(1, 3, 2)
    section = CrossSection.square([width, depth], True).offset(0.1, JoinType.Round)
    for x, y in generator.uniform(-0.5, 0.5, (generator.integers(1, 9), 2)):
        hole = CrossSection.circle(generator.uniform(0.05, 0.15), SEGMENTS)
        section -= hole.translate([x * width, y * depth])
    return _mesh(Manifold.extrude(section, generator.uniform(0.03, 0.15)))


def _lattice(generator: np.random.Generator) -> trimesh.Trimesh:
    """Struts along the edges of a grid of cubes."""
    cells, radius = int(generator.integers(1, 4)), generator.uniform(0.08, 0.2)
    struts = []
    for i, j in np.ndindex(cells + 1, cells + 1):
        strut = Manifold.cylinder(cells, radius, -1, 8)
        struts.append(strut.translate([i, j, 0]))
        struts.append(strut.rotate([0, 90, 0]).translate([0, i, j]))
        struts.append(strut.rotate([-90, 0, 0]).translate([i, 0, j]))
    nodes = np.ndindex(cells + 1, cells + 1, cells + 1)
    balls = [Manifold.sphere(1.3 * radius, 8).translate(list(node)) for node in nodes]
    return _mesh(Manifold.batch_boolean(struts + balls, OpType.Add))


def _nested(generator: np.random.Generator) -> trimesh.Trimesh:
    """Shells in one another, and a core: solids with voids."""
    radii = np.cumsum(generator.uniform(0.12, 0.25, 2 * generator.integers(1, 3) + 1))
    stretch = generator.uniform(0.8, 1.2, 3)
    balls = [Manifold.sphere(radius, SEGMENTS).scale(stretch) for radius in radii]
    body = balls[0]
    for void, ball in zip(balls[1::2], balls[2::2], strict=True):
        body += ball - void
    return _mesh(body)


def _gear(generator: np.random.Generator) -> trimesh.Trimesh:
    """A twisted prism over a toothed outline."""
    teeth, depth = generator.integers(5, 13), generator.uniform(0.1, 0.3)
    angle = np.linspace(0, 2 * np.pi, 12 * teeth, endpoint=False)
    radius = 1 + depth * np.sin(teeth * angle)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    section = CrossSection([outline]) - CrossSection.circle(0.3, SEGMENTS)
    return _mesh(Manifold.extrude(section, 0.8, 8, generator.uniform(-40, 40)))


def _blob(generator: np.random.Generator) -> trimesh.Trimesh:
    """A ball with waves on it."""
    mesh = trimesh.creation.icosphere(4)
    waves = generator.normal(size=(6, 3)) * 3
    phases = generator.uniform(0, 2 * np.pi, 6)
    height = np.sin(mesh.vertices @ waves.T + phases).mean(1)
    vertices = mesh.vertices * (1 + generator.uniform(0.1, 0.4) * height)[:, None]
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


SHAPES: dict[str, Shape] = {
    "bored": _bored, "union": _union, "knot": _knot, "plate": _plate, "lattice": _lattice,
    "nested": _nested, "gear": _gear, "blob": _blob,
}  # fmt: skip


def _holes(mesh: trimesh.Trimesh, generator: np.random.Generator) -> tuple[trimesh.Trimesh, float]:
    """Faces near a few places are missing."""
    share = generator.uniform(0.005, 0.08)
    centers = mesh.triangles_center
    number = generator.integers(1, 4)
    seeds = centers[generator.choice(len(centers), number)]
    nearest = np.linalg.norm(centers[:, None] - seeds, axis=2).min(1).argsort()
    missing = nearest[: max(1, int(share * len(centers)))]
    kept = np.setdiff1d(np.arange(len(centers)), missing)
    return _with_faces(mesh, mesh.faces[kept]), len(missing) / len(centers)


def _bodies(mesh: trimesh.Trimesh, generator: np.random.Generator) -> tuple[trimesh.Trimesh, float]:
    """Copies beside the mesh, which do not touch."""
    number = int(generator.integers(1, 4))
    step = 1.2 * mesh.extents[0]
    parts = [mesh, *(mesh.copy().apply_translation([step * (k + 1), 0, 0]) for k in range(number))]
    return trimesh.util.concatenate(parts), number + 1


def _overlap(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """A turned copy through the mesh: the surface intersects itself."""
    axis, angle = generator.normal(size=3), generator.uniform(0.5, 2.5)
    copy = mesh.copy().apply_transform(
        trimesh.transformations.rotation_matrix(angle, axis, mesh.centroid)
    )
    copy.apply_translation(0.3 * mesh.extents * generator.uniform(-1, 1, 3))
    return trimesh.util.concatenate([mesh, copy]), 2


def _inverted(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """All faces look inwards."""
    return _with_faces(mesh, mesh.faces[:, ::-1]), 1.0


def _inconsistent(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """Some faces look the other way."""
    share = generator.uniform(0.05, 0.45)
    turned = generator.random(len(mesh.faces)) < share
    return _with_faces(mesh, np.where(turned[:, None], mesh.faces[:, ::-1], mesh.faces)), share


def _nonmanifold(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """Fins on some edges, which so have three faces."""
    number = int(generator.integers(1, 20))
    face = generator.choice(len(mesh.faces), number)
    a, b = mesh.faces[face, 0], mesh.faces[face, 1]
    tips = (mesh.vertices[a] + mesh.vertices[b]) / 2
    tips = tips + 0.05 * mesh.scale * mesh.face_normals[face]
    fins = np.stack([b, a, len(mesh.vertices) + np.arange(number)], 1)
    vertices = np.concatenate([mesh.vertices, tips])
    return trimesh.Trimesh(vertices, np.concatenate([mesh.faces, fins]), process=False), number


def _slivers(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """Faces cut so near a corner that two of the three parts are needles."""
    share = generator.uniform(0.05, 0.5)
    cut = generator.random(len(mesh.faces)) < share
    corners, faces = mesh.triangles[cut], mesh.faces[cut]
    weights = np.array([1 - 2e-6, 1e-6, 1e-6])
    tips = len(mesh.vertices) + np.arange(len(faces))
    a, b, c = faces.T
    parts = [np.stack(part, 1) for part in ((a, b, tips), (b, c, tips), (c, a, tips))]
    vertices = np.concatenate([mesh.vertices, np.einsum("k,fkd->fd", weights, corners)])
    whole = np.concatenate([mesh.faces[~cut], *parts])
    return trimesh.Trimesh(vertices, whole, process=False), share


def _internal(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """A second surface just inside, which looks outwards: the solid is on both sides of it."""
    inner = mesh.vertices - 0.002 * mesh.scale * mesh.vertex_normals
    copy = trimesh.Trimesh(inner, mesh.faces, process=False)
    return trimesh.util.concatenate([mesh, copy]), 0.5


def _scale(mesh: trimesh.Trimesh, generator: np.random.Generator) -> tuple[trimesh.Trimesh, float]:
    """Very small or very large, and away from the origin."""
    factor = 10.0 ** generator.uniform(-6, 6)
    shift = generator.uniform(-3, 3, 3)
    vertices = factor * (mesh.vertices + shift)
    return trimesh.Trimesh(vertices, mesh.faces, process=False), factor


def _flat(mesh: trimesh.Trimesh, generator: np.random.Generator) -> tuple[trimesh.Trimesh, float]:
    """Without thickness: what was meant for a solid is a sheet."""
    return trimesh.Trimesh(mesh.vertices * [1, 1, 0], mesh.faces, process=False), 1.0


def _not_finite(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """A few vertices are NaN."""
    vertices = mesh.vertices.copy()
    number = int(generator.integers(1, 6))
    vertices[generator.choice(np.unique(mesh.faces), number, replace=False)] = np.nan
    return trimesh.Trimesh(vertices, mesh.faces, process=False), number


def _truncated(
    mesh: trimesh.Trimesh, generator: np.random.Generator
) -> tuple[trimesh.Trimesh, float]:
    """This share of the file is missing; the mesh is not to blame."""
    return mesh, generator.uniform(0.1, 0.9)


DEFECTS: dict[str, Defect] = {
    "holes": _holes, "bodies": _bodies, "overlap": _overlap, "inverted": _inverted,
    "inconsistent": _inconsistent, "nonmanifold": _nonmanifold, "slivers": _slivers,
    "internal": _internal, "scale": _scale, "flat": _flat, "not_finite": _not_finite,
    "truncated": _truncated,
}  # fmt: skip
REFUSED = ("flat", "not_finite", "truncated")  # that enclose no volume, or are no meshes


def _with_faces(mesh: trimesh.Trimesh, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, faces, process=False)
