"""Runs a hostile case in a process of its own, and says whether the program behaved.

What behaving means: exit code 0 and the right result, or exit code 2 and one line that says why,
within MAX_SECONDS, with the input files and finished results as they were.
"""

import faulthandler
import functools
import hashlib
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import trimesh

from dss import cli, pipeline
from dss.evaluation import geometry
from dss.shell import certify, cover, dual_shell

MAX_SECONDS = 30  # beyond which a case counts as a hang
MAX_MEMORY = 8 << 30  # bytes that a case may map beyond what its parent has
MAX_LINE = 2_000  # characters of an error
OUTCOMES = ("traceback", "exit code", "hang", "silently wrong", "lost")
IMPORTED = ("train", "eval", "render", "eval_ssim", "torch._dynamo")


# Fewer points than usual, and smaller pictures: what is tried is how bad input ends, in little time
QUICK = {
    geometry: {"SAMPLES": 1 << 12, "UNIFORM": 1 << 13},
    certify: {"SAMPLES": 20_000},
    cover: {"DENSE": 5_000, "COARSE": 20},
    dual_shell: {"COMPONENT_GRID": 32},
    pipeline: {"PICTURE": 16, "MAX_THUMBNAIL": 8},
}


@dataclass(frozen=True)
class Case:
    """Files and the command that meets them."""

    kind: str  # mesh, configuration, run, coded field, cloud, scene or weights
    what: str  # is odd about it, for the report
    write: Callable[[Path], list[str]]  # into a folder; returns the command line, script first
    # what the command must do; `either` where odd bytes may still be a valid file
    expected: Literal["accept", "refuse", "either"] = "either"
    # what is wrong with the result of exit code 0, "" if nothing; called in the folder's process
    check: Callable[[Path], str] = field(default=lambda folder: "", repr=False)


@dataclass(frozen=True)
class Verdict:
    outcome: str  # one of OUTCOMES, or "" where the program behaved
    code: int
    detail: str


@functools.cache
def prepare() -> None:
    """Import and build once what every case needs; the processes of the cases then begin there."""
    from dss.geometry.distance import MeshDistance
    from kernels import build

    torch.set_num_threads(1)  # threads do not survive the beginning of a process
    for module, values in QUICK.items():
        for name, value in values.items():
            assert hasattr(module, name)
            setattr(module, name, value)
    for name in IMPORTED:
        importlib.import_module(name)
    build.load()
    box = trimesh.creation.box()
    MeshDistance(np.array(box.vertices), np.array(box.faces)).sdf(np.zeros((1, 3)))


def judge(case: Case, folder: Path | None = None) -> Verdict:
    """Write, run and judge a case, in `folder` where it is to be kept."""
    prepare()
    place = Path(tempfile.mkdtemp()) if folder is None else folder
    try:
        command = case.write(place)
        before = _contents(place)
        code, out, err, seconds = _run(place, lambda: _call(command))
        verdict = _judged(case, place, code, out, err, seconds, before)
        if code == 0 and not verdict:
            code_of_check, found, trouble, _ = _run(
                place, lambda: sys.stdout.write(case.check(place))
            )
            if code_of_check != 0 or found:
                verdict = Verdict("silently wrong", 0, found or _last(trouble))
        return verdict or Verdict("", code, _last(err))
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def _judged(case, place, code, out, err, seconds, before) -> Verdict | None:
    """What exit code, output and files tell, without the result."""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    if seconds > MAX_SECONDS:
        where = [line.strip() for line in lines if line.strip().startswith("File")]
        return Verdict("hang", code, " < ".join(where[:3]) or "in native code")
    if "Traceback (most recent call last)" in err + out:
        return Verdict("traceback", code, _last(err))
    if code not in (0, 2):
        return Verdict("exit code", code, f"{code} ({_last(err)})")
    if code == 2 and (len(errors) != 1 or lines[-1:] != errors or len(errors[0]) > MAX_LINE):
        return Verdict("exit code", code, f"2 with {len(errors)} errors in {len(lines)} lines")
    if code == 0 and case.expected == "refuse":
        return Verdict("silently wrong", code, "accepted")
    if code == 2 and case.expected == "accept":
        return Verdict("exit code", code, f"refused: {_last(err)}")
    # a success may mend the run; nothing else may touch what is there
    after = _contents(place)
    lost = [name for name in before if after.get(name) != before[name]]
    if lost := [name for name in lost if code or not name.startswith("run/")]:
        return Verdict("lost", code, f"{lost[0]} is gone or changed")
    if left := [path.name for path in place.rglob(".*.*") if str(os.getpid()) in path.name]:
        return Verdict("lost", code, f"{left[0]} is left")
    return None


def _contents(place: Path) -> dict[str, str]:
    """Digests of the files in a folder that a command may not change when it refuses."""
    found = {}
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        free = name.startswith(("run/log", "std")) or path.name in ("eval.json", "fit.json")
        if path.is_file() and not (path.is_symlink() or free or path.name.startswith(".")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else ""


def _call(command: list[str]) -> None:
    name, *arguments = command
    sys.argv = [f"{name}.py", *arguments]
    cli.run(importlib.import_module(name).main)


def _run(place: Path, work: Callable[[], None]) -> tuple[int, str, str, float]:
    """Exit code (negative: the signal), output, errors and seconds of `work` in a new process."""
    streams = [place / "stdout", place / "stderr"]
    sys.stdout.flush()
    sys.stderr.flush()
    child, start = os.fork(), time.monotonic()
    if child == 0:
        _begin(place, streams, work)  # never returns
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        time.sleep(0.005)
        if time.monotonic() - start > MAX_SECONDS:
            os.kill(child, signal.SIGKILL)
    seconds, code = time.monotonic() - start, os.waitstatus_to_exitcode(found[1])
    out, err = (path.read_text("utf-8", errors="replace") for path in streams)
    return code, out, err, seconds


def _begin(place: Path, streams: list[Path], work: Callable[[], None]) -> None:
    """The life of a case's process."""
    code = 1
    try:
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
        faulthandler.dump_traceback_later(0.9 * MAX_SECONDS, file=2)  # where it hangs
        os.chdir(place)
        if not torch.cuda.is_available():  # CUDA reserves far more addresses than it uses
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MAX_MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def report(verdicts: list[tuple[Case, Verdict]]) -> str:
    """A table in Markdown: for each kind of case, how many were tried and what went wrong."""
    kinds = list(dict.fromkeys(case.kind for case, _ in verdicts))
    rows = [["", "tried", *OUTCOMES]]
    for kind in [*sorted(kinds), "all"]:
        mine = [verdict for case, verdict in verdicts if kind in (case.kind, "all")]
        counts = [sum(verdict.outcome == outcome for verdict in mine) for outcome in OUTCOMES]
        rows.append([kind, *map(str, [len(mine), *counts])])
    rows.insert(1, ["---", *["--:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
