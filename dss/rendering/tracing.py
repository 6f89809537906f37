"""Sphere tracing: along each ray, the first zero crossing of a field.

With a shell, a ray is marched over its valid intervals only, front to back; without one, through the cube [-1, 1]^3.
The predicted distance is trusted as a step, never as a hit: a hit is a change of sign, and bisection finds its place.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dss import ops
from dss.fields.base import Field

RAYS = 1 << 16  # rays marched together: bounds memory
FLOOR = 2e-4  # least step, so that a ray grazing the surface at less than this distance gets past it
DEPTH = 1e-6  # width of the bracket around a hit


@dataclass(frozen=True)
class Hits:
    """What n rays met."""

    hit: Tensor  # (n,) bool
    t: Tensor  # (n,) float32 distance along the ray, inf on a miss
    normal: Tensor  # (n, 3) float32 unit gradient of the field at the hit, 0 on a miss
    steps: Tensor  # (n,) int64 queries of the field, those that refine the hit included

    @staticmethod
    def joined(parts: list["Hits"]) -> "Hits":
        """Hits of consecutive rays, as one."""
        kind = type(parts[0])
        return kind(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(kind)))


@torch.no_grad()
def trace(field: Field, origins: Tensor, directions: Tensor) -> Hits:
    """First hits of rays, origins (n, 3) and unit directions (n, 3) float32 on the field's device.

    The domain of a field with a shell ends where the ray enters an inner sphere: that is a hit, for the surface was
    crossed before. A ray that starts inside the solid hits at t = 0. A crossing that lies between two queries which
    both see the outside is missed; an exact distance never steps over one thicker than FLOOR.
    """
    network = field.network()
    if network is not None:
        return _fused(field, network, origins, directions)
    return Hits.joined([_trace(field, *rays) for rays in zip(origins.split(RAYS), directions.split(RAYS), strict=True)])


def cube(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays are inside [-1, 1]^3, ahead of their origin: near (n,) and far (n,); near >= far where they never are."""
    sides = torch.stack([(-1 - origins) / directions, (1 - origins) / directions]).nan_to_num(nan=torch.inf)
    return sides.amin(0).amax(1).clamp(min=0), sides.amax(0).amin(1)


def _fused(field: Field, network: ops.Network, origins: Tensor, directions: Tensor) -> Hits:
    traced = ops.shell_trace(field.shell.packed, network, origins, directions, field.owner_rule, tolerance=DEPTH)
    solid = _solid(field, origins)  # in a pocket of the shell too, where the operator sees nothing
    t, normal = traced.t.index_fill(0, solid, 0), traced.normal
    normal[solid] = torch.nn.functional.normalize(field.gradient(origins[solid]), dim=1)
    return Hits(t.isfinite(), t, normal, traced.steps.long())


def _solid(field: Field, origins: Tensor) -> Tensor:
    """Which rays (k,) int64 start inside the solid."""
    near = (origins.abs() <= 1).all(1).nonzero()[:, 0]
    return near[field.sdf(origins[near]) <= 0]


def _trace(field: Field, origins: Tensor, directions: Tensor) -> Hits:
    count = len(origins)
    starts, ends, stop = _domain(field, origins, directions)
    low, high = origins.new_zeros(count), origins.new_full((count,), torch.inf)  # the bracket of each hit
    below, above = torch.zeros_like(low), torch.zeros_like(low)  # the field at its ends
    steps = torch.zeros(count, dtype=torch.int64, device=origins.device)

    def query(rays: Tensor, t: Tensor) -> Tensor:
        steps[rays] += 1
        value = field(origins[rays] + t[:, None] * directions[rays])
        return torch.where(t >= stop[rays], value.clamp(max=0), value)

    solid = _solid(field, origins)
    high[solid] = 0
    starts[solid] = torch.inf

    rays = starts[:, 0].isfinite().nonzero()[:, 0]
    segment = torch.zeros_like(rays)
    t = starts[rays, 0]
    before, value_before = t, torch.zeros_like(t)
    while len(rays):
        value = query(rays, t)
        hit = value <= 0
        found = rays[hit]
        low[found], high[found], below[found], above[found] = before[hit], t[hit], value_before[hit], value[hit]
        end = ends[rays, segment]
        segment = segment + (t >= end)
        fresh = starts[rays, segment]
        after = torch.where(t >= end, fresh, (t + value.clamp(min=FLOOR)).minimum(end))
        keep = ~hit & after.isfinite()
        before, value_before = torch.where(t >= end, fresh, t)[keep], value[keep]
        rays, segment, t = rays[keep], segment[keep], after[keep]

    hit = high.isfinite()
    rays = (hit & (high - low > DEPTH)).nonzero()[:, 0]
    high[rays] = _refine(lambda which, t: query(rays[which], t), low[rays], high[rays], below[rays], above[rays])
    normal = torch.zeros_like(origins)
    points = origins[hit] + high[hit, None] * directions[hit]
    normal[hit] = torch.nn.functional.normalize(torch.cat([field.gradient(chunk) for chunk in points.split(RAYS)]), dim=1)
    return Hits(hit, high, normal, steps)


def _domain(field: Field, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Disjoint segments to march, front to back: starts and ends (n, k + 1), padded with inf; and where solid begins (n,)."""
    if field.shell is None:
        near, far = cube(origins, directions)
        starts, ends = torch.where(near < far, near, torch.inf)[:, None], far[:, None]
        stop = torch.full_like(near, torch.inf)
    else:
        found = ops.shell_intervals(field.shell.packed, origins, directions)
        ray, stop = found.ray, found.stop
        place = torch.arange(len(ray), device=ray.device) - found.offsets[ray]
        count = int(found.offsets.diff().max()) if len(ray) else 1
        starts = origins.new_full((len(origins), count), torch.inf)
        ends = -starts
        starts[ray, place], ends[ray, place] = found.start, found.end
        reach = ends.cummax(1).values
        gap = torch.cat([torch.ones_like(starts[:, :1], dtype=torch.bool), starts[:, 1:] > reach[:, :-1]], 1)
        segment = gap.cumsum(1) - 1
        starts = torch.full_like(starts, torch.inf).scatter_reduce(1, segment, starts, "amin")
        ends = torch.full_like(ends, -torch.inf).scatter_reduce(1, segment, ends, "amax")
    pad = torch.full_like(starts[:, :1], torch.inf)
    return torch.cat([starts, pad], 1), torch.cat([ends, pad], 1), stop


def _refine(query: Callable[[Tensor, Tensor], Tensor], low: Tensor, high: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """The crossing (n,) between `low`, where the field is positive, and `high`, where it is not, to DEPTH.

    False position and bisection by turns: fast where the field is smooth, and safe across the seams between spheres.
    """
    result = high.clone()
    active = torch.arange(len(low), device=low.device)
    secant = True
    while len(active):
        width = high - low
        root = low + width * below / (below - above)
        middle = root if secant else low + width / 2
        depth = (1e-6 * high).clamp(min=DEPTH)  # float32 knows no less
        # Where the root is as good as at one end, a query just beyond it closes the bracket.
        middle = torch.where(root - low < depth / 2, low + 0.75 * depth, middle)
        middle = torch.where(high - root < depth / 2, high - 0.75 * depth, middle)
        value = query(active, middle)
        inside = value <= 0
        high, above = torch.where(inside, middle, high), torch.where(inside, value, above)
        low, below = torch.where(inside, low, middle), torch.where(inside, below, value)
        result[active] = high
        keep = high - low > depth
        active, low, high, below, above = (item[keep] for item in (active, low, high, below, above))
        secant = not secant
    return result
