"""The hot operations on rays, points and shells as torch operators `dss::shell_*`.

Each has a short torch twin (dss/twins.py), which is its kernel until kernels/ is compiled for the device (kernels/build.py, on the
first use). The wrappers check their arguments and raise InputError that names operator, argument and what was expected;
on CUDA they do not look at values, which would wait for the device: there a NaN ray is a miss. Nothing here is
differentiable: fields are trained through plain torch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dss.errors import InputError
from dss.ops import reference as twins

RULES = ("every", "smallest", "relative")  # each sphere along its whole chord (paper); or one owner per point, see shell_owner
WIDE = 8  # children of a tree node, spheres of a leaf
FAR = 1e15  # where the tree's empty places are


class Shell(NamedTuple):
    """A dual shell as the operators take it; `pack` makes it."""

    spheres: Tensor  # (S, 5) float32: x y z, inner radius, outer radius
    tree: Tensor  # (N, 6, 8) float32, see kernels/shell.h


class Network(NamedTuple):
    """A field's network as the operators take it: see kernels/network.h for the order of the weights."""

    table: Tensor  # (S, width) float32: what latent and bias contribute to the first layer, one row per sphere
    weights: Tensor  # (m,) float32
    sizes: tuple[int, int, int, bool, bool, bool]  # layers, width, octaves, local, silu, radial
    frequency: float  # of the lowest octave
    half: bool = False  # 16-bit matrix products, where the device is faster with them


class Intervals(NamedTuple):
    """Stretches of n rays, sorted by ray, then front to back; t in units of the direction's length."""

    offsets: Tensor  # (n + 1,) int64: ray i has the intervals offsets[i] to offsets[i + 1]
    start: Tensor  # (m,) float32
    end: Tensor  # (m,) float32
    sphere: Tensor  # (m,) int64
    stop: Tensor  # (n,) float32: where the ray enters its first inner sphere; 0 inside one, inf without

    @property
    def ray(self) -> Tensor:
        """The ray (m,) int64 of each interval."""
        index = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return index.repeat_interleave(self.offsets.diff())

    def merged(self) -> "Intervals":
        """Disjoint intervals that cover the same parts of the rays: those that overlap are joined.

        A joined interval names the sphere of its first part.
        """
        if not len(self.start):
            return self
        # Later rays are moved beyond earlier ones, so that one running maximum serves them all.
        ray = self.ray
        shift = ray.double() * (2 * self.end.max().double() + 1)
        reach = (self.end.double() + shift).cummax(0).values
        first = torch.ones_like(ray, dtype=torch.bool)
        first[1:] = (self.start[1:].double() + shift[1:] > reach[:-1]) | (ray[1:] != ray[:-1])
        last = torch.cat([first[1:], first.new_ones(1)])
        counts = torch.bincount(ray[first], minlength=len(self.offsets) - 1)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        end = (reach - shift)[last].to(self.end)
        return Intervals(offsets, self.start[first], end, self.sphere[first], self.stop)


class Traced(NamedTuple):
    """First hits of n rays."""

    t: Tensor  # (n,) float32 in units of the direction's length, inf: no hit
    sphere: Tensor  # (n,) int64 that the hit lies in, -1: no hit
    normal: Tensor  # (n, 3) float32: the unit gradient of the prediction, 0: no hit
    steps: Tensor  # (n,) int32: queries of the field, without the one for the normal
    intervals: Tensor  # (n,) int32: intervals that the ray was traced in


# ---------------------------------------------------------------------------------------------------- public functions


