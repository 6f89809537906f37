"""Every operator on some device against what it gave on a CPU, which one npz file holds.

Reading and checking needs torch and numpy alone, since a machine with a GPU may have nothing else;
recording needs all of dss. The file holds rays and points, hostile ones among them, a shell, the
networks of several fields in it, and all results.
"""

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dss import ops
from dss.errors import InputError
from kernels import build

COUNT = 2000  # rays, and points
NETWORKS = {  # beside the fitted one: settings of fields that are left as they begin
    "leaky 2x128": {
        "owner": "smallest", "local": False, "octaves": 6, "activation": "leaky_relu",
        "output": "tanh",
    },
    "silu 3x40": {"width": 40, "layers": 3},
    "silu 4x128": {"layers": 4, "octaves": 10},
    "leaky 1x64": {"width": 64, "layers": 1, "activation": "leaky_relu"},
}  # fmt: skip
FITTED = "fitted 2x128"
BRIEF = [
    "spheres.count=64", "samples.count=60000", "fit.epochs=6", "fit.resample=6",
    "fit.batch_size=4096",
]  # fmt: skip
HOSTILE = (torch.nan, torch.inf, -torch.inf, 1e30, 0.0)  # in the first rays and points
BITS = ", 16 bits"
SHELL = ("centers", "inner_radii", "outer_radii")

Results = dict[str, Tensor]
Check = tuple[str, Callable[[], str]]  # a name, and what finds a fault, empty where there is none
# Of each output: by how much it may differ, next to 1 + its size, and on which share of the rays or
# points it may differ by more. Rays that graze a sphere, ties and kinks are decided by rounding.
Limits = dict[str, tuple[float, float]]
LIMITS: dict[str, Limits] = {
    "shell_intervals": {
        "count": (0, 0.003), "stop": (1e-4, 0.003), "start": (1e-4, 0.003), "end": (1e-4, 0.003),
        "sphere": (0, 0.003),
    },
    "shell_owner": {"owner": (0, 0.003)},
    "shell_union_sdf": {"distance": (1e-5, 0), "sphere": (0, 0.003)},
    "shell_field": {"value": (2e-5, 0.001), "gradient": (1e-3, 0.02)},
    "shell_sdf": {"value": (2e-5, 0.003)},
    "shell_trace": {
        "hit": (0, 0.003), "t": (1e-4, 0.01), "sphere": (0, 0.01), "normal": (1e-2, 0.02),
        "steps": (0, 0.2), "intervals": (0, 0.02),
    },
}  # fmt: skip
HALF_LIMITS: dict[str, Limits] = {  # with products of 16 bits
    "shell_field": {"value": (4e-3, 0.001), "gradient": (4e-2, 0.05)},
    "shell_sdf": {"value": (4e-3, 0.003)},
    "shell_trace": {"hit": (0, 0.01), "t": (1e-3, 0.03), "normal": (3e-2, 0.1)},
}


class Case(NamedTuple):
    """One call of an operator."""

    operator: str
    options: str  # that tell it from others of the operator
    run: Callable[[], Results]
    limits: Limits

    @property
    def name(self) -> str:
        return f"{self.operator} {self.options}"

    @property
    def expected(self) -> str:
        """The case whose recorded results this one's should be."""
        return self.name.removesuffix(BITS)


class Inputs(NamedTuple):
    """What the operators are called with."""

    shell: ops.Shell
    networks: dict[str, ops.Network]
    points: Tensor  # (n, 3)
    origins: Tensor  # (n, 3)
    directions: Tensor  # (n, 3)


def cases(inputs: Inputs, count: int = COUNT, half: bool = True) -> Iterator[Case]:
    """All calls, on the first `count` rays and points; the networks in 32 bits, then in 16."""
    shell, (points, origins, directions) = inputs.shell, (part[:count] for part in inputs[2:])
    rays = origins, directions

    def case(name: str, options: str, run: Callable[[], Results], limits=LIMITS) -> Case:
        return Case(name, options, run, limits[name])

    for rule in ops.RULES:
        yield case("shell_intervals", rule, lambda rule=rule: _intervals(shell, *rays, rule))
    for rule in ops.RULES[1:]:
        owner = lambda rule=rule: {"owner": ops.shell_owner(shell, points, rule)}  # noqa: E731
        yield case("shell_owner", rule, owner)
    for side, inner in (("inner", True), ("outer", False)):
        yield case("shell_union_sdf", side, lambda inner=inner: _union(shell, points, inner))
    asked = _inside(shell, points)
    for name, network in inputs.networks.items():
        for bits, limits in (("", LIMITS), (BITS, HALF_LIMITS))[: 1 + half]:
            net = network._replace(half=bool(bits))
            field = lambda net=net: _field(shell, net, *asked)  # noqa: E731
            yield case("shell_field", f"{name}{bits}", field, limits)
            for rule in ops.RULES[1:]:
                sdf = lambda net=net, rule=rule: {  # noqa: E731
                    "value": ops.shell_sdf(shell, net, points, rule)
                }
                yield case("shell_sdf", f"{name}, {rule}{bits}", sdf, limits)
            for rule, exact in (("relative", True), ("smallest", True), ("every", False)):
                trace = lambda net=net, options=(rule, exact): _trace(  # noqa: E731
                    shell, net, *rays, *options
                )
                kind = "exact" if exact else "paper"
                yield case("shell_trace", f"{name}, {rule}, {kind}{bits}", trace, limits)


