"""Sphere tracing: along each ray, the first zero crossing of a field.

With a shell, a ray is marched over its valid intervals only, front to back; without one, through
the cube [-1, 1]^3. The predicted distance is trusted as a step, never as a hit: a hit is a change
of sign, and bisection finds its place.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dss import ops
from dss.fields.base import Field

MAX_RAYS = 1 << 16  # marched together: bounds memory
MIN_STEP = 2e-4  # so that a ray that grazes the surface at less than this distance gets past it
MAX_BRACKET = 1e-6  # width of the bracket around a hit


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
        return kind(
            *(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(kind))
        )


@torch.no_grad()
def trace(field: Field, origins: Tensor, directions: Tensor) -> Hits:
    """First hits of rays, origins (n, 3) and unit directions (n, 3) float32 on the field's device.

    In a shell, a ray ends where it enters an inner sphere: that is a hit, because the surface was
    crossed before. A ray that starts inside the solid hits at t = 0. A part of the solid that lies
    between two queries which both see the outside is missed; an exact distance never steps over one
    thicker than MIN_STEP. On CUDA the operator multiplies in 16 bits; `rounding` tells the error.
    """
    network = None if ops.is_eager() else tracing_network(field)
    if network is not None:
        return _fused(field, network, origins, directions)
    chunks = zip(origins.split(MAX_RAYS), directions.split(MAX_RAYS), strict=True)
    return Hits.joined([_trace(field, *rays) for rays in chunks])


def tracing_network(field: Field) -> ops.Network | None:
    """The field's network as rays are traced in it: with products of 16 bits on CUDA, whose tensor
    cores are many times faster with them. Distances and gradients are asked for in 32 bits."""
    network = field.network()
    return network and network._replace(half=network.table.is_cuda)


@torch.no_grad()
def rounding(field: Field, origins: Tensor, directions: Tensor) -> dict[str, float]:
    """By how much `trace` on this field's device differs from itself in 32 bits: the mean change of
    the depth of rays that hit both times, `rounding`, and the share that hit once, `rounded_hits`.

    Empty where it does not round: on the CPU, and for fields that the operator does not trace.
    """
    network = tracing_network(field)
    if network is None or not network.half:
        return {}
    shell, rule = field.shell.packed, field.owner_rule
    rounded, full = (
        ops.shell_trace(shell, net, origins, directions, rule, tolerance=MAX_BRACKET).t
        for net in (network, network._replace(half=False))
    )
    both = rounded.isfinite() & full.isfinite()
    return {
        "rounding": (rounded - full)[both].abs().mean().item(),
        "rounded_hits": (rounded.isfinite() != full.isfinite()).float().mean().item(),
    }


def cube(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays are inside [-1, 1]^3, ahead of their origin: from near (n,) to far (n,).

    near >= far where they never are.
    """
    sides = torch.stack([(-1 - origins) / directions, (1 - origins) / directions])
    sides = sides.nan_to_num(nan=torch.inf)
    return sides.amin(0).amax(1).clamp(min=0), sides.amax(0).amin(1)