def pack(centers: Tensor, inner_radii: Tensor, outer_radii: Tensor) -> Shell:
    """S spheres, centers (S, 3) and radii (S,) float32, with the tree over them. Raises InputError on zero spheres, NaN, or
    an outer radius below the inner one. In float64 the operators' twins answer, as references."""
    if centers.dtype not in (torch.float32, torch.float64):
        raise InputError(f"pack: centers must be torch.float32, got {centers.dtype}")
    _check("pack", "centers", centers, (None, 3), centers)
    count = len(centers)
    for name, radii in (("inner_radii", inner_radii), ("outer_radii", outer_radii)):
        _check("pack", name, radii, (count,), centers)
    spheres = torch.cat([centers, inner_radii[:, None], outer_radii[:, None]], 1).detach()
    if count == 0:
        raise InputError("pack: centers must hold at least one sphere, got none")
    if not (spheres.isfinite().all() and (inner_radii >= 0).all() and (outer_radii >= inner_radii).all()):
        raise InputError("pack: expected finite centers and 0 <= inner_radii <= outer_radii")
    return Shell(spheres, torch.from_numpy(_tree(spheres.cpu().numpy())).to(spheres.device))


@torch.no_grad()
def shell_intervals(shell: Shell, origins: Tensor, directions: Tensor, rule: str = "every") -> Intervals:
    """Where rays, origins and directions (n, 3) float32, pass the interlayer: from t = 0 on, inside outer spheres, before
    the first inner sphere. A direction of length 0 meets nothing.

    `every`: each sphere's chord, which may overlap; the others: disjoint stretches with one owner each (seams to 1e-6).
    """
    rays = _rays("shell_intervals", shell, origins, directions)
    return Intervals(*_call("shell_intervals", *shell, *rays, _rule("shell_intervals", rule, RULES)))


@torch.no_grad()
def shell_owner(shell: Shell, points: Tensor, rule: str) -> Tensor:
    """The sphere (n,) int64 that answers for each point (n, 3) float32, -1 outside all outer spheres.

    `smallest`: the smallest outer sphere that contains it (the paper's query rule); `relative`: the least |x - c| / r.
    """
    points = _check("shell_owner", "points", points, (None, 3), shell.spheres)
    return _call("shell_owner", *shell, points, _rule("shell_owner", rule, RULES[1:]))


@torch.no_grad()
def shell_gap(shell: Shell, points: Tensor, inner: bool) -> tuple[Tensor, Tensor]:
    """min |x - c| - r over the inner or outer spheres for points (n, 3) float32: (n,) float32, and that sphere (n,) int64."""
    return _call("shell_gap", *shell, _check("shell_gap", "points", points, (None, 3), shell.spheres), inner)


@torch.no_grad()
def shell_field(shell: Shell, network: Network, points: Tensor, owner: Tensor, gradient: bool = False) -> tuple[Tensor, Tensor]:
    """The prediction (n,) of each point's owner (n,) int64, and its gradient (n, 3), empty unless asked for."""
    points = _check("shell_field", "points", points, (None, 3), shell.spheres)
    owner = _check("shell_field", "owner", owner, (len(points),), shell.spheres, torch.int64)
    if not owner.is_cuda and len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(shell.spheres):
        raise InputError(f"shell_field: owner must be 0 to {len(shell.spheres) - 1}, got {int(owner.min())} to {int(owner.max())}")
    return _call("shell_field", shell.spheres, *_network("shell_field", shell, network), points, owner, gradient, plain=_beyond(network))


@torch.no_grad()
def shell_sdf(shell: Shell, network: Network, points: Tensor, rule: str) -> Tensor:
    """Total signed distance (n,) of points (n, 3) float32 (dss.md, section 8): in an inner sphere the gap to it; in the
    interlayer the owner's prediction, no more than that gap; elsewhere the distance to the outer spheres, its sign that
    of the prediction at the nearest place of the nearest one."""
    points = _check("shell_sdf", "points", points, (None, 3), shell.spheres)
    rule = _rule("shell_sdf", rule, RULES[1:])
    return _call("shell_sdf", *shell, *_network("shell_sdf", shell, network), points, rule, plain=_beyond(network))