def checks(path: Path, device: torch.device) -> Iterator[Check]:
    """The checks of every operator on the device against the file. The first one is of the library:
    where it is not compiled, torch would be compared with itself."""
    stored = read(path)
    yield "library", lambda: _library(device)
    for case in cases(inputs_of(stored, device)):
        yield case.name, lambda case=case: _fault(case, stored)


def call(path: Path, device: torch.device, count: int) -> None:
    """Call every operator with the first `count` rays and points, and compare nothing."""
    for case in cases(inputs_of(read(path), device), count):
        case.run()


def compare(got: Results, expected: Results, limits: Limits) -> str:
    """What is wrong with the results, in words; empty where nothing is."""
    if missing := limits.keys() - expected.keys():
        return f"nothing was recorded for {', '.join(sorted(missing))}"
    if "count" in got and len(got["count"]) == len(expected["count"]):  # intervals, packed
        same = got["count"] == expected["count"]
        got, expected = (_intervals_of(results, same) for results in (got, expected))
    faults = []
    for name, (size, share) in limits.items():
        mine, theirs = got[name], expected[name]
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            faults.append(f"{name}: {tuple(mine.shape)} {mine.dtype}, not {tuple(theirs.shape)}")
            continue
        mine, theirs = (part.double().reshape(len(part), -1) for part in (mine, theirs))
        close = (mine - theirs).abs() <= size * (1 + theirs.abs())
        wrong = ~(close | (mine == theirs) | (mine.isnan() & theirs.isnan())).all(1)
        if len(wrong) and wrong.double().mean() > share:
            largest = (mine - theirs).abs().nan_to_num(torch.inf).max()
            faults.append(f"{name}: {wrong.double().mean():.2%} differ, by up to {largest:.1e}")
    return "; ".join(faults)


def _library(device: torch.device) -> str:
    found = build.load()[device.type]
    return "" if found.startswith("compiled") else found


def _fault(case: Case, stored: dict[str, np.ndarray]) -> str:
    prefix = f"{case.expected}/"
    expected = {
        key.removeprefix(prefix): torch.from_numpy(value)
        for key, value in stored.items()
        if key.startswith(prefix)
    }
    try:
        got = {key: value.cpu() for key, value in case.run().items()}
    except RuntimeError as error:  # torch's, of the device too: later cases may still say more
        return " ".join(str(error).split())[:200]
    return compare(got, expected, case.limits)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that `record` wrote. Raises InputError where it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        remedy = "make one on a complete machine with scripts/check_cuda.py --record"
        raise InputError(f"{path}: no recorded results ({error}); {remedy}") from error


def inputs_of(stored: dict[str, np.ndarray], device: torch.device) -> Inputs:
    """The inputs on a device. Raises InputError where the file lacks some."""
    try:
        shell = ops.pack(*(torch.from_numpy(stored[f"shell/{key}"]) for key in SHELL))
        names = [key.split("/")[1] for key in stored if key.endswith("/table")]
        networks = {name: network_of(stored, f"network/{name}", device) for name in names}
        rest = (torch.from_numpy(stored[key]).to(device) for key in Inputs._fields[2:])
    except KeyError as error:
        raise InputError(f"recorded results without {error}; record them again") from error
    return Inputs(ops.Shell(*(tensor.to(device) for tensor in shell)), networks, *rest)


def arrays_of(network: ops.Network, prefix: str) -> dict[str, np.ndarray]:
    """A network as arrays, which `network_of` makes one again."""
    parts = {"table": network.table, "weights": network.weights}
    found = {f"{prefix}/{key}": value.cpu().numpy() for key, value in parts.items()}
    sizes = np.array([int(size) for size in network.sizes])
    return found | {f"{prefix}/sizes": sizes, f"{prefix}/frequency": np.array(network.frequency)}


