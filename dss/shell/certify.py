"""From key spheres to a dual shell that provably encloses the surface.

A ball is convex, so a triangle whose three corners lie in one ball lies in it. Splitting the other
triangles 1 -> 4 until each piece does is a proof, not a sample. Geometry is float64 on the float32
values that a `DualShell` stores.
"""

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import surface_samples
from dss.shell.dual_shell import DualShell

SAMPLES = 1_200_000  # surface samples that set the outer radii (docs/method.md, section 3)
MARGIN = 1e-4  # added to every outer radius by the paper's code; here also the minimum thickness
# Radii are proven with this much to spare: a float32 evaluation of |x - c| < R loses less
ROUNDING = 1e-6
MIN_EDGE = 1e-4  # of an uncovered piece that is split; a shorter one enlarges a sphere


def build_shell(
    vertices: np.ndarray,
    faces: np.ndarray,
    centers: np.ndarray,
    radii: np.ndarray,
    outer: np.ndarray | None = None,
    seed: int = 0,
) -> DualShell:
    """The dual shell of a mesh (v, 3), (f, 3) for given inner spheres (S, 3), (S,).

    Outer spheres are enlarged until `certify` finds no leak. They begin with the `outer` radii
    (S,), or else with those of the paper's rule (docs/method.md, section 3): each surface sample
    belongs to the inner sphere with the least |p - c| - r, and an outer sphere reaches its farthest
    sample plus 1e-4.
    """
    stored = centers.astype(np.float32).astype(np.float64)
    inner = _rounded_down(np.maximum(radii - np.linalg.norm(stored - centers, axis=1), 0))
    if outer is None:
        samples, _ = surface_samples(vertices, faces, SAMPLES, seed)
        gap, owner = nearest_sphere(samples[:, None], stored, inner)
        outer = inner.copy()
        np.maximum.at(outer, owner, inner[owner] + gap)
        outer += MARGIN
    outer = np.maximum(outer, inner + MARGIN)
    return DualShell(
        stored, inner, enclose(vertices[faces], stored, outer - ROUNDING) + 2 * ROUNDING
    )


def certify(vertices: np.ndarray, faces: np.ndarray, shell: DualShell) -> float:
    """By how much an outer sphere must grow, at most, for a proof that the shell encloses the mesh.

    0.0: it is proven.
    """
    centers, radii = _float64(shell.centers), _float64(shell.outer_radii)
    return float((enclose(vertices[faces], centers, radii - ROUNDING) - (radii - ROUNDING)).max())


def solid(distance: MeshDistance, shell: DualShell) -> np.ndarray:
    """(S,) bool: which inner spheres lie in the solid.

    Their centres do, and the surface is no nearer than their radii. A float32 mesh file,
    normalised, may differ by 1e-6 from the mesh that the spheres were made for, which is allowed.
    """
    centers, radii = _float64(shell.centers), _float64(shell.inner_radii)
    return (distance.winding(centers) > 0.5) & (distance.exact(centers) >= radii - ROUNDING)


def enclose(triangles: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The radii (S,), enlarged so that every piece of the triangles (n, 3, 3) lies in a ball.

    A corner outside all balls enlarges the one nearest to it; so does a whole piece that is too
    small to be split.
    """
    radii = radii.copy()

    def hold(groups: np.ndarray) -> None:
        groups = groups[nearest_sphere(groups, centers, radii, 0.0)[1] < 0]
        gap, index = nearest_sphere(groups, centers, radii)
        np.maximum.at(radii, index, radii[index] + gap)

    while len(triangles):
        hold(np.unique(triangles.reshape(-1, 1, 3), axis=0))
        triangles = triangles[nearest_sphere(triangles, centers, radii, 0.0)[1] < 0]
        small = np.linalg.norm(triangles - np.roll(triangles, 1, 1), axis=2).max(1) <= MIN_EDGE
        hold(triangles[small])
        triangles = _split(triangles[~small])
    return radii


def nearest_sphere(
    groups: np.ndarray, centers: np.ndarray, radii: np.ndarray, reach: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The sphere that needs the least enlargement to hold each group of points (n, k, 3).

    Returns gap (n,) = min over spheres of max over the group of |x - c| - r, and that sphere (n,)
    int64. With `reach`, groups without a sphere within it get an infinite gap and -1; without,
    every group is answered.
    """
    gap, index = np.full(len(groups), np.inf), np.full(len(groups), -1)
    todo, step = np.arange(len(groups)), 0.02 if reach is None else reach
    while len(todo):
        tree = cKDTree(groups[todo, 0], balanced_tree=False, compact_nodes=False)
        for sphere, (center, radius) in enumerate(zip(centers, radii, strict=True)):
            near = todo[tree.query_ball_point(center, max(radius + step, 0), return_sorted=False)]
            value = np.linalg.norm(groups[near] - center, axis=2).max(1) - radius
            better = value < gap[near]
            near, value = near[better], value[better]
            gap[near], index[near] = value, sphere
        far = gap[todo] > step  # a sphere out of reach may be nearer than what was found
        gap[todo[far]], index[todo[far]] = np.inf, -1
        if reach is not None:
            break
        todo, step = todo[far], 4 * step
    return gap, index


def _split(pieces: np.ndarray) -> np.ndarray:
    """Each triangle (n, 3, 3) as four, by the midpoints of its edges."""
    a, b, c = pieces[:, 0], pieces[:, 1], pieces[:, 2]
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.concatenate([np.stack(corner, 1) for corner in corners])


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """The largest float32 numbers not above `values`, as float64."""
    nearest = values.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > values, below, nearest).astype(np.float64)


def _float64(buffer: Tensor) -> np.ndarray:
    return buffer.cpu().numpy().astype(np.float64)
