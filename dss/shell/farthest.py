"""Key spheres of a solid by the paper's extraction."""

import numpy as np

from dss.errors import InputError
from dss.geometry.distance import MeshDistance

COARSEST = 16  # lattice nodes per edge of the blocks that the search for inside nodes starts from
BATCH = 4096  # exact distances asked for at once
MAX_ROUNDING = 1e-5  # of a float32 distance


def farthest(
    distance: MeshDistance, count: int, resolution: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The DSS authors' key spheres (docs/method.md, section 2), in the order of choice.

    Returns centers (S, 3) and radii (S,), float64. Candidates are the nodes of a resolution^3
    lattice that lie inside. The largest inscribed sphere comes first; then, among those that
    overlap none chosen, the one with the largest min |c_i - c_j| + 2 r_j. A smaller count gives a
    prefix. Raises InputError where the candidates do not suffice.
    """
    nodes, bound = _inside(distance, resolution)
    if len(nodes) < count:
        reason = f"only {len(nodes)} of the {resolution}^3 lattice nodes lie inside the mesh"
        raise _too_few(count, len(nodes), reason)
    # What a candidate's bound is. 0: its block's; 1: its float32 distance; 2: its exact radius
    stage = np.zeros(len(nodes), np.int8)
    nearest = np.zeros(len(nodes))  # distance to the nearest chosen centre
    # Distance to the nearest chosen sphere, which bounds the radius
    free = np.full(len(nodes), np.inf)
    chosen = []
    while True:
        score = nearest + 2 * bound
        while len(score) and stage[best := score.argmax()] < 2:
            batch = _largest(score, BATCH if stage[best] == 0 else BATCH // 32)
            batch = batch[stage[batch] == stage[best]]
            if stage[best] == 0:
                bound[batch] = np.minimum(
                    bound[batch], np.abs(distance.sdf(nodes[batch])) + MAX_ROUNDING
                )
            else:
                radius = distance.exact(nodes[batch])
                bound[batch] = np.where(radius <= free[batch], radius, -np.inf)
            stage[batch] += 1
            score[batch] = nearest[batch] + 2 * bound[batch]
        if score.max(initial=-np.inf) == -np.inf:
            reason = f"only {len(chosen)} spheres on the {resolution}^3 lattice fit without overlap"
            raise _too_few(count, len(chosen), reason)
        center, radius, reach = nodes[best].copy(), bound[best], score[best]
        chosen.append((*center, radius))
        if len(chosen) == count:
            spheres = np.array(chosen)
            return spheres[:, :3], spheres[:, 3]

        if len(chosen) == 1:
            nearest[:], reach = np.inf, np.inf
        # A score is at most `reach`, hence so are a candidate's distance to the nearest centre and
        # twice its radius: farther candidates are not affected by the new sphere.
        slab = slice(*np.searchsorted(nodes[:, 0], [center[0] - reach, center[0] + reach]))
        separation = np.linalg.norm(nodes[slab] - center, axis=1)
        nearest[slab] = np.minimum(nearest[slab], separation)
        free[slab] = np.minimum(free[slab], separation - radius)
        overlapping = (stage[slab] == 2) & (bound[slab] > free[slab])
        bound[slab] = np.where(overlapping, -np.inf, np.minimum(bound[slab], free[slab]))
        bound[slab][free[slab] <= 0] = -np.inf
        alive = bound > -np.inf
        if 2 * alive.sum() < len(alive):
            nodes, bound, stage, nearest, free = (
                array[alive] for array in (nodes, bound, stage, nearest, free)
            )


def _inside(distance: MeshDistance, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """The lattice nodes (N, 3) inside the mesh, in lexical order; bounds (N,) of their distance.

    A block whose nodes are all nearer to its centre than the surface lies on one side of it; the
    other blocks are divided.
    """
    spacing = 2 / resolution

    def position(index: np.ndarray) -> np.ndarray:
        return (index + 0.5) * spacing - 1

    size, axis = COARSEST, np.arange(0, resolution, COARSEST)
    # Every block is given by its lowest node
    blocks = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    found = []
    while True:
        center = position(blocks + (size - 1) / 2)
        sdf = distance.sdf(center).astype(np.float64)
        decided = (np.abs(sdf) > 3**0.5 / 2 * (size - 1) * spacing + MAX_ROUNDING) | (size == 1)
        solid = decided & (sdf < 0)
        nodes = (blocks[solid, None] + np.indices((size,) * 3).reshape(3, -1).T).reshape(-1, 3)
        offset = np.linalg.norm(position(nodes) - center[solid].repeat(size**3, 0), axis=1)
        found.append((nodes, offset - sdf[solid].repeat(size**3) + MAX_ROUNDING))
        if size == 1:
            break
        size //= 2
        corners = size * np.indices((2, 2, 2)).reshape(3, -1).T
        blocks = (blocks[~decided, None] + corners).reshape(-1, 3)
    nodes, bound = (np.concatenate(parts) for parts in zip(*found, strict=True))
    kept = (nodes < resolution).all(1)
    nodes, bound = nodes[kept], bound[kept]
    order = np.lexsort(nodes.T[::-1])
    return position(nodes[order]), bound[order]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Index of the `count` largest values, in no order."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, -count)[-count:]


def _too_few(count: int, found: int, reason: str) -> InputError:
    remedy = f"choose spheres.count <= {found}, or a larger spheres.resolution"
    return InputError(f"spheres.count={count}: {reason}; {remedy}")
