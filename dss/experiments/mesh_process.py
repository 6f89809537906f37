"""One mesh of a sweep in a process of its own, so that whatever happens to it happens to it alone.

`supervise` starts the process, watches its time and memory, and returns how it ended. All that is
needed to go on after a kill -9, of anything, is in DIR/.work/MESH:

lock            held by the process that works on the mesh
1.txt, 2.txt    what the first and the second process wrote to the terminal
notes.json      stages and warnings so far
outcome.json    how it ended; written once, before the row of the table
"""

import faulthandler
import fcntl
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from json import loads
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from dss.cli import OUTPUT_ERRORS, is_out_of_memory, pick_device
from dss.config import config_from_dict
from dss.errors import InputError
from dss.experiments.status import Outcome
from dss.progress import Event
from dss.tables import write_json

POLL = 0.1  # seconds between looks at a process
NOTE_EVERY = 1.0  # seconds between notes within a stage
LAST_LINES = 20  # of a process that crashed
MAX_REASON = 2000  # characters of them
TRIES = 2  # processes for a mesh that dies by a signal, which may not have been its own fault
# Imported once, before the processes part: it takes longer than many a fit.
PRELOADED = (
    *("dss.experiments.mesh_process", "dss.pipeline", "dss.evaluation.measure", "pymeshlab"),
    *("dss.geometry.distance", "dss.rendering.isosurface", "dss.shell.certify", "miniball"),
    *("dss.shell.cover", "dss.shell.farthest", "scipy.spatial", "torch._dynamo", "warp"),
)
STARTING = threading.Lock()  # of multiprocessing's list of children, which threads may not share


@dataclass(frozen=True)
class Job:
    """What to do to one mesh. Only numbers, texts and dictionaries of them, because it travels."""

    mesh: str  # the name
    path: str
    config: dict[str, Any]
    out: str  # the folder of the sweep
    cwd: str  # what relative paths are relative to
    device: str = "auto"
    resolution: int = 256  # of the mesh that is measured
    threads: int = 1
    time_limit: float | None = None  # seconds of one process
    memory_limit: float | None = None  # bytes

    @property
    def work(self) -> Path:
        return Path(self.cwd, self.out, ".work", self.mesh)

    @property
    def outcome(self) -> Path:
        return self.work / "outcome.json"


class End(NamedTuple):
    """How a process ended: its exit code, or the limit that it was killed for."""

    code: int
    limit: str
    reason: str
    seconds: float
    memory: int


Work = Callable[[Job, int], Outcome]


def supervise(
    job: Job, work: Work | None = None, stopping: Callable[[], bool] = lambda: False
) -> Outcome | None:
    """How the mesh ended, in a process of its own that goes on where an earlier one stopped.

    The process does the `work` of a job and the number of the attempt: `work_on`, where nothing
    else is named. None where `stopping` said so, which ends the process.
    """
    job.work.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        if not job.outcome.is_file():
            attempt = 1 + len(list(job.work.glob("*.txt")))
            started, kills = time.time(), _system_kills()
            end = _watched(job, attempt, stopping, work or work_on)
        if job.outcome.is_file():
            return Outcome(**loads(job.outcome.read_text("utf-8")))
        if end.limit == "stopped":
            return None
        status, reason = end.limit, end.reason
        if end.code == -signal.SIGKILL and not status and _system_kills() > kills:
            status, reason = "out_of_memory", "the system ended it, for want of memory"
        if status or end.code == 1:
            break
    if not status:
        name = signal.Signals(-end.code).name if end.code < 0 else f"exit code {end.code}"
        status, reason = "crashed", f"ended by {name}\n{_last_lines(job.work / f'{attempt}.txt')}"
    notes = Notes(job.work)
    outcome = Outcome(
        mesh=job.mesh,
        path=job.path,
        status=status,
        reason=reason,
        warnings=notes.warnings,
        about=notes.about,
        attempts=attempt,
        started=started,
        seconds=max(end.seconds, sum(notes.stages.values())),
        stages=notes.stages,
        peak_memory=end.memory,
        host=socket.gethostname(),
    )
    write_json(job.outcome, asdict(outcome))
    return outcome


