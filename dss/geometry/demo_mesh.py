"""The mesh that the project generates: a lidded goblet with a woven cage, handles and petals.

It has what makes a surface hard to fit: handles, thin parts, fine relief, sharp edges, and a flame
hidden in the cage. Every part is a closed form in cylindrical coordinates, close to a signed
distance: what displaces or tilts a surface is divided by the gradient that it adds. Lengths are in
the frame of the object, z upwards, about 1.8 high.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pymeshlab
import trimesh
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from dss.geometry.simplify import simplify

FACES = 50_000  # of the result
STEP = 0.01  # between the nodes of the marching cubes
FAR = 0.15  # distances beyond this one need not be exact
BLOCK = 8  # nodes per axis that are evaluated, or skipped, together
# Half the edges of the box around the object; odd numbers, so that no node lies on a cut
EXTENT = np.array([0.803, 0.803, 0.943])


@dataclass(frozen=True)
class Points:
    """Points in cylindrical coordinates."""

    r: np.ndarray  # (n,) distance from the axis
    t: np.ndarray  # (n,) angle, radians
    z: np.ndarray  # (n,) height


def demo_mesh() -> trimesh.Trimesh:
    """The ornament: one watertight body of 50,000 faces, the same at every call."""
    values = _evaluate(_ornament)
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(STEP,) * 3)
    bodies = trimesh.Trimesh(vertices - EXTENT, faces, process=False).split()
    mesh = max(bodies, key=lambda body: len(body.faces))
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces))
    meshes.apply_coord_taubin_smoothing(stepsmoothnum=5)  # the lattice's steps, not the shape
    smooth = meshes.current_mesh()
    smooth = trimesh.Trimesh(smooth.vertex_matrix(), smooth.face_matrix(), process=False)
    return simplify(smooth, FACES, topology=True)


def _evaluate(field: Callable[[Points], np.ndarray]) -> np.ndarray:
    """The field on the lattice of the box; blocks that cannot hold the surface get the value at
    their centre."""
    blocks = np.ceil(2 * EXTENT / (STEP * BLOCK)).astype(int)
    block = np.stack(np.meshgrid(*map(np.arange, blocks), indexing="ij"), -1).reshape(-1, 3)
    corner = block * (STEP * BLOCK) - EXTENT
    node = np.stack(np.meshgrid(*[np.arange(BLOCK)] * 3, indexing="ij"), -1).reshape(-1, 3) * STEP
    center = field(_cylindrical(corner + STEP * (BLOCK - 1) / 2))
    values = np.repeat(center[:, None], len(node), 1)
    # The parts' gradients stay below 1.3
    near = np.abs(center) < STEP * BLOCK * np.sqrt(3) / 2 * 1.3
    nodes = (corner[near, None] + node).reshape(-1, 3)
    values[near] = field(_cylindrical(nodes)).reshape(-1, len(node))
    values = values.reshape(*blocks, *[BLOCK] * 3).transpose(0, 3, 1, 4, 2, 5)
    return values.reshape(blocks * BLOCK)


def _cylindrical(points: np.ndarray) -> Points:
    x, y, z = points.T
    return Points(np.hypot(x, y), np.arctan2(y, x), z)


# Building blocks


def _union(blend: float, *distances: np.ndarray) -> np.ndarray:
    """Union with fillets: the quadratic smooth minimum.

    It differs from the minimum only where two distances are within `blend`.
    """

    def pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.minimum(a, b) - np.maximum(blend - np.abs(a - b), 0) ** 2 / (4 * blend)

    return reduce(pair, distances)


def _between(z: np.ndarray, low: float, high: float) -> np.ndarray:
    """Signed distance to the slab low <= z <= high."""
    return np.maximum(low - z, z - high)


def _share(z: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 at low, 1 at high, and clamped beyond."""
    return np.clip((z - low) / (high - low), 0, 1)


