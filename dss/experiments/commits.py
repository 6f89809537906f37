"""The tracer of another commit against that of this working tree, on the CPU and in one process."""

import io
import shutil
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dss import ops
from dss.errors import InputError
from dss.experiments.timing import Row, clock
from dss.fields.base import Field
from dss.ops import reference
from dss.tables import Column
from kernels import build

TOLERANCE = 1e-6  # of the hits
FINE = 1e-10  # the same, for the reference
SAME = 1e-5  # depths that differ from the reference's by no more are right
CPU = torch.device("cpu")
COLUMNS = (
    Column("spheres", "S", "d"),
    Column("queries_before", "queries before", ",d"),
    Column("queries", "queries now", ",d"),
    Column("checked", "rays checked", ",d"),
    Column("wrong_before", "wrong before", "d"),
    Column("wrong", "wrong now", "d"),
    Column("differ", "hits that differ", "d"),
    Column("ms_before", "ms before", ".1f"),
    Column("ms", "ms now", ".1f"),
    Column("ratio", "times faster", ".2f"),
    Column("ratio_low", "25 %", ".2f"),
    Column("ratio_high", "75 %", ".2f"),
)

Operator = Callable[..., tuple[Tensor, ...]]


def tracers(commit: str) -> tuple[Operator, Operator]:
    """The operator `shell_trace` of a commit, compiled for this, and that of the working tree.

    Raises InputError where there is no such commit, its operator takes other arguments, or
    something cannot be compiled.
    """
    now = build.load()["cpu"]
    if not now.startswith("compiled"):
        raise InputError(f"the operators of the working tree are {now}: nothing to compare")
    with tempfile.TemporaryDirectory() as folder:
        checksum = _unpack(commit, Path(folder))
        # The macro renames the C++ namespace and what the operators are registered under.
        name = f"dss_{checksum}"
        if not hasattr(getattr(torch.ops, name), "shell_trace"):
            schema = str(torch.ops.dss.shell_trace.default._schema).removeprefix("dss::")
            torch.library.define(f"{name}::shell_trace", schema.removeprefix("shell_trace"))
            flags = [*build.CPU_FLAGS, f"-Ddss={name}"]
            library = Path(folder, f"{name}.so")
            try:
                build.compile_library(library, Path(folder, "cpu.cpp"), flags)
            except (OSError, RuntimeError) as error:
                raise InputError(f"{commit}: its kernels do not compile ({error})") from error
    return getattr(torch.ops, name).shell_trace, torch.ops.dss.shell_trace


def _unpack(commit: str, folder: Path) -> str:
    """Write the kernels of a commit into a folder; the commit's checksum."""
    if shutil.which("git") is None:
        raise InputError("git is not installed, and another commit cannot be read without it")
    git = ["git", "-C", str(build.HERE)]

    def output(*words: str) -> bytes:
        done = subprocess.run([*git, *words], capture_output=True)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1]
            raise InputError(f"{commit}: {reason}; name a commit of this repository")
        return done.stdout

    checksum = output("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    archive = output("archive", "--format=tar", checksum.decode().strip())  # of HERE alone
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return checksum.decode()[:12]


def compare(
    pair: tuple[Operator, Operator], field: Field, rays: tuple[Tensor, Tensor], repeats: int,
    checked: int,
) -> Row:  # fmt: skip
    """The two operators on the same rays by the exact rule, in turns: medians of milliseconds and
    of the ratios, with their quartiles. About `checked` of the rays, evenly spread, are compared
    with the reference in float64, which is slow."""
    shell, network, rule = field.shell.packed, field.network(), ops.RULES.index(field.owner_rule)
    options = (rule, True, False, TOLERANCE)
    calls = [partial(tracer, *shell, *network, *rays, *options) for tracer in pair]
    before, now = (ops.Traced(*call()) for call in calls)  # these warm up, too
    times = np.array([[_duration(call) for call in calls] for _ in range(repeats)])
    low, ratio, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    some = slice(None, None, max(1, len(rays[0]) // checked))
    truth = _reference(shell, network, [part[some] for part in rays], rule)
    wrong = [int(_differ(traced.t[some], truth).sum()) for traced in (before, now)]
    return {
        "spheres": len(shell.spheres),
        "queries_before": int(before.steps.sum()),
        "queries": int(now.steps.sum()),
        "checked": len(truth),
        "wrong_before": wrong[0],
        "wrong": wrong[1],
        "differ": int((before.t.isfinite() != now.t.isfinite()).sum()),
        "ms_before": statistics.median(times[:, 0]),
        "ms": statistics.median(times[:, 1]),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
    }


def _duration(call: Callable[[], object]) -> float:
    start = clock(CPU)
    call()
    return clock(CPU) - start


def _reference(shell: ops.Shell, network: ops.Network, rays: Iterable[Tensor], rule: int) -> Tensor:
    """Depths by the reference in float64."""
    spheres, tree, table, weights = (tensor.double() for tensor in (*shell, *network[:2]))
    rays = (part.double() for part in rays)
    options = (rule, True, False, FINE)
    return reference.shell_trace(spheres, tree, table, weights, *network[2:], *rays, *options)[0]


def _differ(t: Tensor, truth: Tensor) -> Tensor:
    """Whether depths (n,), inf on a miss, are not the same."""
    return ~((t - truth).abs() <= SAME) & (t.isfinite() | truth.isfinite())
