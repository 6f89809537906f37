"""Work of a sweep that ends in every way, and a driver for it: what tests of sweeps kill."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from dss.experiments import mesh_process
from dss.experiments.executors import open_executor
from dss.experiments.mesh_process import Job, Notes
from dss.experiments.status import Outcome
from dss.experiments.sweep import sweep
from dss.progress import Event
from dss.registry import load_config

GB = 1_000_000_000
mesh_process.PRELOADED = ("torch", "tests.experiments.workers")  # all that this work needs


def work(job: Job, attempt: int) -> Outcome:
    """What the name of the mesh says, up to its first underscore."""
    kind = job.mesh.partition("_")[0]
    with (Path(job.out) / "begun.txt").open("a") as file:
        file.write(f"{job.mesh} {os.getpid()} {multiprocessing.parent_process().pid}\n")
    notes = Notes(job.work)
    notes(Event("mesh", 1, 1, "a mesh"))
    notes(Event("warning", 1, 1, "a warning"))
    if kind == "raises":
        raise ZeroDivisionError("as the test asked")
    if kind == "dies" or (kind == "lost" and attempt == 1):
        os.write(2, b"a library's last words\n")
        os.kill(os.getpid(), signal.SIGKILL if kind == "lost" else signal.SIGSEGV)
    if kind == "endless" or (kind == "patient" and attempt == 1):
        time.sleep(600)
    if kind == "slow":
        time.sleep(1.0)
    held = []
    while kind == "hungry" and len(held) < 20:
        held.append(b"x" * (GB // 5))
        time.sleep(0.05)
    with (Path(job.out) / "ended.txt").open("a") as file:
        file.write(f"{job.mesh}\n")
    return Outcome(job.mesh, job.path, "ok", attempts=attempt, stages=notes.stages)


def drive(out: Path, names: list[str], address: str | None = None, **options: object) -> None:
    """Sweep meshes of these names, of which there are no files."""
    executor = open_executor(address, device="cpu")
    meshes = [Path(f"{name}.ply") for name in names]
    for _ in sweep(load_config("tiny"), meshes, out, executor, work=work, **options):
        pass


if __name__ == "__main__":
    from tests.experiments.workers import drive as started  # not of __main__, which has no name

    started(Path(sys.argv[1]), sys.argv[3:], sys.argv[2] or None)
