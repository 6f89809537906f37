"""The operators of dss/ops.py in plain torch: short, obviously right, for any device. The kernels are tested against them.

The arguments are those of the operators' schemas: contiguous, checked, a rule by its number in dss.ops.RULES. They work in
float64 too, as references for tests.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

PAIRS = 1 << 20  # point-sphere pairs held at once
POINTS = 1 << 18  # network evaluations held at once
SLOPE = 0.1  # of the leaky rectifier
PAPER = 3e-4  # the paper's eps: a hit is |f| < eps, or a mean of two values below 5 eps
FLOOR = 2e-4  # least step of the exact rule
LIMIT = 256  # queries per interval of the paper's rule


Query = Callable[[Tensor, Tensor], Tensor]  # items (k,) and t (k,) -> the field there (k,)


def shell_intervals(spheres: Tensor, tree: Tensor, origins: Tensor, directions: Tensor, rule: int) -> tuple[Tensor, ...]:
    parts = []
    for first, o, d in _chunks(max(1, PAIRS // len(spheres)), origins, directions):
        ray, *rest = _intervals(spheres, o, d, rule)
        parts.append((ray + first, *rest))
    ray, start, end, sphere, stop = (torch.cat(part) for part in zip(*parts, strict=True))
    counts = torch.bincount(ray, minlength=len(origins))
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), start, end, sphere, stop


def _intervals(spheres: Tensor, origins: Tensor, directions: Tensor, rule: int) -> tuple[Tensor, ...]:
    """Ray (m,), start, end and sphere of the intervals, and stop (n,). A line that misses a sphere is NaN until the end."""
    length = directions.norm(dim=1)
    unit = (directions / length[:, None]).T[:, :, None]
    offset = spheres[:, :3].T[:, None] - origins.T[:, :, None]  # (3, n, S)
    middle = (offset * unit).sum(0)
    across = (offset - middle * unit).square().sum(0)
    inner, outer = (_root(spheres[:, k].square() - across) for k in (3, 4))
    stop = torch.where(middle + inner > 0, (middle - inner).clamp(min=0), torch.inf).amin(1)
    entry, exit = torch.where(middle + outer > 0, middle - outer, torch.inf), middle + outer
    if rule == 0:
        ray, sphere = (entry.clamp(min=0) < stop[:, None]).nonzero(as_tuple=True)
        order = entry[ray, sphere].argsort(stable=True)
        order = order[ray[order].argsort(stable=True)]
        ray, sphere = ray[order], sphere[order]
        start, end = entry[ray, sphere].clamp(min=0), exit[ray, sphere].minimum(stop[ray])
    else:
        ray, start, end, sphere = _partition(spheres[:, 4], middle, outer, entry, exit, stop, rule)
    return ray, start / length[ray], end / length[ray], sphere, stop / length


def _root(square: Tensor) -> Tensor:
    """NaN where there is none; torch's own root takes ten times as long over those."""
    return torch.where(square >= 0, square.clamp(min=0).sqrt(), torch.nan)


def _partition(radius: Tensor, middle: Tensor, half: Tensor, entry: Tensor, exit: Tensor, stop: Tensor, rule: int) -> tuple[Tensor, ...]:
    """Walk along the rays from owner to owner. (|x - c| / r)^2 - 1 is weight ((t - middle)^2 - half^2), weight = 1 / r^2."""
    weight, index = radius**-2, torch.arange(len(radius), device=radius.device)
    ray, start = torch.arange(len(stop), device=radius.device), torch.zeros_like(stop)
    parts = []
    while len(ray):
        m, h, e, x = middle[ray], half[ray], entry[ray], exit[ray]
        probe = (start * 1.0000005 + 1e-6)[:, None]
        score = radius.expand_as(m) if rule == 1 else weight * ((probe - m).square() - h.square())
        score, owner = torch.where((e <= probe) & (x > probe), score, torch.inf).min(1)
        inside = score.isfinite() & (probe[:, 0] < stop[ray])
        if rule == 1:
            of_owner = owner[:, None]
            smaller = (radius < radius[of_owner]) | ((radius == radius[of_owner]) & (index < of_owner))
            change = torch.where(smaller, e, torch.inf)
        else:  # at a seam, rounding may tell the old owner: who has overtaken it, and sinks faster, is the one
            slope = weight * (probe - m)
            while True:
                of_owner = owner[:, None]
                change = _overtaken(weight, m, h, of_owner)
                later = (change <= probe) & (x > probe) & (slope < slope.gather(1, of_owner))
                if not later.any():
                    break
                owner = torch.where(later.any(1), torch.where(later, slope, torch.inf).argmin(1), owner)
        end = torch.where(change > probe, change, torch.inf).amin(1).minimum(x.gather(1, of_owner)[:, 0]).minimum(stop[ray])
        parts.append((ray[inside], start[inside], end[inside], owner[inside]))
        start = torch.where(inside, end, torch.where(e > probe, e, torch.inf).amin(1))
        going = start < stop[ray]
        ray, start = ray[going], start[going]
    ray, start, end, owner = (torch.cat(part) for part in zip(*parts, strict=True))
    order = ray.argsort(stable=True)
    return ray[order], start[order], end[order], owner[order]


