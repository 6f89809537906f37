"""The paper's tracer, rule by rule (docs/method.md, section 7).

It is here to reproduce the paper's pictures and counts, not to find the surface. Every valid
interval is marched by itself with its own sphere's latent; each ray then chooses among the hits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dss import ops
from dss.fields.base import Field
from dss.rendering.tracing import Hits, cube

MAX_RAYS = 1 << 18  # traced together: bounds memory
# The paper's epsilon: a hit has |d| less than this, or a mean of two successive d less than 5 times
MAX_HIT_DISTANCE = 3e-4
MAX_ITERATIONS = 256
INSET = 1e-6  # by which an interval is shortened at both ends
PROBE = 1 / 192  # of the central differences that make the normals

Distance = Callable[[Tensor], Tensor]  # of points (n, 3), giving (n,)


@dataclass(frozen=True)
class PaperHits(Hits):
    """Here `steps` are summed over the ray's intervals, and `t` includes the last small step.

    The paper's average steps are steps.sum() / marched.sum().
    """

    sphere: Tensor  # (n,) int64 whose prediction was hit, -1 on a miss
    marched: Tensor  # (n,) int64 intervals marched


def central_differences(sdf: Distance, points: Tensor) -> Tensor:
    """Unit normals (n, 3) of a distance at points (n, 3), by central differences."""
    probes = PROBE * torch.eye(3, device=points.device)
    rise = torch.stack([sdf(points + probe) - sdf(points - probe) for probe in probes], 1)
    return torch.nn.functional.normalize(rise / (2 * PROBE), dim=1, eps=1e-5)


@torch.no_grad()
def trace_paper(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    intervals: Callable[[ops.Shell, Tensor, Tensor], ops.Intervals] = ops.shell_intervals,
    differences: Callable[[Distance, Tensor], Tensor] = central_differences,
) -> PaperHits:
    """Hits of rays on a field with a shell.

    Origins (n, 3) and unit directions (n, 3) are float32; the origins lie outside the shell.
    `intervals` finds where rays are in the shell, of which only the entries and their spheres are
    used; `differences` makes the normals (n, 3) of the chosen spheres' predictions at the hits
    (n, 3).
    """
    chunks = zip(origins.split(MAX_RAYS), directions.split(MAX_RAYS), strict=True)
    return Hits.joined([_trace(field, *rays, intervals, differences) for rays in chunks])


@torch.no_grad()
def trace_exact(step: Distance, sdf: Distance, origins: Tensor, directions: Tensor) -> Hits:
    """The paper's ground truth: sphere tracing by `step`, with central differences of `sdf`.

    Rays come from outside the solid and are traced from where they enter the cube. `step` may be
    unsigned, and so cheaper: an exact distance never leads into the solid.
    """
    pairs = zip(origins.split(MAX_RAYS), directions.split(MAX_RAYS), strict=True)
    return Hits.joined([_trace_exact(step, sdf, *rays) for rays in pairs])


def _trace(
    field: Field, origins: Tensor, directions: Tensor, intervals: Callable, differences: Callable
) -> PaperHits:
    count = len(origins)
    passed = intervals(field.shell.packed, origins, directions)
    ray, entry, sphere = passed.ray, passed.start, passed.sphere
    middle = ((field.shell.centers[sphere] - origins[ray]) * directions[ray]).sum(1)
    # An interval ends on the far side of its sphere: the paper does not cut it at the inner sphere
    entry, exit = entry + INSET, 2 * middle - entry - INSET
    ahead = entry > INSET  # the reference code ignores the spheres around the origin
    ray, sphere, entry, exit = ray[ahead], sphere[ahead], entry[ahead], exit[ahead]

    def query(items: Tensor, t: Tensor) -> Tensor:
        return field(origins[ray[items]] + t[:, None] * directions[ray[items]], sphere[items])

    t = entry.clone()
    items = torch.arange(len(ray), device=ray.device)
    value = query(items, t)
    # A ray that enters inside the solid is skipped: the hit is another interval's
    outside = value >= -5 * MAX_HIT_DISTANCE
    items, value = items[outside], value[outside]
    marched = torch.bincount(ray[items], minlength=count)
    steps, hit, before = torch.zeros_like(marched), torch.zeros_like(ray, dtype=torch.bool), value
    for _ in range(MAX_ITERATIONS):
        steps.index_add_(0, ray[items], torch.ones_like(items))
        t[items] += value
        close = (value.abs() < MAX_HIT_DISTANCE) | (
            (value + before).abs() / 2 < 5 * MAX_HIT_DISTANCE
        )
        hit[items[close]] = True
        alive = ~close & (t[items] < exit[items])
        items, before = items[alive], value[alive]
        if not len(items):
            break
        value = query(items, t[items])

    chosen = _choose(ray[hit], t[hit], entry[hit], count)
    found = chosen >= 0
    item = hit.nonzero()[:, 0][chosen[found]]
    result = origins.new_full((count,), torch.inf).masked_scatter(found, t[item])
    owner = torch.full_like(marched, -1).masked_scatter(found, sphere[item])
    points = origins[found] + result[found, None] * directions[found]
    normal = torch.zeros_like(origins)
    normal[found] = differences(lambda points: field(points, owner[found]), points)
    return PaperHits(found, result, normal, steps, owner, marched)


def _choose(ray: Tensor, t: Tensor, entry: Tensor, count: int) -> Tensor:
    """Which of the hits (m,) each of `count` rays takes, -1: none.

    Among those within five epsilon of the first, the one whose interval was entered earliest.
    """
    first = t.new_full((count,), torch.inf).scatter_reduce(0, ray, t, "amin")
    near = (t - first[ray]).abs() < 5 * MAX_HIT_DISTANCE
    reach = torch.where(near, t - entry, -torch.inf)
    longest = t.new_full((count,), -torch.inf).scatter_reduce(0, ray, reach, "amax")
    best = (near & (reach == longest[ray])).nonzero()[:, 0]
    return torch.full((count,), -1, device=ray.device).scatter(0, ray[best], best)


def _trace_exact(step: Distance, sdf: Distance, origins: Tensor, directions: Tensor) -> Hits:
    near, far = cube(origins, directions)
    steps = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    t, hit = near.clone(), torch.zeros_like(near, dtype=torch.bool)
    rays = (near < far).nonzero()[:, 0]
    initial = torch.zeros_like(t)
    for iteration in range(MAX_ITERATIONS):
        if not len(rays):
            break
        value = step(origins[rays] + t[rays, None] * directions[rays])
        steps[rays] += 1
        if iteration == 0:
            # The reference code never renews the earlier of the two distances that it averages
            initial[rays] = value
        t[rays] += value
        close = (value.abs() < MAX_HIT_DISTANCE) | (
            (value + initial[rays]).abs() / 2 < 5 * MAX_HIT_DISTANCE
        )
        hit[rays[close]] = True
        rays = rays[~close & (t[rays] < far[rays])]
    normal = torch.zeros_like(origins)
    normal[hit] = central_differences(sdf, origins[hit] + t[hit, None] * directions[hit])
    return Hits(hit, torch.where(hit, t, torch.inf), normal, steps)
