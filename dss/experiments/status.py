"""The table of a sweep: one row for each mesh that has ended, in DIR/status.sqlite.

Rows are only ever added. Where a mesh was tried again, its last row counts. Each row is on the disk
before the next mesh is looked at, so that nothing but power cut from the disk itself takes it away.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

from dss.errors import InputError
from dss.files import is_file
from dss.tables import write_csv

FITTED = ("ok", "ok_with_warnings")  # statuses of meshes that have a field and metrics
STATUSES = (*FITTED, "refused", "timed_out", "out_of_memory", "crashed")
NAME = "status.sqlite"


@dataclass(frozen=True)
class Outcome:
    """How a mesh of a sweep has ended: a row of the table."""

    mesh: str  # the name, which is that of its run folder
    path: str  # of the file, as it was given
    status: str  # one of STATUSES
    reason: str = ""  # why there is no field; of a crash, the last lines that were written
    warnings: list[str] = field(default_factory=list)
    about: str = ""  # faces, bodies, holes and what else was found when the mesh was loaded
    attempts: int = 0  # processes that worked on it; more than one after an interruption
    started: float = 0.0  # of the last attempt, seconds since 1970
    seconds: float = 0.0  # of all attempts
    stages: dict[str, float] = field(default_factory=dict)  # seconds by stage, of all attempts
    peak_memory: int = 0  # bytes, of the last attempt
    metrics: dict[str, Any] = field(default_factory=dict)  # as eval.py's
    host: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics that are numbers, and finite."""
        return {key: value for key, value in self.metrics.items() if isinstance(value, int | float)}


COLUMNS = tuple(column.name for column in fields(Outcome))
NESTED = {column.name for column in fields(Outcome) if get_origin(column.type)}  # stored as JSON
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS sweep (config TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (id INTEGER PRIMARY KEY, {", ".join(COLUMNS)});
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON outcomes
BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
CREATE TRIGGER IF NOT EXISTS no_loss BEFORE DELETE ON outcomes
BEGIN SELECT RAISE(ABORT, 'rows are only added'); END;
"""


class StatusTable:
    """The table of the sweep in a folder, open for adding rows.

    `config` says what is done to each mesh. Raises InputError where the folder holds a sweep with
    another one, or its table is damaged or cannot be written.
    """

    def __init__(self, folder: Path, config: str):
        self.path = folder / NAME
        with _sqlite_errors(self.path):
            self.connection = sqlite3.connect(self.path)
            with self.connection:
                self.connection.executescript(SCHEMA)
            (known,) = self.connection.execute("SELECT max(config) FROM sweep").fetchone()
            if known is None:
                with self.connection:
                    self.connection.execute("INSERT INTO sweep VALUES (?)", [config])
            elif known != config:
                raise InputError(
                    f"{folder}: holds a sweep with another configuration; choose another --out"
                )

    def append(self, outcome: Outcome) -> None:
        """Add a row; it is on the disk when this returns."""
        values = asdict(outcome)
        row = [json.dumps(values[key]) if key in NESTED else values[key] for key in COLUMNS]
        places = ", ".join("?" * len(row))
        with _sqlite_errors(self.path), self.connection:
            self.connection.execute(
                f"INSERT INTO outcomes ({', '.join(COLUMNS)}) VALUES ({places})", row
            )

    def outcomes(self) -> dict[str, Outcome]:
        """The last row of each mesh, by name, in the order in which they were added."""
        with _sqlite_errors(self.path):
            return _last(self.connection)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> "StatusTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_sweep(folder: Path | str) -> bool:
    """Whether a folder is that of a sweep."""
    return is_file(Path(folder) / NAME)


def read_status(folder: Path | str) -> list[Outcome]:
    """The rows of the sweep in a folder, one for each mesh that has ended, also while it goes on.

    Raises InputError where there is none, or its table is damaged.
    """
    path = Path(folder) / NAME
    if not is_file(path):
        raise InputError(f"{folder}: holds no sweep; make one with scripts/sweep.py")
    with _sqlite_errors(path):
        connection = sqlite3.connect(path)
        try:
            return list(_last(connection).values())
        finally:
            connection.close()


def write_status(folder: Path, outcomes: Iterable[Outcome]) -> None:
    """Write DIR/status.csv: a line for each mesh, with its stages and metrics in columns."""
    rows = []
    for outcome in outcomes:
        row = asdict(outcome)
        row["warnings"] = "; ".join(outcome.warnings)
        row |= {f"seconds_{stage}": value for stage, value in row.pop("stages").items()}
        row |= {key: value for key, value in row.pop("metrics").items() if key not in row}
        rows.append(row)
    keys = dict.fromkeys(key for key in COLUMNS if key not in ("stages", "metrics"))
    for row in rows:
        keys |= dict.fromkeys(key for key, value in row.items() if not isinstance(value, dict))
    write_csv(folder / "status.csv", rows, [*keys])


def count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many meshes have each status, all six of them."""
    found = Counter(outcome.status for outcome in outcomes)
    return {status: found[status] for status in STATUSES}


def _last(connection: sqlite3.Connection) -> dict[str, Outcome]:
    result: dict[str, Outcome] = {}
    for row in connection.execute(f"SELECT {', '.join(COLUMNS)} FROM outcomes ORDER BY id"):
        values = dict(zip(COLUMNS, row, strict=True))
        values |= {key: json.loads(values[key]) for key in NESTED}
        result.pop(values["mesh"], None)
        result[values["mesh"]] = Outcome(**values)
    return result


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise InputError(
            f"{path}: cannot be used ({error}); free some space, end what else uses it, or choose "
            "another --out"
        ) from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: damaged, or no table of a sweep ({error}); choose another --out"
        ) from error
