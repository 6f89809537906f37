"""The comparison engine: methods against data, each measured once, and the tables of what came out.

What is compared, meshes or photos, is the business of the entries (mesh_methods.py,
photo_methods.py).
"""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from dss.errors import InputError
from dss.files import replacing
from dss.tables import Column, mean_of, table, write_csv, write_json

Row = dict[str, float]
LAYOUTS = ("synthetic", "dtu")  # folders of a made scene


@dataclass(frozen=True)
class EvalSettings:
    """How to measure: the same for all methods of a table."""

    resolution: int = 256  # of meshes: marching-cubes cells per edge of [-1, 1]^3
    views: int = 30  # of meshes: pictures by each protocol
    size: int = 512  # of meshes: pixels per side of a picture
    every: int = 1  # of photos: every n-th test photo


class Entry(Protocol):
    """A method of a table."""

    name: str

    def measure(
        self, path: Path, folder: Path, settings: EvalSettings, device: torch.device
    ) -> Row:
        """All metrics on the mesh or scene at `path`; what takes long is kept in `folder`. Raises
        InputError."""


class Result(NamedTuple):
    """What a method did on one mesh or scene: its metrics, or the reason why there are none."""

    method: str
    data: str
    row: Row | None
    reason: str = ""


def measure(
    entry: Entry, path: Path, folder: Path, settings: EvalSettings, device: torch.device
) -> Row:
    """The entry's metrics; those that were measured before are found in `folder` again."""
    cache_key = {"entry": repr(entry), "data": str(path), **asdict(settings)}
    file = folder / "comparison.json"
    if file.is_file() and (known := json.loads(file.read_text()))["cache_key"] == cache_key:
        return known["row"]
    row = entry.measure(path, folder, settings, device)
    with replacing(file) as temporary:  # not write_json: infinity and NaN come back as they were
        temporary.write_text(json.dumps({"cache_key": cache_key, "row": row}, indent=2) + "\n")
    return row


def results(
    entries: Sequence[Entry],
    paths: list[Path],
    out: Path,
    settings: EvalSettings,
    device: torch.device,
) -> Iterator[Result]:
    """Every entry on every mesh or scene, one of these after the other; the work is kept in
    out/ENTRY/DATA."""
    for path in paths:
        data = label(path)
        for entry in entries:
            folder = out / entry.name.replace(" ", "_") / data
            try:
                yield Result(entry.name, data, measure(entry, path, folder, settings, device))
            except InputError as error:
                yield Result(entry.name, data, None, str(error))


def label(path: Path) -> str:
    """What a mesh or scene is called: its name, or that of the made scene whose layout it is."""
    return path.parent.name if path.name in LAYOUTS and path.parent.name else path.stem


def means(measured: list[Result], of: Callable[[Iterable[Row]], Row] = mean_of) -> dict[str, Row]:
    """The mean row of each method over its meshes or scenes (or what else there is `of` rows), in
    order; one that lacks some says so in its name."""
    found, every = {}, {result.data for result in measured}
    for name in dict.fromkeys(result.method for result in measured):
        rows = [result.row for result in measured if result.method == name]
        partly = f" ({len(rows)} of {len(every)} meshes)" if len(rows) < len(every) else ""
        found[name + partly] = of(rows)
    return found


def save(
    out: Path,
    measured: list[Result],
    averages: dict[str, Row],
    columns: Sequence[Column],
    text: str,
) -> None:
    """Write table.md, table.csv and table.json in `out`: the means as printed; the latter two have
    every row."""
    rows = [{"method": result.method, "data": result.data, **result.row} for result in measured]
    rows += [{"method": name, "data": "mean", **row} for name, row in averages.items()]
    with replacing(out / "table.md") as temporary:
        temporary.write_text(text + "\n")
    write_json(out / "table.json", rows)
    write_csv(out / "table.csv", rows, ["method", "data", *(column.key for column in columns)])


def chosen(names: list[str], known: dict[str, Entry]) -> list[Entry]:
    """The named entries. Raises InputError, with the nearest name, where there is no such
    method."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0)
            raise InputError(
                f"--methods {name}: no such method; did you mean {near[0]}? There are "
                f"{', '.join(known)}"
            )
    return [known[name] for name in names]


def titled(title: str, rows: dict[str, Row], columns: Sequence[Column]) -> str:
    """A table in Markdown below its title, if it has one."""
    return f"**{title}**\n\n{table(rows, columns)}" if title else table(rows, columns)