def work_on(job: Job, attempt: int = 1) -> Outcome:
    """Fit and measure the mesh here and now; what is there already is not made again."""
    from dss import pipeline
    from dss.evaluation.measure import measure_run
    from dss.registry import PLUGINS

    started, notes = time.time(), Notes(job.work)
    earlier = sum(notes.stages.values())  # seconds, of other attempts
    metrics: dict[str, Any] = {}
    folder, status, reason = Path(job.out, job.mesh), "ok", ""
    device = pick_device(job.device)
    try:
        section = "scene" if "scene" in job.config else "mesh"
        tree = job.config | {section: job.config[section] | {"path": job.path}}
        config = config_from_dict(tree, "the sweep's configuration", PLUGINS)
        run = pipeline.fit_run(config, folder, device, notes)
        metrics = measure_run(run, resolution=job.resolution).metrics
        write_json(folder / "eval.json", metrics)
        notes(Event("measure", 1, 1, ""))
        if notes.warnings:
            status = "ok_with_warnings"
    except InputError as error:
        full = getattr(error.__cause__, "errno", None) in OUTPUT_ERRORS  # not the mesh's fault
        status, reason = "crashed" if full else "refused", str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status, reason = "out_of_memory", " ".join(str(error).split())[:MAX_REASON]
    return Outcome(
        mesh=job.mesh,
        path=job.path,
        status=status,
        reason=reason,
        warnings=notes.warnings,
        about=notes.about,
        attempts=attempt,
        started=started,
        seconds=earlier + time.time() - started,
        stages=notes.stages,
        peak_memory=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        metrics=metrics,
        host=socket.gethostname(),
    )


class Notes:
    """Stages and warnings of a mesh, kept in a file so that they outlive the process.

    The time since the last event belongs to the stage of the next one.
    """

    def __init__(self, work: Path):
        self.path = work / "notes.json"
        known = loads(self.path.read_text("utf-8")) if self.path.is_file() else {}
        self.stages: dict[str, float] = known.get("stages", {})
        self.warnings: list[str] = known.get("warnings", [])
        self.about: str = known.get("about", "")
        self.last = self.saved = time.perf_counter()
        self.stage = ""

    def __call__(self, event: Event) -> None:
        now = time.perf_counter()
        if event.stage == "warning":
            self.warnings += [event.text] * (event.text not in self.warnings)
        else:
            self.stages[event.stage] = self.stages.get(event.stage, 0.0) + now - self.last
            self.last = now
        if event.stage in ("mesh", "cloud", "scene"):
            self.about = event.text
        if event.stage != self.stage or now - self.saved > NOTE_EVERY:
            notes = {"stages": self.stages, "warnings": self.warnings, "about": self.about}
            write_json(self.path, notes)
            self.stage, self.saved = event.stage, now


def _watched(job: Job, attempt: int, stopping: Callable[[], bool], work: Work) -> End:
    """Run a process to its end, or to that of its time or memory."""
    context = multiprocessing.get_context("forkserver")
    # Ray's own script is imported again in each child, as the main script always is
    context.set_forkserver_preload([*PRELOADED, *{"ray"}.intersection(sys.modules)])
    process = context.Process(target=_child, args=(job, attempt, work), name=job.mesh)
    with STARTING:
        process.start()
    start, limit, reason, memory = time.monotonic(), "", "", 0
    while True:
        now, peak = _memory_of(process.pid)
        memory, seconds = max(memory, peak), time.monotonic() - start
        wait([process.sentinel], POLL)
        with STARTING:
            code = process.exitcode
        if code is not None:
            return End(code, limit, reason, seconds, memory)
        if limit:
            continue
        if stopping():
            limit = "stopped"
        elif job.time_limit and seconds > job.time_limit:
            limit, reason = "timed_out", f"took longer than {job.time_limit:g} s"
        elif job.memory_limit and now > job.memory_limit:
            limit, reason = "out_of_memory", f"needed more than {job.memory_limit / 1e9:g} GB"
        if limit:
            _kill(process.pid)


def _child(job: Job, attempt: int, work: Work) -> None:
    """What the process does."""
    import torch

    with suppress(PermissionError):  # where it leads a group already
        os.setpgid(0, 0)  # compilers that it starts end with it
    with (job.work / f"{attempt}.txt").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    faulthandler.enable(2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(job.cwd)
    torch.set_num_threads(job.threads)
    with _locked(job.work / "lock"):
        if not job.outcome.is_file():
            write_json(job.outcome, asdict(work(job, attempt)))


def _end_with_parent() -> None:
    """Leave nothing running where the supervisor was killed."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        _kill(os.getpid())


def _kill(process: int) -> None:
    """End a process and what it started."""
    with suppress(ProcessLookupError):
        if os.getpgid(process) == process:
            os.killpg(process, signal.SIGKILL)
        else:  # it has only just begun
            os.kill(process, signal.SIGKILL)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; the system lets go of it when a process ends, however it does."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _memory_of(process: int) -> tuple[int, int]:
    """Bytes of memory that a process holds, and that it held at most; 0 where nobody knows."""
    found = {"VmRSS": 0, "VmHWM": 0}
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in found:
                found[key] = 1024 * int(value.split()[0])
    return found["VmRSS"], found["VmHWM"]


def _system_kills() -> int:
    """How many processes the system has ended so far for want of memory."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _last_lines(path: Path) -> str:
    """The last lines that a process wrote, but for Python's list of hundreds of modules."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Extension modules: ")]
    return "\n".join(lines[-LAST_LINES:])[-MAX_REASON:]