@torch.no_grad()
def shell_trace(shell: Shell, network: Network, origins: Tensor, directions: Tensor, rule: str, exact: bool = True,
                everywhere: bool = False, tolerance: float = 1e-5) -> Traced:  # fmt: skip
    """First hits of rays, origins and directions (n, 3) float32, in the field as `rule` cuts it into intervals.

    `exact`: the first change of sign, bracketed to `tolerance`; solid begins where an inner sphere is entered at the
    latest, and a ray from inside the solid hits at t = 0. Otherwise the paper's hit rule (dss.md, section 7), which may
    miss. `everywhere`: with the rule `every`, trace all intervals to their ends, as if in parallel; the hits are the same,
    and `steps` are the paper's.
    """
    rays = _rays("shell_trace", shell, origins, directions)
    if not 0 < tolerance < 1:
        raise InputError(f"shell_trace: tolerance must lie between 0 and 1, got {tolerance}")
    network, rule = _network("shell_trace", shell, network), _rule("shell_trace", rule, RULES)
    return Traced(*_call("shell_trace", *shell, *network, *rays, rule, exact, everywhere, tolerance, plain=_beyond(network)))


# ------------------------------------------------------------------------------------------------------------- checks


def _call(name: str, *arguments: object, plain: bool = False) -> tuple[Tensor, ...] | Tensor:
    """Run an operator, the twin itself for float64 or where `plain` says so. The first argument is the shell's spheres."""
    if plain or arguments[0].dtype == torch.float64:
        return getattr(twins, name)(*arguments)
    from kernels import build  # the compiler's business is none of `import dss`

    build.load()
    return getattr(torch.ops.dss, name).default(*arguments)


def _beyond(network: Network) -> bool:
    """Whether a network is more than the CUDA kernels take."""
    _, width, octaves, *_ = network.sizes
    return network.table.is_cuda and (width > 128 or octaves > 10)


