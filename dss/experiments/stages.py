"""Measurements that may be cut at any moment: stages of rows, each written when it is there.

The file is JSON: what was measured on, and for each stage its rows by name, the rows that failed,
and the reason why there are not more. A second start goes on with what is missing. Each stage runs
in a process of its own, because a fault on a GPU spoils all that its process does later, and
because nothing else can be stopped for certain.
"""

import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dss.errors import InputError
from dss.tables import write_json

MINUTES = 10  # that the limits of the stages are meant for
# A fork begins at once, and may use a GPU as long as the process that starts it does not.
FORK = multiprocessing.get_context("fork")

Row = dict[str, Any]
Work = Callable[[float], Row]  # what makes a row, given the seconds that are left for it
Measured = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """Rows about one question."""

    name: str
    limit: float  # seconds, of MINUTES in all
    needs: tuple[str, ...]  # modules that may not be installed
    rows: Callable[[Any], Iterator[tuple[str, Work]]]  # of a bench: names, and what makes the rows


def run(
    stages: Sequence[Stage],
    bench: Callable[[], Any],
    out: Path,
    about: dict[str, str],
    minutes: float = MINUTES,
    note: Callable[[str], None] = print,
) -> Measured:
    """Measure what `out` lacks, stage by stage, in about `minutes`; `about` tells the machine.

    `bench` makes what the stages are given, in their processes. Raises InputError where `out` was
    measured on another machine.
    """
    measured = known(out) or {"about": about, "stages": {}}
    if measured["about"] != about:
        raise InputError(
            f"{out}: measured with {measured['about']}, not {about}; choose another --out"
        )
    end = time.monotonic() + 60 * minutes
    for stage in stages:
        start = time.monotonic()
        limit = min(stage.limit * minutes / MINUTES, end - start)
        entry = measured["stages"].setdefault(stage.name, {"rows": {}, "seconds": 0})
        entry |= {"doing": "its start", "failed": {}, "reason": ""}
        write_json(out, measured)
        ended = _ended(FORK.Process(target=_measure, args=(stage, bench, out, limit)), limit)
        measured = known(out)
        entry = measured["stages"][stage.name]
        entry["seconds"] += time.monotonic() - start
        doing = entry.pop("doing")
        if ended:
            entry["reason"] = f"{ended} at {doing}"
        write_json(out, measured)
        failed = "".join(f"; {name}: {text}" for name, text in entry["failed"].items())
        note(f"{stage.name}: {len(entry['rows'])} rows; {entry['reason'] or 'complete'}{failed}")
    return measured


def known(out: Path) -> Measured | None:
    """What a file holds; None where there is none. Raises InputError where it is another kind."""
    try:
        measured = json.loads(out.read_text("utf-8"))
        if not measured["about"] or not all("rows" in s for s in measured["stages"].values()):
            raise ValueError("no rows")
        return measured
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out}: not what was measured ({error}); choose another file") from error


def _ended(process: multiprocessing.Process, limit: float) -> str:
    """Run a process for at most `limit` seconds; how it ended, and empty where it did by itself."""
    if limit <= 0:
        return "its time ended"
    process.start()
    process.join(limit)
    late = process.is_alive()
    process.kill()
    process.join()
    fault = f"it died ({process.exitcode})" if process.exitcode else ""
    return "its time ended" if late else fault


def _measure(stage: Stage, bench: Callable[[], Any], out: Path, limit: float) -> None:
    """Add the rows of a stage that the file lacks. What is being done is in it, too."""
    deadline, measured = time.monotonic() + limit, known(out)
    entry = measured["stages"][stage.name]

    def write(doing: str) -> None:
        entry["doing"] = doing
        write_json(out, measured)

    if missing := [name for name in stage.needs if importlib.util.find_spec(name) is None]:
        entry["reason"] = f"skipped: no {', '.join(missing)} here"
        return write("its end")
    try:
        for name, work in stage.rows(bench()):
            if name in entry["rows"]:
                continue
            write(name)
            try:
                entry["rows"][name] = work(deadline - time.monotonic())
            except InputError:
                raise
            # Whatever goes wrong on a strange machine, the next row may still tell something.
            except Exception as error:
                text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                entry["failed"][name] = text
    except (InputError, ImportError) as error:
        entry["reason"] = f"skipped: {error}"
    return write("its end")
