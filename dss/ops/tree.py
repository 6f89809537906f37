"""The tree over the spheres of a shell, in which the kernels find what a ray or a point meets."""

import numpy as np

BRANCHING = 8  # children of a node, and spheres of a leaf
FAR_AWAY = 1e15  # where the unused places of a record are
MARGIN = 1e-6  # by which boxes are larger than their spheres, to cover rounding


def build_tree(spheres: np.ndarray) -> np.ndarray:
    """The records (N, 6, 8) float32 over spheres (S, 5), as kernels/shell.h describes them.

    All leaves are on one level, and full but for rounding: spheres are divided at the median of the
    axis along which their centres spread most.
    """
    centers, outer = spheres[:, :3], spheres[:, 4:]
    levels = 0
    while BRANCHING ** (levels + 1) < len(spheres):
        levels += 1
    first_leaf = (BRANCHING**levels - 1) // (BRANCHING - 1)
    records = np.full((first_leaf + BRANCHING**levels, 6, BRANCHING), FAR_AWAY, np.float32)
    records[first_leaf:, 3:5], records[first_leaf:, 5] = 0, -1

    def divide(index: np.ndarray, count: int) -> list[np.ndarray]:
        if count == 1:
            return [index]
        index = index[np.argsort(centers[index, np.ptp(centers[index], axis=0).argmax()])]
        cut = len(index) * (count // 2) // count
        return divide(index[:cut], count // 2) + divide(index[cut:], count - count // 2)

    def fill(node: int, index: np.ndarray, level: int) -> np.ndarray:
        """Write the records of a node and all below it; its box, low x y z and high x y z."""
        if level == 0:
            records[node, :5, : len(index)] = spheres[index].T
            records[node, 5, : len(index)] = index
        else:
            children = divide(index, -(-len(index) // BRANCHING**level))
            for k, child in enumerate(children):
                records[node, :, k] = fill(BRANCHING * node + 1 + k, child, level - 1)
        low, high = (centers - outer)[index].min(0), (centers + outer)[index].max(0)
        return np.concatenate([low - MARGIN, high + MARGIN])

    fill(0, np.arange(len(spheres)), levels)
    return records