def _check(op: str, name: str, value: Tensor, shape: tuple[int | None, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`value`, contiguous. Raises InputError where it is not as expected: shape, dtype (None: that of `like`), device, finite."""
    if not isinstance(value, Tensor):
        raise InputError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    dtype = dtype or like.dtype
    if value.dtype != dtype:
        raise InputError(f"{op}: {name} must be {dtype}, got {value.dtype}")
    if value.dim() != len(shape) or any(size not in (None, got) for size, got in zip(shape, value.shape, strict=True)):
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        raise InputError(f"{op}: {name} must have the shape ({expected}), got {tuple(value.shape)}")
    if value.device != like.device:
        raise InputError(f"{op}: {name} must be on {like.device} like the shell, got {value.device}")
    if dtype.is_floating_point and not value.is_cuda and not value.isfinite().all():
        raise InputError(f"{op}: {name} must be finite, got NaN or infinity in {int((~value.isfinite()).sum())} places")
    return value.detach().contiguous()


def _rays(op: str, shell: Shell, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    origins = _check(op, "origins", origins, (None, 3), shell.spheres)
    return origins, _check(op, "directions", directions, (len(origins), 3), shell.spheres)


def _rule(op: str, rule: str, known: tuple[str, ...]) -> int:
    if rule not in known:
        raise InputError(f"{op}: rule must be one of {', '.join(known)}; got {rule!r}")
    return RULES.index(rule)


def _network(op: str, shell: Shell, network: Network) -> Network:
    layers, width, octaves, *_ = network.sizes
    if layers < 1 or width < 1:
        raise InputError(f"{op}: network must have at least one hidden layer, got {layers} of width {width}")
    _check(op, "network.table", network.table, (len(shell.spheres), width), shell.spheres)
    _check(op, "network.weights", network.weights, (width * 6 * octaves + (layers - 1) * (width + 1) * width + width + 1,), shell.spheres)
    return network


# --------------------------------------------------------------------------------------------------------------- tree


def _tree(spheres: np.ndarray) -> np.ndarray:
    """Records (N, 6, 8) of the tree over spheres (S, 5), as kernels/shell.h describes them: full leaves, cut at medians."""
    centers, outer = spheres[:, :3], spheres[:, 4:]
    levels = 0
    while WIDE ** (levels + 1) < len(spheres):
        levels += 1
    first_leaf = (WIDE**levels - 1) // (WIDE - 1)
    records = np.full((first_leaf + WIDE**levels, 6, WIDE), FAR, np.float32)
    records[first_leaf:, 3:5], records[first_leaf:, 5] = 0, -1

    def parts(index: np.ndarray, count: int) -> list[np.ndarray]:
        if count == 1:
            return [index]
        index = index[np.argsort(centers[index, np.ptp(centers[index], axis=0).argmax()])]
        cut = len(index) * (count // 2) // count
        return parts(index[:cut], count // 2) + parts(index[cut:], count - count // 2)

    def fill(node: int, index: np.ndarray, level: int) -> np.ndarray:
        if level == 0:
            records[node, :5, : len(index)], records[node, 5, : len(index)] = spheres[index].T, index
        else:
            for k, part in enumerate(parts(index, -(-len(index) // WIDE**level))):
                records[node, :, k] = fill(WIDE * node + 1 + k, part, level - 1)
        margin = 1e-6  # for rounding
        return np.concatenate([(centers - outer)[index].min(0) - margin, (centers + outer)[index].max(0) + margin])

    fill(0, np.arange(len(spheres)), levels)
    return records


# ------------------------------------------------------------------------------------------------------- registration

SHELL = "Tensor spheres, Tensor tree"
NETWORK = "Tensor table, Tensor weights, int[] sizes, float frequency, bool half"
RAYS = "Tensor origins, Tensor directions"
LONG = torch.int64


def _fake_intervals(spheres, tree, origins, directions, rule):
    n, m = len(origins), torch.library.get_ctx().new_dynamic_size()
    new = origins.new_empty
    return new(n + 1, dtype=LONG), new(m), new(m), new(m, dtype=LONG), new(n)


def _fake_owner(spheres, tree, points, rule):
    return points.new_empty(len(points), dtype=LONG)


def _fake_gap(spheres, tree, points, inner):
    return points.new_empty(len(points)), points.new_empty(len(points), dtype=LONG)


def _fake_field(spheres, table, weights, sizes, frequency, half, points, owner, gradient):
    return points.new_empty(len(points)), points.new_empty(len(points) if gradient else 0, 3)


def _fake_sdf(spheres, tree, table, weights, sizes, frequency, half, points, rule):
    return points.new_empty(len(points))


def _fake_trace(spheres, tree, table, weights, sizes, frequency, half, origins, *_):
    n, new = len(origins), origins.new_empty
    return new(n), new(n, dtype=LONG), new(n, 3), new(n, dtype=torch.int32), new(n, dtype=torch.int32)


def _register(name: str, schema: str, twin: Callable, fake: Callable) -> None:
    def backward(ctx, *_):
        raise RuntimeError(f"{name} is not differentiable; a field is, through its forward")

    torch.library.define(f"dss::{name}", schema)
    torch.library.impl(f"dss::{name}", "CompositeExplicitAutograd", twin)
    torch.library.register_fake(f"dss::{name}", fake)
    torch.library.register_autograd(f"dss::{name}", backward)


_register(
    "shell_intervals",
    f"({SHELL}, {RAYS}, int rule) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    twins.shell_intervals,
    _fake_intervals,
)
_register("shell_owner", f"({SHELL}, Tensor points, int rule) -> Tensor", twins.shell_owner, _fake_owner)
_register("shell_gap", f"({SHELL}, Tensor points, bool inner) -> (Tensor, Tensor)", twins.shell_gap, _fake_gap)
_register(
    "shell_field",
    f"(Tensor spheres, {NETWORK}, Tensor points, Tensor owner, bool gradient) -> (Tensor, Tensor)",
    twins.shell_field,
    _fake_field,
)
_register("shell_sdf", f"({SHELL}, {NETWORK}, Tensor points, int rule) -> Tensor", twins.shell_sdf, _fake_sdf)
_register(
    "shell_trace",
    f"({SHELL}, {NETWORK}, {RAYS}, int rule, bool exact, bool everywhere, float tolerance) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    twins.shell_trace,
    _fake_trace,
)
