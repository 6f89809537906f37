"""The operators of dss/ops in plain torch: slow and obvious, for any device. The kernels are tested
against them.

The arguments are those of the operators' schemas: contiguous, checked, a rule by its number in
dss.ops.RULES. They may be float64 too, for tests that need more digits.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize, silu

MAX_PAIRS = 1 << 20  # pairs of points and spheres held at once
MAX_POINTS = 1 << 18  # points in the network at once
LEAKY_SLOPE = 0.1
PAPER_EPSILON = 3e-4  # a hit of the paper's rule: |f| below this, or the mean of two below 5 of it
MIN_STEP = 2e-4  # of the exact rule
MAX_QUERIES = 256  # per interval, of the paper's rule
SAME_PLACE = 1e-9  # cuts of a ray that are closer than this are one
FAR = 1e30  # a point as far away as this, or not finite, is infinitely far

EVERY, SMALLEST, RELATIVE = range(3)  # the rules

Query = Callable[[Tensor, Tensor], Tensor]  # intervals (k,) and t (k,) -> the field there (k,)


# -------------------------------------------------------------------------------------- intervals


def shell_intervals(
    spheres: Tensor, tree: Tensor, origins: Tensor, directions: Tensor, rule: int
) -> tuple[Tensor, ...]:
    parts, rays = [], _missing_unless_finite(origins, directions)
    for first, o, d in _chunks(max(1, MAX_PAIRS // len(spheres)), *rays):
        ray, *rest = (_every_sphere if rule == EVERY else _owners)(spheres, o, d, rule)
        parts.append((ray + first, *rest))
    ray, start, end, sphere, stop = (torch.cat(part) for part in zip(*parts, strict=True))
    counts = torch.bincount(ray, minlength=len(origins))
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), start, end, sphere, stop


def _missing_unless_finite(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The rays; those that are not finite get a direction of length 0, which meets nothing."""
    bad = ~(origins.square() + directions.square()).sum(1, keepdim=True).isfinite()
    return origins.masked_fill(bad, 0), directions.masked_fill(bad, 0)


