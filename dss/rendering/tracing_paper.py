"""The paper's tracer, rule by rule (dss.md, section 7): to reproduce its pictures and its counts, not to find the surface.

Every valid interval is marched by itself with its own sphere's latent; each ray then chooses among the hits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dss import ops
from dss.fields.base import Field
from dss.rendering.tracing import Hits, cube

RAYS = 1 << 18  # traced together: bounds memory
EPSILON = 3e-4  # a hit: |d| less than this, or the mean of two successive d less than five times this
ITERATIONS = 256
INSET = 1e-6  # by which an interval is shortened at both ends
PROBE = 1 / 192  # of the central differences that make the normals

Distance = Callable[[Tensor], Tensor]  # of points (n, 3), giving (n,)


@dataclass(frozen=True)
class PaperHits(Hits):
    """Here `steps` (n,) are the queries summed over the ray's intervals, and `t` includes the last small step."""

    sphere: Tensor  # (n,) int64 whose prediction was hit, -1 on a miss
    marched: Tensor  # (n,) int64 intervals marched; the paper's average steps are steps.sum() / marched.sum()


@torch.no_grad()
def trace_paper(field: Field, origins: Tensor, directions: Tensor) -> PaperHits:
    """Hits of rays, origins (n, 3) and unit directions (n, 3) float32 outside the shell, on a field with a shell.

    Normals are central differences of the chosen sphere's prediction.
    """
    return Hits.joined([_trace(field, *rays) for rays in zip(origins.split(RAYS), directions.split(RAYS), strict=True)])


@torch.no_grad()
def trace_exact(step: Distance, sdf: Distance, origins: Tensor, directions: Tensor) -> Hits:
    """The paper's ground truth: sphere tracing by `step` from where rays from outside the solid enter the cube; normals by
    central differences of `sdf`. `step` may be unsigned, and so cheaper: an exact distance never leads into the solid."""
    pairs = zip(origins.split(RAYS), directions.split(RAYS), strict=True)
    return Hits.joined([_trace_exact(step, sdf, *rays) for rays in pairs])


def _trace(field: Field, origins: Tensor, directions: Tensor) -> PaperHits:
    count = len(origins)
    found = ops.shell_intervals(field.shell.packed, origins, directions)
    ray, entry, sphere = found.ray, found.start, found.sphere
    middle = ((field.shell.centers[sphere] - origins[ray]) * directions[ray]).sum(1)
    entry, exit = entry + INSET, 2 * middle - entry - INSET  # the sphere's far side: the paper does not cut at the inner sphere
    ahead = entry > INSET  # the reference code ignores the spheres around the origin
    ray, sphere, entry, exit = ray[ahead], sphere[ahead], entry[ahead], exit[ahead]

    def query(items: Tensor, t: Tensor) -> Tensor:
        return field(origins[ray[items]] + t[:, None] * directions[ray[items]], sphere[items])

    t = entry.clone()
    items = torch.arange(len(ray), device=ray.device)
    value = query(items, t)
    outside = value >= -5 * EPSILON  # else the entry is inside the solid already, and another interval owns the hit
    items, value = items[outside], value[outside]
    marched = torch.zeros(count, dtype=torch.int64, device=ray.device).index_add_(0, ray[items], torch.ones_like(items))
    steps, hit, before = torch.zeros_like(marched), torch.zeros_like(ray, dtype=torch.bool), value
    for _ in range(ITERATIONS):
        steps.index_add_(0, ray[items], torch.ones_like(items))
        t[items] += value
        close = (value.abs() < EPSILON) | ((value + before).abs() / 2 < 5 * EPSILON)
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
    normal[found] = _differences(lambda points: field(points, owner[found]), points)
    return PaperHits(found, result, normal, steps, owner, marched)


def _choose(ray: Tensor, t: Tensor, entry: Tensor, count: int) -> Tensor:
    """Which of the hits (m,) each of `count` rays takes, -1: none. Among those within five epsilon of the first, the one
    whose interval was entered earliest."""
    first = t.new_full((count,), torch.inf).scatter_reduce(0, ray, t, "amin")
    near = (t - first[ray]).abs() < 5 * EPSILON
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
    for iteration in range(ITERATIONS):
        if not len(rays):
            break
        value = step(origins[rays] + t[rays, None] * directions[rays])
        steps[rays] += 1
        if iteration == 0:
            initial[rays] = value  # the reference code never renews the earlier of the two distances that it averages
        t[rays] += value
        close = (value.abs() < EPSILON) | ((value + initial[rays]).abs() / 2 < 5 * EPSILON)
        hit[rays[close]] = True
        rays = rays[~close & (t[rays] < far[rays])]
    normal = torch.zeros_like(origins)
    normal[hit] = _differences(sdf, origins[hit] + t[hit, None] * directions[hit])
    return Hits(hit, torch.where(hit, t, torch.inf), normal, steps)


def _differences(sdf: Distance, points: Tensor) -> Tensor:
    """Unit normals (n, 3) by central differences."""
    probes = PROBE * torch.eye(3, device=points.device)
    slope = torch.stack([sdf(points + probe) - sdf(points - probe) for probe in probes], 1) / (2 * PROBE)
    return torch.nn.functional.normalize(slope, dim=1, eps=1e-5)
