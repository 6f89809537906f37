"""Which bodies of a mesh are inside out.

A closed body whose signed volume is negative is either a void in another body, and means to be, or
was made the wrong way round.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np
import trimesh

if TYPE_CHECKING:
    from dss.geometry.distance import MeshDistance

WITNESSES = 8  # places on a body that say whether it lies inside another
THIN = 1e-9  # of area^(3/2): less volume than that does not tell in from out


def inverted(vertices: np.ndarray, faces: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Mask (f,) of the faces to turn so that bodies look outwards, and voids into their holes.

    `body` (f,) int64 numbers the bodies of the faces. A mesh of negative volume is turned as a
    whole. After that, each closed body of negative volume that does not lie in the solid of larger
    ones is turned, with everything inside it, so that its own voids stay voids. Bodies with holes
    are left as they are.
    """
    corners = vertices[faces] - vertices.mean(0)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    volume = np.bincount(body, (corners[:, 0] * normal).sum(1)) / 6
    area = np.bincount(body, np.linalg.norm(normal, axis=1)) / 2
    sign = np.full(len(volume), -1 if volume.sum() < 0 else 1)
    wrong = _closed(faces, body) & (sign * volume < -THIN * area**1.5)
    if not wrong.any():
        return sign[body] < 0

    bodies = np.split(np.argsort(body, kind="stable"), np.bincount(body).cumsum()[:-1])
    low, high = np.full((len(bodies), 3), np.inf), np.full((len(bodies), 3), -np.inf)
    np.minimum.at(low, body, corners.min(1))
    np.maximum.at(high, body, corners.max(1))

    @functools.cache
    def distance(index: int) -> "MeshDistance":
        # loads Warp, which only meshes with inverted bodies need here
        from dss.geometry.distance import MeshDistance

        return MeshDistance(vertices, faces[bodies[index]])

    def winding(outer: int, inner: int) -> float:
        """Of the outer body, as it is in the file, around most places on the inner one."""
        some = bodies[inner][np.linspace(0, len(bodies[inner]) - 1, WITNESSES).astype(int)]
        return float(np.median(distance(outer).winding(vertices[faces[some]].mean(1))))

    size = (high - low).max(1)
    for index in sorted(np.flatnonzero(wrong), key=lambda index: -size[index]):
        if sign[index] * volume[index] > 0:
            continue  # was turned along with a larger one
        around = (low <= low[index]).all(1) & (high >= high[index]).all(1)
        within = (low >= low[index]).all(1) & (high <= high[index]).all(1)
        around[index] = within[index] = False
        if sum(sign[outer] * winding(outer, index) for outer in np.flatnonzero(around)) > 0.5:
            continue
        turned = [inner for inner in np.flatnonzero(within) if abs(winding(index, inner)) > 0.5]
        sign[[index, *turned]] *= -1
    return sign[body] < 0


def _closed(faces: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Mask of the bodies whose faces pass each edge as often in one direction as in the other."""
    ends = trimesh.geometry.faces_to_edges(faces)
    _, edge = trimesh.grouping.unique_rows(np.sort(ends, axis=1))
    balance = np.bincount(edge, np.where(ends[:, 0] < ends[:, 1], 1, -1))
    closed = np.ones(body.max() + 1, bool)
    closed[body.repeat(3)[balance[edge] != 0]] = False
    return closed