def _fused(field: Field, network: ops.Network, origins: Tensor, directions: Tensor) -> Hits:
    """Trace by the operator, which does the whole loop in one pass."""
    shell, rule = field.shell.packed, field.owner_rule
    traced = ops.shell_trace(shell, network, origins, directions, rule, tolerance=MAX_BRACKET)
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
    # The bracket of each hit, and the field at its ends
    low, high = origins.new_zeros(count), origins.new_full((count,), torch.inf)
    below, above = torch.zeros_like(low), torch.zeros_like(low)
    steps = torch.zeros(count, dtype=torch.int64, device=origins.device)

    def query(rays: Tensor, t: Tensor) -> Tensor:
        steps[rays] += 1
        value = field(origins[rays] + t[:, None] * directions[rays])
        return torch.where(t >= stop[rays], value.clamp(max=0), value)

    solid = _solid(field, origins)
    high[solid] = 0
    starts[solid] = torch.inf

    rays = starts[:, 0].isfinite().nonzero()[:, 0]
    interval = torch.zeros_like(rays)
    t = starts[rays, 0]
    before, value_before = t, torch.zeros_like(t)
    while len(rays):
        value = query(rays, t)
        hit = value <= 0
        found = rays[hit]
        low[found], high[found] = before[hit], t[hit]
        below[found], above[found] = value_before[hit], value[hit]
        end = ends[rays, interval]
        interval = interval + (t >= end)
        fresh = starts[rays, interval]
        after = torch.where(t >= end, fresh, (t + value.clamp(min=MIN_STEP)).minimum(end))
        keep = ~hit & after.isfinite()
        before, value_before = torch.where(t >= end, fresh, t)[keep], value[keep]
        rays, interval, t = rays[keep], interval[keep], after[keep]

    hit = high.isfinite()
    rays = (hit & (high - low > MAX_BRACKET)).nonzero()[:, 0]
    brackets = (value[rays] for value in (low, high, below, above))
    high[rays] = _refine(lambda which, t: query(rays[which], t), *brackets)
    normal = torch.zeros_like(origins)
    points = origins[hit] + high[hit, None] * directions[hit]
    gradient = torch.cat([field.gradient(chunk) for chunk in points.split(MAX_RAYS)])
    normal[hit] = torch.nn.functional.normalize(gradient, dim=1)
    return Hits(hit, high, normal, steps)


def _domain(field: Field, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Disjoint intervals to march, front to back, and where solid begins (n,).

    Starts and ends (n, k + 1) are padded with inf.
    """
    if field.shell is None:
        near, far = cube(origins, directions)
        starts, ends = torch.where(near < far, near, torch.inf)[:, None], far[:, None]
        stop = torch.full_like(near, torch.inf)
    else:
        found = ops.shell_intervals(field.shell.packed, origins, directions)
        merged, stop = found.merged(), found.stop
        ray, count = merged.ray, int(merged.offsets.diff().max()) if len(merged.start) else 1
        place = torch.arange(len(ray), device=ray.device) - merged.offsets[ray]
        starts = origins.new_full((len(origins), count), torch.inf)
        ends = starts.clone()
        starts[ray, place], ends[ray, place] = merged.start, merged.end
    pad = torch.full_like(starts[:, :1], torch.inf)
    return torch.cat([starts, pad], 1), torch.cat([ends, pad], 1), stop


def _refine(
    query: Callable[[Tensor, Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    below: Tensor,
    above: Tensor,
) -> Tensor:
    """The crossing (n,) between `low`, where the field is positive, and `high`, where it is not.

    It is found to MAX_BRACKET. False position and bisection take turns: fast where the field is
    smooth, and safe across the seams between spheres. `below` and `above` (n,) are the field at
    `low` and `high`; `query` gives it for an index (k,) of rays and distances (k,) along them.
    """
    result = high.clone()
    active = torch.arange(len(low), device=low.device)
    secant = True
    while len(active):
        width = high - low
        root = low + width * below / (below - above)
        middle = root if secant else low + width / 2
        narrow = (1e-6 * high).clamp(min=MAX_BRACKET)  # float32 knows no narrower bracket
        # Where the root is as good as at one end, a query just beyond it closes the bracket.
        middle = torch.where(root - low < narrow / 2, low + 0.75 * narrow, middle)
        middle = torch.where(high - root < narrow / 2, high - 0.75 * narrow, middle)
        value = query(active, middle)
        inside = value <= 0
        high, above = torch.where(inside, middle, high), torch.where(inside, value, above)
        low, below = torch.where(inside, low, middle), torch.where(inside, below, value)
        result[active] = high
        keep = high - low > narrow
        active, low, high, below, above = (item[keep] for item in (active, low, high, below, above))
        secant = not secant
    return result
