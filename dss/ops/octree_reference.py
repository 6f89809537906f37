"""The operator of dss/ops/octree.py in plain torch, and its rule for any field in the voxels."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

MAX_RAYS = 1 << 16  # traced together: bounds memory
MAX_QUERIES = 256  # per ray
STOP = 3e-4  # a hit has |d| less than this, or a mean of two successive d less than 3 times this
FAR = 1e30  # an origin as far away as this meets nothing

# points (k, 3), the number (k,) and the cell (k, 3) of the voxel that is asked -> the field (k,)
Query = Callable[[Tensor, Tensor, Tensor], Tensor]


class Passes(NamedTuple):
    """Where rays are in voxels, sorted by ray, then front to back."""

    ray: Tensor  # (m,)
    voxel: Tensor  # (m,)
    cell: Tensor  # (m, 3) of 2**depth per axis
    entry: Tensor  # (m,)
    exit: Tensor  # (m,)


def octree_trace(
    nodes: Tensor, corners: Tensor, depth: int, extent: float, table: Tensor, output: Tensor,
    origins: Tensor, directions: Tensor, probe: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    query = decoded(corners, depth, extent, table, output)
    return trace_voxels(query, nodes, depth, extent, origins, directions, probe)


def decoded(corners: Tensor, depth: int, extent: float, table: Tensor, output: Tensor) -> Query:
    """The field that a decoder makes of its table: trilinear up to the activation."""
    half, child = 2.0**depth / 2, _children(table.device).to(table)

    def query(points: Tensor, voxel: Tensor, cell: Tensor) -> Tensor:
        place = points * (half / extent) + half - cell  # in the voxel, from 0 to 1
        weights = torch.where(child > 0, place[:, None], 1 - place[:, None]).prod(-1)
        rows = corners[voxel].long()
        hidden = embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
        return hidden.relu() @ output[:-1] + output[-1]

    return query


def trace_voxels(
    query: Query, nodes: Tensor, depth: int, extent: float, origins: Tensor, directions: Tensor,
    probe: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `octree_trace` returns, for the field that `query` is."""
    pairs = zip(origins.split(MAX_RAYS), directions.split(MAX_RAYS), strict=True)
    parts = [_trace(query, nodes, depth, extent, *rays, probe) for rays in pairs]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def passes(nodes: Tensor, depth: int, extent: float, origins: Tensor, unit: Tensor) -> Passes:
    """The voxels that rays with unit directions (n, 3) pass through, level by level. A ray of
    direction 0 passes none."""
    inverse = torch.where(unit.abs() > 1 / FAR, 1 / unit, FAR)
    ray = (unit != 0).any(1).nonzero()[:, 0] if len(nodes) else unit.new_zeros(0).long()
    node, cell = torch.zeros_like(ray), ray.new_zeros(len(ray), 3)
    numbers, entry, exit = torch.arange(8, device=ray.device), unit[:0, 0], unit[:0, 0]
    for level in range(1, depth + 1):
        first, mask = nodes[node].long().unbind(1)
        exists = (mask[:, None] >> numbers) & 1
        parent, number = exists.nonzero(as_tuple=True)
        node = (first[:, None] + exists.cumsum(1) - 1)[parent, number]
        ray, cell = ray[parent], 2 * cell[parent] + _children(ray.device)[number]
        width = 2 / 2.0**level
        sides = [((cell + up) * width - 1) * extent - origins[ray] for up in (0, 1)]
        low, high = (side * inverse[ray] for side in sides)
        entry = low.minimum(high).amax(1).clamp(min=0)
        exit = low.maximum(high).amin(1)
        kept = entry < exit
        ray, node, cell, entry, exit = (x[kept] for x in (ray, node, cell, entry, exit))
    order = entry.argsort(stable=True)
    order = order[ray[order].argsort(stable=True)]
    return Passes(*(x[order] for x in (ray, node - len(nodes), cell, entry, exit)))


def _children(device: torch.device) -> Tensor:
    """The children of a node, and the corners of a voxel, (8, 3)."""
    return torch.cartesian_prod(*[torch.arange(2, device=device)] * 3)


def _trace(
    query: Query, nodes: Tensor, depth: int, extent: float, origins: Tensor, directions: Tensor,
    probe: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    count, length = len(origins), directions.norm(dim=1)
    # the float32 kernel takes such a length for none, too
    fine = length.isfinite() & (length > 0) & (origins.abs() < FAR).all(1)
    origins = origins.masked_fill(~fine[:, None], 0)
    unit = (directions * (1 / length)[:, None]).masked_fill(~fine[:, None], 0)
    way = passes(nodes, depth, extent, origins, unit)
    zeros = torch.zeros(count, dtype=torch.int64, device=origins.device)
    steps, voxels, voxel = zeros.clone(), zeros.clone(), torch.full_like(zeros, -1)
    hit, cell = torch.full_like(length, torch.inf), torch.zeros_like(origins, dtype=torch.int64)
    last = torch.bincount(way.ray, minlength=count).cumsum(0)
    item = last - torch.bincount(way.ray, minlength=count)  # the pass that each ray is in
    t, before = torch.zeros_like(length), torch.full_like(length, torch.nan)
    asked_in = torch.full_like(zeros, -1)
    rays = (item < last).nonzero()[:, 0]
    while len(rays):
        i = item[rays]
        entry = way.entry[i]
        t[rays] = torch.fmax(t[rays], entry)
        ahead = t[rays] < way.exit[i]
        item[rays[~ahead]] += 1
        asked, i, entry = rays[ahead], i[ahead], entry[ahead]
        if len(asked):
            points = origins[asked] + t[asked, None] * unit[asked]
            value = query(points, way.voxel[i], way.cell[i])
            steps[asked] += 1
            voxels[asked] += asked_in[asked] != i
            asked_in[asked] = i
            previous = torch.where(before[asked].isnan(), value, before[asked])
            wall = (value < 0) & (t[asked] <= entry)
            mean = (value + previous).abs() / 2
            found = wall | (value.abs() < STOP) | (mean < 3 * STOP)
            t[asked] = torch.fmax(t[asked] + value, entry)
            before[asked] = value
            now = asked[found]
            hit[now], voxel[now], cell[now] = t[now], way.voxel[i[found]], way.cell[i[found]]
        alive = (item[rays] < last[rays]) & hit[rays].isinf() & (steps[rays] < MAX_QUERIES)
        rays = rays[alive]
    normal, some = torch.zeros_like(origins), voxel >= 0
    points, where = origins[some] + hit[some, None] * unit[some], (voxel[some], cell[some])
    offsets = probe * torch.eye(3, device=points.device, dtype=points.dtype)
    rise = [query(points + x, *where) - query(points - x, *where) for x in offsets]
    normal[some] = normalize(torch.stack(rise, 1), dim=1)
    t = torch.where(some, hit / length, torch.inf)
    return t, voxel, normal, steps.int(), voxels.int()
