"""Tracing rays through a sparse octree whose voxels hold features, as NGLOD does (docs/method.md,
section 10)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dss.errors import InputError
from dss.ops.calls import call, check

MAX_DEPTH = 8  # of an octree that is traced: the kernel's stack is made for it
PADDING = 16  # floats: rows of a decoder's table are filled up to a multiple of it


class Octree(NamedTuple):
    """A sparse octree of the cube [-extent, extent]^3; `pack_octree` makes it.

    Inner nodes are ordered by level, then by parent, then by child number 4 x + 2 y + z. Of a node
    `nodes` has the number of its first child, the others follow, and the mask of the children that
    there are. Numbers from N on are the voxels of the finest level.
    """

    nodes: Tensor  # (N, 2) int32
    corners: Tensor  # (V, 8) int32: rows of the decoder's table for a voxel's corners
    depth: int  # level of the voxels, of which there are 2**depth per axis
    extent: float


class Decoder(NamedTuple):
    """A network with one hidden layer, f = b + sum_k w_k relu(h_k), of point and features.

    Both are trilinear in a voxel, hence so is h, and its values at the corners are all there is to
    know of the first layer.
    """

    table: Tensor  # (C, width) float32: h at each corner
    output: Tensor  # (width + 1,) float32: w, then b


class VoxelHits(NamedTuple):
    """First hits of n rays."""

    t: Tensor  # (n,) float32 in units of the direction's length, inf: no hit
    voxel: Tensor  # (n,) int64 that was asked for the hit, -1: no hit
    normal: Tensor  # (n, 3) float32 unit central differences of the voxel's decoder, 0: no hit
    steps: Tensor  # (n,) int32: queries of the decoder, without those for the normal
    voxels: Tensor  # (n,) int32: voxels in which it was asked


def pack_octree(masks: np.ndarray, corners: np.ndarray, depth: int, extent: float) -> Octree:
    """From the child masks (N,) uint8 of all levels above `depth`, see dss/geometry/octree.py, and
    the rows (V, 8) of the voxels' corners."""
    counts = np.bitwise_count(masks).astype(np.int64)
    first = 1 + counts.cumsum() - counts
    voxels = len(corners)
    if not 1 <= depth <= MAX_DEPTH or len(masks) + voxels != 1 + counts.sum():
        raise InputError(
            f"pack_octree: {len(masks)} nodes, {voxels} voxels: not an octree of depth {depth}"
        )
    nodes = torch.from_numpy(np.stack([first, masks], 1).astype(np.int32))
    return Octree(nodes, torch.from_numpy(corners.astype(np.int32)), depth, extent)


@torch.no_grad()
def octree_trace(
    octree: Octree, decoder: Decoder, origins: Tensor, directions: Tensor, probe: float
) -> VoxelHits:
    """First hits of rays, origins and directions (n, 3) float32, by NGLOD's rule (docs/method.md,
    section 10). `probe` is the step of the central differences for the normals."""
    op, (table, output) = "octree_trace", decoder
    origins = check(op, "origins", origins, (None, 3), table, torch.float32)
    directions = check(op, "directions", directions, (len(origins), 3), table, torch.float32)
    table = check(op, "decoder.table", table, (None, None), origins)
    output = check(op, "decoder.output", output, (table.shape[1] + 1,), origins)
    nodes = check(op, "octree.nodes", octree.nodes, (None, 2), origins, torch.int32)
    corners = check(op, "octree.corners", octree.corners, (None, 8), origins, torch.int32)
    if len(corners) and not corners.is_cuda:
        low, high, count = int(corners.min()), int(corners.max()), len(table)
        if low < 0 or high >= count:
            raise InputError(f"{op}: octree.corners must be 0 to {count - 1}, got {low} to {high}")
    if missing := -table.shape[1] % PADDING:
        table = torch.nn.functional.pad(table, (0, missing))
        output = torch.cat([output[:-1], output.new_zeros(missing), output[-1:]])
    tree = (nodes, corners, octree.depth, octree.extent)
    return VoxelHits(*call(op, *tree, table, output, origins, directions, probe))
