"""Sparse octrees of [-1, 1]^3: the cells that a surface touches.

One byte per cell, its mask, says which of its children are touched. The cells of a level are
ordered by parent, then by child number 4 x + 2 y + z; level l has 2**l cells per axis.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt, label

# Also the corners of a cell
CHILDREN = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
MAX_PAIRS = 1 << 17  # of triangle and cell tested at once: bounds memory
SLACK = 1e-9  # cells: two that touch are taken to overlap


def build(vertices: np.ndarray, faces: np.ndarray, depth: int) -> np.ndarray:
    """Child masks (m,) uint8, level by level, of a mesh's octree down to level `depth`.

    Its cells are those (closed) that a triangle touches; vertices (v, 3) float64 in [-1, 1]^3,
    faces (f, 3).
    """
    face, code = np.arange(len(faces)), np.zeros(len(faces), np.int64)
    cell = np.zeros((len(faces), 3), np.int64)
    parents, masks = np.zeros(1, np.int64), []
    for level in range(1, depth + 1):
        triangles = (vertices[faces] + 1) * 2 ** (level - 1)  # in units of cells
        low, high = triangles.min(1)[face, None] - SLACK, triangles.max(1)[face, None] + SLACK
        children = 2 * cell[:, None] + CHILDREN
        parent, child = ((low <= children + 1) & (high >= children)).all(-1).nonzero()
        cell, face, code = children[parent, child], face[parent], 8 * code[parent] + child
        kept = np.concatenate(
            [_overlap(triangles[face[part]], cell[part]) for part in _parts(len(face))]
        )
        cell, face, code = cell[kept], face[kept], code[kept]
        codes = np.unique(code)
        mask = np.zeros(len(parents), np.uint8)
        np.bitwise_or.at(
            mask, np.searchsorted(parents, codes >> 3), (1 << (codes & 7)).astype(np.uint8)
        )
        masks.append(mask)
        parents = codes
    return np.concatenate(masks)


def unpack(masks: np.ndarray, depth: int) -> list[np.ndarray]:
    """The cells (c, 3) int64 of levels 0 to `depth` of an octree with these child masks.

    Raises RuntimeError where the masks are not those of an octree of that depth.
    """
    levels = [np.zeros((1, 3), np.int64)]
    for _ in range(depth):
        mask, masks = masks[: len(levels[-1])], masks[len(levels[-1]) :]
        parent, child = np.nonzero(np.unpackbits(mask[:, None], axis=1, bitorder="little"))
        if not mask.all() or len(mask) < len(levels[-1]):
            break
        levels.append(2 * levels[-1][parent] + CHILDREN[child])
    if len(levels) != depth + 1 or len(masks):
        raise RuntimeError(f"the octree's masks are not those of one of depth {depth}")
    return levels


def occupancy(cells: np.ndarray, size: int) -> np.ndarray:
    """(size, size, size) bool: which cells of a level of `size` per axis are among cells (c, 3)."""
    occupied = np.zeros((size,) * 3, bool)
    occupied[tuple(cells.T)] = True
    return occupied


def corner_rows(cells: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """A number (size + 1,) * 3 int64 for each corner of a level's cells, and how many have one.

    The corners of cells (c, 3) are counted in C order; those of no cell get 0.
    """
    used = np.zeros((size + 1,) * 3, bool)
    used[tuple((cells[:, None] + CHILDREN).reshape(-1, 3).T)] = True
    return np.where(used, used.cumsum().reshape(used.shape) - 1, 0), int(used.sum())


def clearance(cells: np.ndarray, size: int) -> np.ndarray:
    """Distance (size + 1,) * 3 float64, in cells, of each corner of a level to cells (c, 3).

    It is exact: the point of a cell that is nearest to a corner is a corner.
    """
    free = np.ones((size + 1,) * 3, bool)
    free[tuple((cells[:, None] + CHILDREN).reshape(-1, 3).T)] = False
    return distance_transform_edt(free)


def regions(occupied: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected regions of free cells, (n, n, n) int32, and their number.

    Regions count from 1, occupied cells are 0; cells are connected through faces. No surface lies
    in or between the cells of a region, so that one bit says whether it is solid.
    """
    return label(~occupied)


def _parts(count: int) -> list[slice]:
    return [slice(start, start + MAX_PAIRS) for start in range(0, count, MAX_PAIRS)]


def _overlap(triangles: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(m,) bool: which triangles (m, 3 corners, 3) touch their unit cells (m, 3).

    Their bounding boxes are known to touch. Ten separating axes are left to test: the triangle's
    normal, and the cross products of edges (Akenine-Moeller 2001).
    """
    corners = triangles - (cells + 0.5)[:, None]
    edges = np.roll(triangles, -1, 1) - triangles
    axes = [
        np.cross(edges[:, 0], edges[:, 1]),
        *(np.cross(axis, edges[:, edge]) for axis in np.eye(3) for edge in range(3)),
    ]
    touching = np.ones(len(cells), bool)
    for axis in axes:
        along = (corners * axis[:, None]).sum(-1)
        reach = (0.5 + SLACK) * np.abs(axis).sum(-1)
        touching &= (along.min(-1) <= reach) & (along.max(-1) >= -reach)
    return touching
