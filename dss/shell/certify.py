"""From key spheres to a dual shell that provably encloses the surface.

A ball is convex, so a triangle whose three corners lie in one ball lies in it. Halving the other
triangles at their longest edges until each piece lies in one ball, or in the union of two, is a
proof, not a sample. Geometry is float64 on the float32 values that a `DualShell` stores.
"""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import surface_samples
from dss.shell.dual_shell import DualShell

SAMPLES = 1_200_000  # surface samples that set the outer radii (docs/method.md, section 3)
MARGIN = 1e-4  # added to every outer radius by the paper's code; here also the minimum thickness
# Radii are proven with this much to spare: a float32 evaluation of |x - c| < R loses less
ROUNDING = 1e-6
MIN_EDGE = 1e-4  # of an uncovered piece that is halved; a shorter one enlarges a sphere
# Uncovered at a time, which takes about 2 GiB. Ordinary meshes have thousands; a rod of 64 sides
# among 256 spheres, which meet along circles that no ball has to spare, has 1.6 million
MAX_PIECES = 1 << 22
# As thick as that for the solid, a shell makes a field lose parts: a plate in one of 2.8 times its
# thickness was fitted in one piece, and one in a shell of 9 times not at all
THICK = 5
THICK_SAMPLES = 20_000  # surface samples that tell how much of the shell is
RAY_START = 1e-5  # from the surface, so that a ray does not hit the face where it begins


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


def thick_share(distance: MeshDistance, shell: DualShell, seed: int = 0) -> float:
    """The share of the surface, by area, where the shell is over THICK times as thick as the solid.

    A field has to tell two surfaces apart there that lie close together in its interlayer.
    """
    points, face = surface_samples(distance.vertices, distance.faces, THICK_SAMPLES, seed)
    inward = -distance.normals.cpu().numpy()[face]
    through, _ = distance.raycast(points + RAY_START * inward, inward)
    on_surface = torch.tensor(points, dtype=torch.float32, device=shell.centers.device)
    thickness = shell.thickness[shell.owner(on_surface, "relative")].cpu().numpy()
    return float((thickness > THICK * (through + RAY_START)).mean())


def enclose(triangles: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The radii (S,), enlarged so that the union of the balls holds the triangles (n, 3, 3).

    A corner of a piece outside all balls enlarges the one nearest to it; so does a whole piece that
    is too small to be halved. Raises InputError where more than MAX_PIECES remain at a time.
    """
    radii = radii.copy()

    def hold(groups: np.ndarray) -> None:
        groups = groups[nearest_sphere(groups, centers, radii, 0.0)[1] < 0]
        gap, index = nearest_sphere(groups, centers, radii)
        np.maximum.at(radii, index, radii[index] + gap)

    hold(np.unique(triangles.reshape(-1, 1, 3), axis=0))
    while len(triangles):
        triangles = triangles[nearest_sphere(triangles, centers, radii, 0.0)[1] < 0]
        triangles = triangles[~_in_two_balls(triangles, centers, radii)]
        edges = np.linalg.norm(np.roll(triangles, -1, 1) - triangles, axis=2)
        small = edges.max(1) <= MIN_EDGE
        hold(triangles[small])
        triangles, middles = _halves(triangles[~small], edges[~small].argmax(1))
        if len(triangles) > MAX_PIECES:
            reason = f"would cut its faces into more than {MAX_PIECES:,} pieces"
            raise InputError(
                f"the proof that {len(radii)} spheres enclose the mesh {reason}: too many narrow "
                "faces cross from sphere to sphere; choose another spheres.count, or a mesh of "
                "fewer faces"
            )
        hold(middles[:, None])
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
            value = np.sqrt(squared_distances(groups[near], center).max(1)) - radius
            better = value < gap[near]
            near, value = near[better], value[better]
            gap[near], index[near] = value, sphere
        far = gap[todo] > step  # a sphere out of reach may be nearer than what was found
        gap[todo[far]], index[todo[far]] = np.inf, -1
        if reach is not None:
            break
        todo, step = todo[far], 4 * step
    return gap, index


def squared_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared distances (...) of points (..., 3) from centers (..., 3 or more).

    One coordinate at a time: numpy is several times slower along a last axis of three.
    """
    x, y, z = (points[..., axis] - centers[..., axis] for axis in range(3))
    return x * x + y * y + z * z


def _in_two_balls(pieces: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Mask (n,) of the triangles (n, 3, 3) proven to lie in the union of two balls.

    They are those that hold the corners best. The plane where their spheres meet cuts a triangle
    into two convex parts, each in its ball if its corners are: the triangle's own, which are held,
    and those on the plane.
    """
    owner = nearest_sphere(pieces.reshape(-1, 1, 3), centers, radii, 0.0)[1].reshape(-1, 3)
    first, second = owner.min(1), owner.max(1)
    proven = (first >= 0) & ((owner == first[:, None]) | (owner == second[:, None])).all(1)
    pieces, pair = pieces[proven], np.stack([first, second])[:, proven]

    def power(points: np.ndarray, ball: np.ndarray) -> np.ndarray:
        return squared_distances(points, centers[ball][:, None]) - radii[ball, None] ** 2

    start = power(pieces, pair[0]) - power(pieces, pair[1])  # 0 on the plane, and linear
    end = np.roll(start, -1, 1)
    cut = (start < 0) != (end < 0)
    share = np.divide(start, start - end, out=np.zeros_like(start), where=cut)
    crossing = pieces + share[:, :, None] * (np.roll(pieces, -1, 1) - pieces)
    proven[proven] = (~cut | (power(crossing, pair[0]) <= 0)).all(1)
    return proven


def _halves(pieces: np.ndarray, edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both halves (2 n, 3, 3) of triangles (n, 3, 3), and the midpoints (n, 3) that part them.

    Each is cut from the middle of its edge (n,), which begins at the corner of that number.
    """
    corner = (edge[:, None] + np.arange(3)) % 3
    a, b, c = np.take_along_axis(pieces, corner[:, :, None], 1).transpose(1, 0, 2)
    middle = (a + b) / 2
    halves = np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)
    return np.concatenate(halves), middle


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """The largest float32 numbers not above `values`, as float64."""
    nearest = values.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > values, below, nearest).astype(np.float64)


def _float64(buffer: Tensor) -> np.ndarray:
    return buffer.cpu().numpy().astype(np.float64)
