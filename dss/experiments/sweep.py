"""Many meshes with one configuration: a run folder and a status for each, on one machine or many.

DIR/status.sqlite, DIR/status.csv    how each mesh ended (dss/experiments/status.py)
DIR/MESH/                            its run folder, and eval.json
DIR/log/                             progress, for TensorBoard
DIR/.work/                           what goes on (dss/experiments/mesh_process.py)
"""

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dss.config import Config
from dss.errors import InputError, listed
from dss.experiments.executors import LocalExecutor, RayExecutor
from dss.experiments.mesh_process import Job, Work, supervise, work_on
from dss.experiments.status import FITTED, Outcome, StatusTable, count, write_status
from dss.files import is_file
from dss.log import Log
from dss.progress import Event, Progress, silent

WRITE_EVERY = 10.0  # seconds between versions of status.csv
# Names of other things in DIR, and of DIR and its parent
RESERVED = {"log", ".work", ".lock", "status.sqlite", "status.csv", "", ".", ".."}


def sweep(
    config: Config,
    meshes: list[Path],
    out: Path,
    executor: LocalExecutor | RayExecutor,
    retry: Collection[str] = (),
    progress: Progress = silent,
    work: Work = work_on,
    **how: Any,
) -> Iterator[Outcome]:
    """Fit and measure each mesh in the run folder out/MESH, and yield how each ends, as it does.

    A mesh that has ended already is not touched again, unless its status is one of `retry`; they
    come last. `work` is done to each; `how` are the fields of `Job` from `device` on. The
    executor is shut down at the end. Raises InputError where the folder holds another sweep, or one
    that is going on.
    """
    names = _names(meshes)
    out.mkdir(parents=True, exist_ok=True)
    with executor, _alone(out), StatusTable(out, _described(config)) as table:
        known = table.outcomes()
        for name, path in names.items():
            if name in known and known[name].path != str(path):
                raise InputError(
                    f"{path}: {out} has {known[name].path} under this name; choose another --out"
                )
        ended = {name: known[name] for name in names if name in known}
        left = {name: path for name, path in names.items() if name not in ended}
        for name, outcome in ended.items():
            if outcome.status in retry:
                left[name] = names[name]
            if outcome.status != "crashed" or name in left:
                shutil.rmtree(out / ".work" / name, ignore_errors=True)
        ended = {name: outcome for name, outcome in ended.items() if name not in left}
        yield from ended.values()

        facts = {"config": config.model_dump(), "out": str(out), "cwd": str(Path.cwd())} | how
        jobs = [Job(mesh=name, path=str(path), **facts) for name, path in left.items()]
        futures = {executor.submit(supervise, job, work): job for job in jobs}
        start = written = time.monotonic()
        try:
            with Log(out, "sweep", len(names), progress) as log:
                for done, future in enumerate(as_completed(futures), 1):
                    outcome = _outcome(future, futures[future], executor.lost)
                    table.append(outcome)
                    if outcome.status != "crashed":
                        shutil.rmtree(out / ".work" / outcome.mesh, ignore_errors=True)
                    ended[outcome.mesh] = outcome
                    rates = _rates(ended, done, len(jobs), time.monotonic() - start)
                    progress(Event(outcome.status, 1, 1, _line(outcome, rates, len(names))))
                    log.scalars(len(ended), rates)
                    if time.monotonic() - written > WRITE_EVERY:
                        write_status(out, table.outcomes().values())
                        written = time.monotonic()
                    yield outcome
        finally:
            write_status(out, table.outcomes().values())


def _names(meshes: list[Path]) -> dict[str, Path]:
    """The meshes by the names of their run folders. Raises InputError where two have the same."""
    if not meshes:
        raise InputError("no mesh to sweep; name some, or a --list of them")
    names = Counter(mesh.stem for mesh in set(meshes))
    bad = [name for name, number in names.items() if number > 1 or name in RESERVED]
    bad += [str(mesh) for mesh in meshes if not _is_text(str(mesh))]
    if bad:
        raise InputError(
            "run folders are named after their meshes, and these have a name that another one has, "
            f"or that cannot be used: {listed([ascii(name) for name in bad])}; rename them"
        )
    return {mesh.stem: mesh for mesh in meshes}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_list(path: Path) -> list[Path]:
    """The meshes that a text file names, one on each line, relative to where we are."""
    if not is_file(path):
        raise InputError(f"{path}: no such file; give a text file with one mesh on each line")
    lines = path.read_text("utf-8", "surrogateescape").splitlines()
    return [Path(line.strip()) for line in lines if line.strip()]


def _described(config: Config) -> str:
    """The configuration without the mesh."""
    tree = config.model_dump()
    tree["scene" if "scene" in tree else "mesh"].pop("path")
    return yaml.safe_dump(tree, sort_keys=False)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While this sweep alone works in its folder. Raises InputError where another one does."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{out}: another sweep is at work here; wait for it, or choose another --out"
            ) from error
        yield


def _outcome(future: "Future[Outcome]", job: Job, lost: tuple[type[Exception], ...]) -> Outcome:
    """What came of a job; where the executor lost it for good, that is what came of it."""
    try:
        return future.result()
    except lost as error:
        return Outcome(job.mesh, job.path, "crashed", str(error)[-1000:])


def _line(outcome: Outcome, rates: dict[str, float], total: int) -> str:
    """What the terminal says of a mesh that has ended."""
    left = f"{rates['done']} of {total}, {rates['minutes_left']:.0f} minutes left"
    why = "; ".join(filter(None, [outcome.reason, *outcome.warnings]))
    return " ".join(f"{outcome.mesh} ({left}) {why}".split())


def _rates(ended: dict[str, Outcome], done: int, jobs: int, seconds: float) -> dict[str, float]:
    """How far the sweep is: `done` of its `jobs` ended in `seconds`."""
    statuses = {name: number for name, number in count(ended.values()).items() if number}
    rate = 60 * done / seconds
    failed = sum(number for name, number in statuses.items() if name not in FITTED)
    rates = {"per_minute": rate, "minutes_left": (jobs - done) / rate}
    return {"done": len(ended), "failed": failed, **rates, **statuses}
