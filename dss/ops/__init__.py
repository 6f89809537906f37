"""The hot operations on rays, points and shells, as torch operators `dss::shell_*`.

Each one has a slow and obvious reference in plain torch (dss/ops/reference.py). It runs until the
same mathematics, in C++ or CUDA, is compiled for the device (kernels/), which happens at the first
use. Callers never ask which one it is.

The functions below check their arguments, and raise InputError with the names of the operator and
the argument and with what was expected. On CUDA they do not look at values, since that would wait
for the device. A ray with NaN or infinity is a miss everywhere, and such a point is outside all
spheres, infinitely far away. Nothing here is differentiable: fields are trained through plain
torch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dss.errors import InputError
from dss.ops import reference, registration
from dss.ops.tree import build_tree

# every: each sphere is asked along the ray's whole way through it (the paper).
# smallest, relative: each point has one owner, see shell_owner.
RULES = ("every", "smallest", "relative")

registration.register_all()


class Shell(NamedTuple):
    """A dual shell as the operators take it; `pack` makes it."""

    spheres: Tensor  # (S, 5) float32: x y z, inner radius, outer radius
    tree: Tensor  # (N, 6, 8) float32, see kernels/shell.h


class Network(NamedTuple):
    """A field's network as the operators take it; kernels/network.h orders the weights."""

    table: Tensor  # (S, width) float32: what latent and bias add to the first layer, per sphere
    weights: Tensor  # (m,) float32
    sizes: tuple[int, int, int, bool, bool, bool]  # layers, width, octaves, local, silu, radial
    frequency: float  # of the lowest octave
    half: bool = False  # 16-bit matrix products, where the device is faster with them


class Intervals(NamedTuple):
    """Intervals of n rays, sorted by ray, then by start; t in units of the direction's length."""

    offsets: Tensor  # (n + 1,) int64: ray i has the intervals offsets[i] to offsets[i + 1]
    start: Tensor  # (m,) float32
    end: Tensor  # (m,) float32
    sphere: Tensor  # (m,) int64
    stop: Tensor  # (n,) float32: entry into the first inner sphere; 0 inside one, inf without one

    @property
    def ray(self) -> Tensor:
        """The ray (m,) int64 of each interval."""
        rays = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return rays.repeat_interleave(self.offsets.diff())

    def merged(self) -> "Intervals":
        """Disjoint intervals that cover the same: those of a ray that overlap or touch are joined.

        The sphere of a joined interval is that of its first part.
        """
        if not len(self.start):
            return self
        ray = self.ray
        # Shift later rays beyond the earlier ones, so that one running maximum serves them all.
        shift = ray.double() * (2 * self.end.max().double() + 1)
        reach = (self.end.double() + shift).cummax(0).values
        first = torch.ones_like(ray, dtype=torch.bool)
        beyond = self.start[1:].double() + shift[1:] > reach[:-1]
        first[1:] = beyond | (ray[1:] != ray[:-1])
        last = torch.cat([first[1:], first.new_ones(1)])
        counts = torch.bincount(ray[first], minlength=len(self.offsets) - 1)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        end = (reach - shift)[last].to(self.end)
        return Intervals(offsets, self.start[first], end, self.sphere[first], self.stop)


class Traced(NamedTuple):
    """First hits of n rays."""

    t: Tensor  # (n,) float32 in units of the direction's length, inf: no hit
    sphere: Tensor  # (n,) int64 that the hit lies in, -1: no hit
    normal: Tensor  # (n, 3) float32: the unit gradient of the prediction, 0: no hit
    steps: Tensor  # (n,) int32: queries of the field, without the one for the normal
    intervals: Tensor  # (n,) int32: intervals that the ray was traced in