def _crossings(spheres: Tensor, origins: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays (n,) with unit directions (3, n, 1) cross spheres (S,): entry into the outer ones
    (n, S), inf where there is none ahead; exit from them (n, S), NaN where there is none; and entry
    into the first inner one (n,), inf without one."""
    offset = spheres[:, :3].T[:, None] - origins.T[:, :, None]  # (3, n, S)
    middle = (offset * unit).sum(0)
    across = (offset - middle * unit).square().sum(0)
    inner, outer = (_root(spheres[:, k].square() - across) for k in (3, 4))
    ahead = middle + inner > 0
    stop = torch.where(ahead, (middle - inner).clamp(min=0), torch.inf).amin(1)
    return torch.where(middle + outer > 0, middle - outer, torch.inf), middle + outer, stop


def _root(square: Tensor) -> Tensor:
    """NaN where there is none. (torch's own root takes ten times as long where it gives NaN.)"""
    return torch.where(square >= 0, square.clamp(min=0).sqrt(), torch.nan)


def _every_sphere(
    spheres: Tensor, origins: Tensor, directions: Tensor, rule: int
) -> tuple[Tensor, ...]:
    """Ray, start, end and sphere (m,) of the intervals, and stop (n,), by the rule `every`."""
    length = directions.norm(dim=1)
    unit = (directions / length[:, None]).T[:, :, None]
    entry, exit, stop = _crossings(spheres, origins, unit)
    ray, sphere = (entry.clamp(min=0) < stop[:, None]).nonzero(as_tuple=True)
    order = entry[ray, sphere].argsort(stable=True)
    order = order[ray[order].argsort(stable=True)]
    ray, sphere = ray[order], sphere[order]
    start, end = entry[ray, sphere].clamp(min=0), exit[ray, sphere].minimum(stop[ray])
    return ray, start / length[ray], end / length[ray], sphere, stop / length


def _owners(spheres: Tensor, origins: Tensor, directions: Tensor, rule: int) -> tuple[Tensor, ...]:
    """The same, by the rules that give each point one owner. In float64, so that rounding loses no
    interval."""
    dtype, spheres, origins, directions = spheres.dtype, *_doubles(spheres, origins, directions)
    length = directions.norm(dim=1)
    unit = directions / length[:, None]
    entry, exit, stop = _crossings(spheres, origins, unit.T[:, :, None])
    most = int((entry < stop[:, None]).sum(1).max()) if len(origins) else 0  # spheres on one ray
    size = max(1, MAX_PAIRS // max(1, most * most))
    parts = []
    for first, *rays in _chunks(size, origins, unit, entry, exit, stop):
        ray, *rest = _partition(spheres, *rays, rule)
        parts.append((ray + first, *rest))
    ray, start, end, owner = (torch.cat(part) for part in zip(*parts, strict=True))
    start, end, stop = start / length[ray], end / length[ray], stop / length
    return ray, start.to(dtype), end.to(dtype), owner, stop.to(dtype)


def _partition(
    spheres: Tensor, origins: Tensor, unit: Tensor, entry: Tensor, exit: Tensor, stop: Tensor,
    rule: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Ray, start, end and owner (m,): cut each ray wherever its owner may change, ask for the owner
    at the middle of each piece, and join neighbours that have the same one."""
    last = exit.nan_to_num(0).amax(1).minimum(stop).clamp(min=0)  # no interval lies beyond
    cuts = [torch.zeros_like(last)[:, None], last[:, None], entry, exit]
    if rule == RELATIVE:
        cuts += _equally_near(spheres, origins, unit, entry < stop[:, None])
    cuts = torch.cat(cuts, 1).nan_to_num(0, 0, 0).clamp(min=0).minimum(last[:, None]).sort(1).values
    ray, piece = (cuts.diff(dim=1) > SAME_PLACE).nonzero(as_tuple=True)
    start, end = cuts[ray, piece], cuts[ray, piece + 1]
    middle = origins[ray] + ((start + end) / 2)[:, None] * unit[ray]
    owner = shell_owner(spheres, None, middle, rule)
    change = (ray[1:] != ray[:-1]) | (owner[1:] != owner[:-1])
    border = change.new_ones(min(1, len(ray)))
    first, last = torch.cat([border, change]), torch.cat([change, border])
    inside = owner[first] >= 0
    return ray[first][inside], start[first][inside], end[last][inside], owner[first][inside]


def _equally_near(spheres: Tensor, origins: Tensor, unit: Tensor, met: Tensor) -> list[Tensor]:
    """Where along rays (n,) two of the spheres that a ray meets, by `met` (n, S), have the same
    |x - c| / r: two places (n, p) for each of p pairs, NaN or inf where there is none.

    Along a ray (|x - c| / r)^2 is a parabola, a t^2 - 2 b t + c; so is the difference of two.
    """
    most = int(met.sum(1).max()) if len(met) else 0
    sphere = met.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    offset, weight = spheres[sphere, :3] - origins[:, None], spheres[sphere, 4] ** -2
    parabola = torch.stack(
        [weight, weight * (offset * unit[:, None]).sum(2), weight * offset.square().sum(2)]
    )
    one, other = torch.triu_indices(most, most, 1, device=met.device)
    a, b, c = parabola[:, :, one] - parabola[:, :, other]
    q = b + torch.where(b < 0, -1, 1) * _root(b.square() - a * c)
    return [q / a, c / q]


def _doubles(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.double() for tensor in tensors)


# ----------------------------------------------------------------------------------------- points


def shell_owner(spheres: Tensor, tree: Tensor, points: Tensor, rule: int) -> Tensor:
    def owner(points: Tensor) -> Tensor:
        distance = (points[:, None] - spheres[:, :3]).norm(dim=2)
        score = spheres[:, 4] if rule == SMALLEST else distance / spheres[:, 4]
        score, index = torch.where(distance < spheres[:, 4], score, torch.inf).min(1)
        return torch.where(score.isfinite(), index, -1)

    chunks = _chunks(max(1, MAX_PAIRS // len(spheres)), points)
    return torch.cat([owner(part) for _, part in chunks])


def shell_union_sdf(
    spheres: Tensor, tree: Tensor, points: Tensor, inner: bool
) -> tuple[Tensor, Tensor]:
    def nearest(points: Tensor) -> tuple[Tensor, Tensor]:
        distance = (points[:, None] - spheres[:, :3]).norm(dim=2).nan_to_num(torch.inf)
        value, sphere = (distance - spheres[:, 3 if inner else 4]).min(1)
        far = value >= FAR
        return value.masked_fill(far, torch.inf), sphere.masked_fill(far, -1)

    parts = [nearest(part) for _, part in _chunks(max(1, MAX_PAIRS // len(spheres)), points)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def shell_field(
    spheres: Tensor, table: Tensor, weights: Tensor, sizes: list[int], frequency: float, half: bool,
    points: Tensor, owner: Tensor, gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    network = (table, weights, sizes, frequency)
    parts = [
        _predict(spheres, *network, *part, gradient)
        for _, *part in _chunks(MAX_POINTS, points, owner)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _predict(
    spheres: Tensor, table: Tensor, weights: Tensor, sizes: list[int], frequency: float,
    points: Tensor, owner: Tensor, gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    layers, width, octaves, local, smooth, radial = sizes
    center, inner, outer = spheres[owner].split([3, 1, 1], 1)
    scale = 1 / outer if local else torch.ones_like(outer)
    rates = frequency * 2.0 ** torch.arange(octaves, dtype=points.dtype, device=points.device)
    phase = ((points - center) * scale)[:, :, None] * rates
    encoding = torch.cat([phase.sin().flatten(1), phase.cos().flatten(1)], 1)

    def activation(x: Tensor) -> Tensor:
        return silu(x) if smooth else leaky_relu(x, LEAKY_SLOPE)

    def slope_of_activation(x: Tensor) -> Tensor:
        if smooth:
            return x.sigmoid() * (1 + x * (1 - x.sigmoid()))
        return torch.where(x > 0, torch.ones_like(x), LEAKY_SLOPE)

    matrices = [weights[: width * 6 * octaves].view(width, 6 * octaves)]
    rest = weights[width * 6 * octaves :]
    hidden = [table[owner] + encoding @ matrices[0].T]  # each layer before its activation
    for _ in range(layers - 1):
        matrix, bias, rest = rest.split([width * width, width, len(rest) - width * (width + 1)])
        matrices.append(matrix.view(width, width))
        hidden.append(activation(hidden[-1]) @ matrices[-1].T + bias)
    output = (activation(hidden[-1]) @ rest[:width] + rest[width])[:, None]
    radius, thickness = (points - center).norm(dim=1, keepdim=True), outer - inner
    value = radius - (inner + outer) / 2 + output * thickness if radial else output.tanh()
    if not gradient:
        return value[:, 0], points.new_empty(0, 3)
    delta = rest[:width].expand_as(hidden[-1])
    for matrix, x in zip(reversed(matrices), reversed(hidden), strict=True):
        delta = delta * slope_of_activation(x) @ matrix
    sine, cosine = delta.view(-1, 2, 3, octaves).unbind(1)
    slope = ((sine * phase.cos() - cosine * phase.sin()) * rates).sum(2) * scale
    slope = slope * (thickness if radial else 1 - output.tanh().square())
    if radial:
        slope = slope + (points - center) / radius.clamp(min=1e-12)
    return value[:, 0], slope


def shell_sdf(
    spheres: Tensor, tree: Tensor, table: Tensor, weights: Tensor, sizes: list[int],
    frequency: float, half: bool, points: Tensor, rule: int,
) -> Tensor:  # fmt: skip
    owner = shell_owner(spheres, tree, points, rule)
    inner = shell_union_sdf(spheres, tree, points, True)[0]
    outer, nearest = shell_union_sdf(spheres, tree, points, False)
    center, radius = spheres[nearest].split([3, 2], 1)
    border = center + normalize(points - center, dim=1) * radius[:, 1:]  # of the outer union
    outside = owner < 0
    place = torch.where(outside[:, None], border, points)
    sphere = torch.where(outside, nearest, owner)
    network = (table, weights, sizes, frequency, half)
    prediction = shell_field(spheres, *network, place, sphere, False)[0]
    interlayer = torch.where(inner >= 0, prediction.minimum(inner), inner)
    negative = (prediction < 0) & (nearest >= 0)
    return torch.where(outside, torch.where(negative, -outer, outer), interlayer)


# ---------------------------------------------------------------------------------------- tracing


def shell_trace(
    spheres: Tensor, tree: Tensor, table: Tensor, weights: Tensor, sizes: list[int],
    frequency: float, half: bool, origins: Tensor, directions: Tensor, rule: int, exact: bool,
    everywhere: bool, tolerance: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Every interval is traced to its end, all at once; then each ray takes its hit."""
    origins, directions = _missing_unless_finite(origins, directions)
    length = directions.norm(dim=1)
    directions = normalize(directions, dim=1)
    offsets, start, end, sphere, stop = shell_intervals(spheres, tree, origins, directions, rule)
    rays = torch.arange(len(origins), device=origins.device)
    ray = rays.repeat_interleave(offsets.diff())
    steps = torch.zeros_like(sphere)
    network = (table, weights, sizes, frequency, half)

    def field(points: Tensor, owner: Tensor, gradient: bool = False) -> Tensor:
        return shell_field(spheres, *network, points, owner, gradient)[int(gradient)]

    def query(items: Tensor, t: Tensor) -> Tensor:
        steps[items] += 1
        return field(origins[ray[items]] + t[:, None] * directions[ray[items]], sphere[items])

    hit = (
        _first_crossing(query, start, end, end >= stop[ray], rule == EVERY, tolerance)
        if exact
        else _paper_hit(query, start, end)
    )
    first = torch.full_like(stop, torch.inf).scatter_reduce(0, ray, hit, "amin")
    # Among hits this close, the paper takes the one whose sphere was entered longest before.
    window = 0 if exact or rule != EVERY else 5 * PAPER_EPSILON
    eligible = hit.isfinite() & (hit - first[ray] <= window)
    way = torch.where(eligible, hit - start, -torch.inf)
    longest = torch.full_like(stop, -torch.inf).scatter_reduce(0, ray, way, "amax")
    none, items = len(ray), torch.arange(len(ray), device=ray.device)
    item = torch.where(eligible & (way == longest[ray]), items, none)
    chosen = torch.full_like(rays, none).scatter_reduce(0, ray, item, "amin")
    t = torch.cat([hit, hit.new_full((1,), torch.inf)])[chosen]
    owner = torch.cat([sphere, sphere.new_full((1,), -1)])[chosen]
    solid = stop == 0
    t = torch.where(solid, 0, t)
    owner[solid] = shell_union_sdf(spheres, tree, origins[solid], True)[1]
    normal = torch.zeros_like(origins)
    some = owner >= 0
    points = origins[some] + t[some, None] * directions[some]
    normal[some] = normalize(field(points, owner[some], True), dim=1)
    total = torch.zeros_like(rays).scatter_add(0, ray, steps)
    t = torch.where(length > 0, t / length, torch.inf)
    return t, owner, normal, total.int(), offsets.diff().int()


def _first_crossing(
    query: Query, start: Tensor, end: Tensor, solid: Tensor, overlap: bool, tolerance: float
) -> Tensor:
    """The first change of sign in each interval (m,), inf without one: plain sphere tracing, then
    bisection. Behind the end of a `solid` interval an inner sphere begins. One that starts inside
    is a hit there, but where intervals overlap it is left to the others."""
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
        t[active] = (before + value.clamp(min=MIN_STEP)).minimum(end[active])
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


def _paper_hit(query: Query, start: Tensor, end: Tensor) -> Tensor:
    """The paper's sphere tracing (docs/method.md, section 7): inf where an interval (m,) ends
    without a hit."""
    t, hit = start.clone(), torch.full_like(start, torch.inf)
    active = torch.arange(len(start), device=start.device)
    value = query(active, t)
    outside = value >= -5 * PAPER_EPSILON
    active, value = active[outside], value[outside]
    before = value
    for _ in range(MAX_QUERIES):
        t[active] += value
        mean = (value + before).abs() / 2
        found = (value.abs() < PAPER_EPSILON) | (mean < 5 * PAPER_EPSILON)
        hit[active[found]] = t[active[found]]
        alive = ~found & (t[active] < end[active])
        active, before = active[alive], value[alive]
        if len(active) == 0:
            break
        value = query(active, t[active])
    return hit


def _chunks(size: int, *tensors: Tensor) -> Iterator[tuple[int | Tensor, ...]]:
    """(first row, chunk of each tensor), consecutive; one empty chunk for empty tensors."""
    for first in range(0, max(1, len(tensors[0])), size):
        yield first, *(tensor[first : first + size] for tensor in tensors)