def network_of(stored: dict[str, np.ndarray], prefix: str, device: torch.device) -> ops.Network:
    """The network of these arrays, on a device."""
    table, weights = (
        torch.from_numpy(stored[f"{prefix}/{key}"]).to(device) for key in ("table", "weights")
    )
    layers, width, octaves, *flags = stored[f"{prefix}/sizes"].tolist()
    sizes = (layers, width, octaves, *map(bool, flags))
    return ops.Network(table, weights, sizes, float(stored[f"{prefix}/frequency"]))


def record(path: Path, mesh: str = "demo", overrides: tuple[str, ...] = ()) -> None:
    """Fit a small field to a mesh, and write what all operators make of it on this CPU.

    `overrides` are settings of an even shorter fit. Raises InputError where nothing can be written.
    """
    from dss import pipeline
    from dss.fields import build
    from dss.fields.dual_shell import DualShellSettings
    from dss.files import replacing
    from dss.registry import load_config

    config = load_config("fast", [*BRIEF, *overrides], mesh)
    with tempfile.TemporaryDirectory() as folder:
        fitted = pipeline.fit_run(config, Path(folder)).field
    torch.manual_seed(0)
    geometry = fitted.shell.geometry
    networks = {FITTED: fitted.network()} | {
        name: build(DualShellSettings(**options), geometry).network()
        for name, options in NETWORKS.items()
    }
    inputs = Inputs(fitted.shell.packed, networks, *_places(COUNT))
    stored = {key: getattr(inputs, key).numpy() for key in Inputs._fields[2:]}
    stored |= {f"shell/{key}": geometry[f"shell.{key}"].numpy() for key in SHELL}
    for name, network in networks.items():
        stored |= arrays_of(network, f"network/{name}")
    for case in cases(inputs, half=False):
        stored |= {f"{case.name}/{key}": value.numpy() for key, value in case.run().items()}
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **stored)


def _places(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, origins and directions (count, 3) each, the first ones hostile. Rays come from far
    outside and from within, and their directions have several lengths."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator) * 2.2 - 1.1
    eyes, aims = torch.randn(2, count, 3, generator=generator)
    origins = torch.where(torch.arange(count)[:, None] % 4 > 0, normalize(eyes, dim=1) * 3, points)
    directions = normalize(0.4 * aims - origins, dim=1)
    directions *= torch.linspace(0.5, 2, count)[:, None]
    for i, value in enumerate(HOSTILE):
        points[i, i % 3] = origins[2 * i, i % 3] = directions[2 * i + 1, i % 3] = value
    directions[-1] = 0
    return points, origins, directions


def _inside(shell: ops.Shell, points: Tensor) -> tuple[Tensor, Tensor]:
    """Finite points, and for each the sphere that it is nearest to, by plain arithmetic, so that
    nothing depends on an operator. NaN and infinity are no places where a network is asked."""
    points = points[len(HOSTILE) :]
    return points, torch.cdist(points.cpu(), shell.spheres[:, :3].cpu()).argmin(1).to(points.device)


def _intervals(shell: ops.Shell, origins: Tensor, directions: Tensor, rule: str) -> Results:
    found = ops.shell_intervals(shell, origins, directions, rule)
    rest = {"start": found.start, "end": found.end, "sphere": found.sphere}
    return {"count": found.offsets.diff(), "stop": found.stop} | rest


def _intervals_of(results: Results, rays: Tensor) -> Results:
    """The results with the intervals of some rays (n,) bool only."""
    kept = rays.repeat_interleave(results["count"])
    return results | {key: results[key][kept] for key in ("start", "end", "sphere")}


def _union(shell: ops.Shell, points: Tensor, inner: bool) -> Results:
    return dict(zip(("distance", "sphere"), ops.shell_union_sdf(shell, points, inner), strict=True))


def _field(shell: ops.Shell, network: ops.Network, points: Tensor, owner: Tensor) -> Results:
    results = ops.shell_field(shell, network, points, owner, gradient=True)
    return dict(zip(("value", "gradient"), results, strict=True))


def _trace(
    shell: ops.Shell, network: ops.Network, origins: Tensor, directions: Tensor, rule: str,
    exact: bool,
) -> Results:  # fmt: skip
    traced = ops.shell_trace(shell, network, origins, directions, rule, exact)
    return traced._asdict() | {"hit": traced.t.isfinite()}