def pack(centers: Tensor, inner_radii: Tensor, outer_radii: Tensor) -> Shell:
    """S spheres, centers (S, 3) and radii (S,) float32, with the tree over them.

    With a shell in float64 all operators run as their references, in float64.
    Raises InputError on zero spheres, NaN, or an outer radius below the inner one.
    """
    if centers.dtype not in (torch.float32, torch.float64):
        raise InputError(f"pack: centers must be torch.float32, got {centers.dtype}")
    _check("pack", "centers", centers, (None, 3), centers)
    count = len(centers)
    for name, radii in (("inner_radii", inner_radii), ("outer_radii", outer_radii)):
        _check("pack", name, radii, (count,), centers)
    if count == 0:
        raise InputError("pack: centers must hold at least one sphere, got none")
    spheres = torch.cat([centers, inner_radii[:, None], outer_radii[:, None]], 1).detach()
    ordered = (inner_radii >= 0).all() and (outer_radii >= inner_radii).all()
    if not (spheres.isfinite().all() and ordered):
        raise InputError("pack: expected finite centers and 0 <= inner_radii <= outer_radii")
    tree = torch.from_numpy(build_tree(spheres.cpu().numpy()))
    return Shell(spheres, tree.to(spheres.device))


@torch.no_grad()
def shell_intervals(
    shell: Shell, origins: Tensor, directions: Tensor, rule: str = "every"
) -> Intervals:
    """The valid intervals of rays, origins and directions (n, 3) float32: from t = 0 on, inside
    outer spheres, before the first inner sphere. A direction of length 0 has none.

    `every`: one interval per outer sphere; they may overlap. The other rules: disjoint intervals
    with one owner each; the borders between two owners are exact to 1e-6.
    """
    rays = _rays("shell_intervals", shell, origins, directions)
    rule = _rule("shell_intervals", rule, RULES)
    return Intervals(*_call("shell_intervals", *shell, *rays, rule))


@torch.no_grad()
def shell_owner(shell: Shell, points: Tensor, rule: str) -> Tensor:
    """The sphere (n,) int64 that owns each point (n, 3) float32, -1 outside all outer spheres.

    `smallest`: the smallest outer sphere that contains the point (the paper's rule for queries).
    `relative`: the one with the smallest |x - c| / r_out.
    """
    points = _points("shell_owner", shell, points)
    return _call("shell_owner", *shell, points, _rule("shell_owner", rule, RULES[1:]))


@torch.no_grad()
def shell_union_sdf(shell: Shell, points: Tensor, inner: bool) -> tuple[Tensor, Tensor]:
    """The SDF (n,) float32 of the union of the inner or the outer spheres at points (n, 3) float32,
    as min |x - c| - r, and the sphere (n,) int64 that attains it.

    Inside the union it is a bound: the union's surface is at least as far away.
    """
    return _call("shell_union_sdf", *shell, _points("shell_union_sdf", shell, points), inner)