def _fold(angle: np.ndarray, count: int) -> np.ndarray:
    """The angle to the nearest of `count` equally spaced copies."""
    return (angle * count / (2 * np.pi) + 0.5) % 1 * (2 * np.pi / count) - np.pi / count


def _nearest(curve: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (n,), at most FAR, from points (n, 2) to the points (m, 2) of a plane curve.

    And which of these is nearest (n,).
    """
    distance, nearest = cKDTree(curve).query(points, distance_upper_bound=FAR)
    return np.minimum(distance, FAR), np.minimum(nearest, len(curve) - 1)


def _rope(p: Points, radius: float, height: float, thickness: float, turns: int) -> np.ndarray:
    """A ring of three twisted strands."""
    around = np.arctan2(p.z - height, p.r - radius)
    return 0.8 * (
        np.hypot(p.r - radius, p.z - height)
        - thickness * (1 + 0.16 * np.cos(3 * around + turns * p.t))
    )


def _ball(p: Points, height: float, radius: float, stretch: float = 1.0) -> np.ndarray:
    return np.hypot(p.r, (p.z - height) / stretch) - radius


# Parts, from the ground up


def _foot(p: Points) -> np.ndarray:
    """A lobed plate, a bell with twisted flutes, and a knop on the stem."""
    beyond = np.maximum(p.r - 0.27 - 0.012 * np.cos(12 * p.t), 0)
    plate = np.hypot(beyond, np.maximum(np.abs(p.z + 0.845) - 0.018, 0)) - 0.022
    fall = 1 - _share(p.z, -0.86, -0.56)
    bell = 0.75 * (p.r - 0.055 - 0.20 * fall**2.6 - 0.014 * fall * np.cos(16 * (p.t - 1.5 * fall)))
    bell = np.maximum(bell, _between(p.z, -0.87, -0.53))
    stem = np.maximum(p.r - 0.05, _between(p.z, -0.67, -0.43))
    knop = 0.75 * (_ball(p, -0.575, 0.095, 0.74) - 0.009 * np.cos(10 * (p.t + 2.5 * p.z)))
    return _union(0.03, plate, bell, stem, knop)


def _bowl(p: Points) -> np.ndarray:
    """A sphere cut flat, with scales between two families of spirals.

    Mercator's projection keeps the scales square.
    """
    radius = np.hypot(p.r, p.z + 0.20)
    latitude = np.arctan2(p.z + 0.20, p.r)
    spiral = np.arctanh(np.clip(np.sin(latitude), -0.99, 0.99))
    one, other = 1.03 + np.cos(10 * (p.t + spiral)), 1.03 + np.cos(10 * (p.t - spiral))
    scales = np.sqrt(one * other) / 2
    relief = 0.022 * scales * _share(np.cos(latitude), 0.15, 0.45)
    cut = np.maximum(0.8 * (radius - 0.335 - relief), p.z + 0.015)
    return _union(0.02, cut, _rope(p, 0.335, -0.02, 0.036, 21))


def _petals(p: Points) -> np.ndarray:
    """A calyx of thin leaves with a midrib, which open as they rise."""
    rise = np.linspace(0, 1, 600)
    stem = np.stack([0.06 + 0.36 * rise**0.75 + 0.13 * rise**4, -0.55 + 0.49 * rise], 1)
    sheet, nearest = _nearest(stem, np.stack([p.r, p.z], 1))
    angle = _fold(p.t, 7)
    width = 0.03 + 0.14 * np.sqrt(rise) * (1 - rise**3) - 0.03 * rise
    outline = p.r * np.abs(angle) - width[nearest]
    thickness = 0.016 + 0.009 * (1 - rise[nearest]) * np.exp(-((angle * p.r / 0.025) ** 2))
    return np.hypot(sheet, np.maximum(0.8 * outline, 0)) - thickness


def _cage(p: Points) -> np.ndarray:
    """Two families of strands on an onion-shaped surface of revolution, with holes between them."""
    low, high, twist = -0.02, 0.50, 2.0

    def profile(rise: np.ndarray) -> np.ndarray:
        return 0.335 * (1 - rise) ** 0.6 * (1 + 0.8 * rise) + 0.075 * rise

    rise = np.minimum(_share(p.z, low, high), 0.98)
    radius = profile(rise)
    slope = (profile(rise + 0.01) - profile(rise - 0.01)) / (0.02 * (high - low))
    upright = 1 / np.sqrt(1 + slope**2)
    lean = 1 / np.sqrt(1 + (twist / (high - low) * radius * upright) ** 2)
    strands = [
        np.hypot((p.r - radius) * upright, radius * lean * _fold(p.t + way * rise, 7)) - 0.022
        for way in (twist, -twist)
    ]
    return np.maximum(_union(0.015, *strands), _between(p.z, low, high))


def _flame(p: Points) -> np.ndarray:
    """A twisted flame on the bowl, inside the cage."""
    rise = _share(p.z, -0.02, 0.34)
    radius = 0.125 * np.sin(np.pi * rise**0.62) ** 0.9 * (1 - rise) ** 0.25 + 0.004
    flutes = 1 + 0.22 * np.cos(5 * (p.t + 3.2 * rise))
    return np.maximum(0.6 * (p.r - radius * flutes), _between(p.z, -0.04, 0.335))


def _spire(p: Points) -> np.ndarray:
    """A fluted roof that draws out to a needle with two beads."""
    rise = _share(p.z, 0.47, 0.87)
    radius = 0.010 + 0.125 * (1 - rise) ** 3 * (1 + 1.8 * rise)
    flutes = 1 + 0.12 * np.cos(9 * (p.t + 2 * rise)) * np.clip(1 - 1.2 * rise, 0, 1)
    roof = np.maximum(0.75 * (p.r - radius * flutes), _between(p.z, 0.46, 0.88))
    plate = np.hypot(np.maximum(p.r - 0.045, 0), p.z - 0.665) - 0.011
    beads = [_ball(p, 0.73, 0.03), _ball(p, 0.86, 0.018, 1.6)]
    return _union(0.01, _rope(p, 0.11, 0.49, 0.030, 9), roof, plate, *beads)


def _handles(p: Points) -> np.ndarray:
    """Three handles from the bowl to the roof, each with a volute."""
    along = np.linspace(0, 1, 1500)
    radius = [0.30, 0.42, 0.56, 0.59, 0.49, 0.33, 0.22, 0.11]
    height = [-0.22, -0.29, -0.17, 0.08, 0.28, 0.38, 0.50, 0.50]
    nodes = np.stack([radius, height], 1)
    loop = CubicSpline(np.linspace(0, 1, len(nodes)), nodes)
    tangent = loop(0.46, 1) / np.linalg.norm(loop(0.46, 1))
    reach = 0.085 * (1 - along) ** 0.9 + 0.02
    middle = loop(0.46) + reach[0] * np.array([tangent[1], -tangent[0]])
    turn = np.arctan2(*(loop(0.46) - middle)[::-1]) - 3 * np.pi * along
    volute = middle + reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    tip = 0.010 * _share(along, 0.93, 1.0)
    radii = np.concatenate([0.030 - 0.012 * along, 0.022 - 0.008 * along + tip])

    angle = _fold(p.t + np.pi / 3, 3)
    curve, points = np.concatenate([loop(along), volute]), np.stack([p.r * np.cos(angle), p.z], 1)
    distance, nearest = _nearest(curve, points)
    return np.hypot(distance, p.r * np.sin(angle)) - radii[nearest]


def _ornament(p: Points) -> np.ndarray:
    """All parts with fillets between them: (n,), negative inside."""
    parts = (_foot, _bowl, _petals, _cage, _flame, _spire, _handles)
    return _union(0.02, *(part(p) for part in parts))