def _overtaken(weight: Tensor, middle: Tensor, half: Tensor, owner: Tensor) -> Tensor:
    """Where each sphere's parabola falls below that of the owner (k, 1): the root of a u^2 + 2 b u + c, with u = t - the
    owner's middle, at which it falls. NaN where there is none."""
    center = middle.gather(1, owner)
    shift = middle - center
    a, b = weight - weight[owner], -weight * shift
    c = weight * (shift.square() - half.square()) + weight[owner] * half.gather(1, owner).square()
    root = _root(b.square() - a * c)
    return center + torch.where(b > 0, (-b - root) / a, c / (root - b))


def shell_owner(spheres: Tensor, tree: Tensor, points: Tensor, rule: int) -> Tensor:
    def owner(points: Tensor) -> Tensor:
        distance = (points[:, None] - spheres[:, :3]).norm(dim=2)
        score = spheres[:, 4] if rule == 1 else distance / spheres[:, 4]
        score, index = torch.where(distance < spheres[:, 4], score, torch.inf).min(1)
        return torch.where(score.isfinite(), index, -1)

    return torch.cat([owner(part) for _, part in _chunks(max(1, PAIRS // len(spheres)), points)])


def shell_gap(spheres: Tensor, tree: Tensor, points: Tensor, inner: bool) -> tuple[Tensor, Tensor]:
    def gap(points: Tensor) -> tuple[Tensor, Tensor]:
        return ((points[:, None] - spheres[:, :3]).norm(dim=2) - spheres[:, 3 if inner else 4]).min(1)

    parts = [gap(part) for _, part in _chunks(max(1, PAIRS // len(spheres)), points)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def shell_field(
    spheres: Tensor, table: Tensor, weights: Tensor, sizes: list[int], frequency: float, half: bool, points: Tensor, owner: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    parts = [_predict(spheres, table, weights, sizes, frequency, *part, gradient) for _, *part in _chunks(POINTS, points, owner)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _predict(
    spheres: Tensor, table: Tensor, weights: Tensor, sizes: list[int], frequency: float, points: Tensor, owner: Tensor, gradient: bool
) -> tuple[Tensor, Tensor]:
    layers, width, octaves, local, silu, radial = sizes
    center, inner, outer = spheres[owner].split([3, 1, 1], 1)
    scale = 1 / outer if local else torch.ones_like(outer)
    rates = frequency * 2.0 ** torch.arange(octaves, dtype=points.dtype, device=points.device)
    phase = ((points - center) * scale)[:, :, None] * rates
    matrices = [weights[: width * 6 * octaves].view(width, 6 * octaves)]
    rest = weights[width * 6 * octaves :]
    before = [table[owner] + torch.cat([phase.sin().flatten(1), phase.cos().flatten(1)], 1) @ matrices[0].T]  # of each activation
    activation = torch.nn.functional.silu if silu else lambda x: torch.nn.functional.leaky_relu(x, SLOPE)
    for _ in range(layers - 1):
        matrix, bias, rest = rest.split([width * width, width, len(rest) - width * (width + 1)])
        matrices.append(matrix.view(width, width))
        before.append(activation(before[-1]) @ matrices[-1].T + bias)
    output = (activation(before[-1]) @ rest[:width] + rest[width])[:, None]
    radius, thickness = (points - center).norm(dim=1, keepdim=True), outer - inner
    value = radius - (inner + outer) / 2 + output * thickness if radial else output.tanh()
    if not gradient:
        return value[:, 0], points.new_empty(0, 3)
    delta = rest[:width].expand_as(before[-1])
    for matrix, x in zip(reversed(matrices), reversed(before), strict=True):
        delta = delta * (x.sigmoid() * (1 + x * (1 - x.sigmoid())) if silu else torch.where(x > 0, torch.ones_like(x), SLOPE)) @ matrix
    sine, cosine = delta.view(-1, 2, 3, octaves).unbind(1)
    slope = ((sine * phase.cos() - cosine * phase.sin()) * rates).sum(2) * scale
    slope = (points - center) / radius.clamp(min=1e-12) + slope * thickness if radial else slope * (1 - output.tanh().square())
    return value[:, 0], slope


def shell_sdf(
    spheres: Tensor, tree: Tensor, table: Tensor, weights: Tensor, sizes: list[int], frequency: float, half: bool, points: Tensor, rule: int
) -> Tensor:
    owner = shell_owner(spheres, tree, points, rule)
    result = shell_gap(spheres, tree, points, True)[0]
    gap, nearest = shell_gap(spheres, tree, points, False)
    center, radius = spheres[nearest].split([3, 2], 1)
    boundary = center + normalize(points - center, dim=1) * radius[:, 1:]
    outside = owner < 0
    place, sphere = torch.where(outside[:, None], boundary, points), torch.where(outside, nearest, owner)
    prediction = shell_field(spheres, table, weights, sizes, frequency, half, place, sphere, False)[0]
    interlayer = torch.where(result >= 0, prediction.minimum(result), result)
    return torch.where(outside, torch.where(prediction < 0, -gap, gap), interlayer)


def shell_trace(
    spheres: Tensor, tree: Tensor, table: Tensor, weights: Tensor, sizes: list[int], frequency: float, half: bool, origins: Tensor,
    directions: Tensor, rule: int, exact: bool, everywhere: bool, tolerance: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Every interval is traced to its end, all at once; then each ray takes its hit."""
    length = directions.norm(dim=1)
    directions = normalize(directions, dim=1)
    offsets, start, end, sphere, stop = shell_intervals(spheres, tree, origins, directions, rule)
    index = torch.arange(len(origins), device=origins.device)
    ray = index.repeat_interleave(offsets.diff())
    steps = torch.zeros_like(sphere)

    def field(points: Tensor, owner: Tensor, gradient: bool = False) -> Tensor:
        return shell_field(spheres, table, weights, sizes, frequency, half, points, owner, gradient)[int(gradient)]

    def query(items: Tensor, t: Tensor) -> Tensor:
        steps[items] += 1
        return field(origins[ray[items]] + t[:, None] * directions[ray[items]], sphere[items])

    hit = _bracket(query, start, end, end >= stop[ray], rule == 0, tolerance) if exact else _paper(query, start, end)
    least = torch.full_like(stop, torch.inf).scatter_reduce(0, ray, hit, "amin")
    window = 0 if exact or rule else 5 * PAPER  # of hits that close the paper takes the one in the sphere entered longest before
    eligible = hit.isfinite() & (hit - least[ray] <= window)
    way = torch.where(eligible, hit - start, -torch.inf)
    longest = torch.full_like(stop, -torch.inf).scatter_reduce(0, ray, way, "amax")
    item = torch.arange(len(ray), device=ray.device)
    chosen = torch.full_like(index, len(ray)).scatter_reduce(0, ray, torch.where(eligible & (way == longest[ray]), item, len(ray)), "amin")
    t = torch.cat([hit, hit.new_full((1,), torch.inf)])[chosen]
    owner = torch.cat([sphere, sphere.new_full((1,), -1)])[chosen]
    solid = stop == 0
    t = torch.where(solid, 0, t)
    owner[solid] = shell_gap(spheres, tree, origins[solid], True)[1]
    normal = torch.zeros_like(origins)
    some = owner >= 0
    normal[some] = normalize(field(origins[some] + t[some, None] * directions[some], owner[some], True), dim=1)
    total = torch.zeros_like(index).scatter_add(0, ray, steps)
    return torch.where(length > 0, t / length, torch.inf), owner, normal, total.int(), offsets.diff().int()


def _bracket(query: Query, start: Tensor, end: Tensor, solid: Tensor, overlap: bool, tolerance: float) -> Tensor:
    """The first change of sign in each interval, inf without one. Plain sphere tracing, then bisection."""
    t, hit = start.clone(), torch.full_like(start, torch.inf)
    active = torch.arange(len(start), device=start.device)
    value = query(active, t)
    inside = value <= 0
    if not overlap:
        hit[inside] = start[inside]
    active, value = active[~inside], value[~inside]
    brackets = []
    while len(active):
        before = t[active]
        t[active] = (before + value.clamp(min=FLOOR)).minimum(end[active])
        value, at_end = query(active, t[active]), t[active] >= end[active]
        inside = value <= 0
        brackets.append((active[inside], before[inside], t[active[inside]]))
        through = active[at_end & ~inside & solid[active]]
        hit[through] = end[through]
        active, value = active[~inside & ~at_end], value[~inside & ~at_end]
    if brackets:
        item, low, high = (torch.cat(part) for part in zip(*brackets, strict=True))
        for _ in range(math.ceil(math.log2(2 / tolerance))):  # no bracket is wider than a sphere
            middle = (low + high) / 2
            inside = query(item, middle) <= 0
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        hit[item] = (low + high) / 2
    return hit


def _paper(query: Query, start: Tensor, end: Tensor) -> Tensor:
    """The paper's sphere tracing (dss.md, section 7): inf where an interval ends without a hit."""
    t, hit = start.clone(), torch.full_like(start, torch.inf)
    active = torch.arange(len(start), device=start.device)
    value = query(active, t)
    active, value = active[value >= -5 * PAPER], value[value >= -5 * PAPER]
    before = value
    for _ in range(LIMIT):
        t[active] += value
        found = (value.abs() < PAPER) | ((value + before).abs() / 2 < 5 * PAPER)
        hit[active[found]] = t[active[found]]
        active, before = (item[~found & (t[active] < end[active])] for item in (active, value))
        if len(active) == 0:
            break
        value = query(active, t[active])
    return hit


def _chunks(size: int, *tensors: Tensor) -> Iterator[tuple[int | Tensor, ...]]:
    """(first row, chunk of each tensor), consecutive; one empty chunk for empty tensors."""
    for first in range(0, max(1, len(tensors[0])), size):
        yield first, *(tensor[first : first + size] for tensor in tensors)