@torch.no_grad()
def shell_field(
    shell: Shell, network: Network, points: Tensor, owner: Tensor, gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """The prediction (n,) float32 at points (n, 3) float32 of their owners (n,) int64, and its
    gradient (n, 3), which is empty unless asked for."""
    points = _points("shell_field", shell, points)
    owner = _check("shell_field", "owner", owner, (len(points),), shell.spheres, torch.int64)
    if not owner.is_cuda and len(owner):
        low, high, count = int(owner.min()), int(owner.max()), len(shell.spheres)
        if low < 0 or high >= count:
            raise InputError(f"shell_field: owner must be 0 to {count - 1}, got {low} to {high}")
    arguments = (*_network("shell_field", shell, network), points, owner, gradient)
    return _call("shell_field", shell.spheres, *arguments, plain=_too_large(network))


@torch.no_grad()
def shell_sdf(shell: Shell, network: Network, points: Tensor, rule: str) -> Tensor:
    """The total signed distance (n,) float32 of points (n, 3) float32 (docs/method.md, section 8).

    In an inner sphere: the SDF of the inner union. In the interlayer: the owner's prediction, but
    no more than that. Elsewhere: the distance to the outer union, its sign that of the prediction
    at the union's nearest point.
    """
    points = _points("shell_sdf", shell, points)
    rule = _rule("shell_sdf", rule, RULES[1:])
    network = _network("shell_sdf", shell, network)
    return _call("shell_sdf", *shell, *network, points, rule, plain=_too_large(network))


@torch.no_grad()
def shell_trace(
    shell: Shell, network: Network, origins: Tensor, directions: Tensor, rule: str,
    exact: bool = True, everywhere: bool = False, tolerance: float = 1e-5,
) -> Traced:  # fmt: skip
    """First hits of rays, origins and directions (n, 3) float32, in the intervals of `rule`.

    `exact`: a hit is the first change of sign, found to `tolerance`. Where a ray enters an inner
    sphere it is in the solid, so the hit lies before; a ray from inside the solid hits at t = 0.
    Without `exact`: the paper's rule (docs/method.md, section 7), which may miss.
    `everywhere`: with the rule `every`, trace all intervals to their ends, as if in parallel. The
    hits are the same, and `steps` are the paper's.
    """
    rays = _rays("shell_trace", shell, origins, directions)
    if not 0 < tolerance < 1:
        raise InputError(f"shell_trace: tolerance must lie between 0 and 1, got {tolerance}")
    network = _network("shell_trace", shell, network)
    options = (_rule("shell_trace", rule, RULES), exact, everywhere, tolerance)
    plain = _too_large(network)
    return Traced(*_call("shell_trace", *shell, *network, *rays, *options, plain=plain))


# ------------------------------------------------------------------------------- calls and checks


def _call(name: str, *arguments: object, plain: bool = False) -> tuple[Tensor, ...] | Tensor:
    """Run an operator, or its reference for float64 and where `plain` says so. The first argument
    is the shell's spheres."""
    if plain or arguments[0].dtype == torch.float64:
        return getattr(reference, name)(*arguments)
    from kernels import build  # here, so that `import dss` needs no compiler

    build.load()
    return getattr(torch.ops.dss, name).default(*arguments)


def _too_large(network: Network) -> bool:
    """Whether a network is more than the CUDA kernels take."""
    _, width, octaves, *_ = network.sizes
    return network.table.is_cuda and (width > 128 or octaves > 10)


def _check(
    op: str, name: str, value: Tensor, shape: tuple[int | None, ...], like: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """`value`, contiguous. Raises InputError unless it has the shape (None: any size), the dtype
    (None: that of `like`) and the device of `like`."""
    if not isinstance(value, Tensor):
        raise InputError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    dtype = dtype or like.dtype
    if value.dtype != dtype:
        raise InputError(f"{op}: {name} must be {dtype}, got {value.dtype}")
    sizes = zip(shape, value.shape, strict=False)
    if value.dim() != len(shape) or any(size not in (None, got) for size, got in sizes):
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        got = tuple(value.shape)
        raise InputError(f"{op}: {name} must have the shape ({expected}), got {got}")
    if value.device != like.device:
        device = like.device
        raise InputError(f"{op}: {name} must be on {device} like the shell, got {value.device}")
    return value.detach().contiguous()


def _points(op: str, shell: Shell, points: Tensor) -> Tensor:
    return _check(op, "points", points, (None, 3), shell.spheres)


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
        raise InputError(
            f"{op}: network must have at least one hidden layer, got {layers} of width {width}"
        )
    first, further, output = width * 6 * octaves, (width + 1) * width, width + 1
    weights = (first + (layers - 1) * further + output,)
    for name, value, shape in (
        ("network.table", network.table, (len(shell.spheres), width)),
        ("network.weights", network.weights, weights),
    ):
        _check(op, name, value, shape, shell.spheres)
        if not value.is_cuda and not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise InputError(f"{op}: {name} must be finite, got NaN or infinity in {count} places")
    return network
