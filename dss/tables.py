"""Tables of numbers: their means, as Markdown, CSV and JSON."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dss.files import replacing


@dataclass(frozen=True)
class Column:
    """A column of a table, with the heading above the values of `key`."""

    key: str
    heading: str
    format: str  # of the values, as Python's format takes it
    unit: float = 1  # what values are multiplied by before they are printed


def mean_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of every number that all rows have; of booleans, the share that is true.

    NaN is left out, unless all are NaN; one infinity, such as the PSNR of equal images, makes the
    mean infinite.
    """
    return {key: float(values.mean()) for key, values in _present(rows).items()}


def spread_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The standard deviation of every number that all rows have, estimated as from a sample.

    NaN where fewer than two are not NaN, or one is infinite.
    """
    return {
        key: float(values.std(ddof=1)) if len(values) > 1 and all(np.isfinite(values)) else math.nan
        for key, values in _present(rows).items()
    }


def _present(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The values of every number that all rows have, without NaN; one NaN where all are."""
    rows, found = list(rows), {}
    for key, first in rows[0].items() if rows else ():
        if isinstance(first, int | float) and all(key in row for row in rows):
            values = np.array([row[key] for row in rows], np.float64)
            present = values[~np.isnan(values)]
            found[key] = present if len(present) else np.array([math.nan])
    return found


def table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """Markdown of named rows.

    Columns that no row has are left out. A cell that its row lacks is blank; NaN is "n/a".
    """
    columns = [column for column in columns if any(column.key in row for row in rows.values())]
    cells = [["", *(column.heading for column in columns)]]
    cells += [[name, *(_cell(row, column) for column in columns)] for name, row in rows.items()]
    return markdown(cells)


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table, aligned for the terminal.

    The first line is the head, the first column has the names.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for name, *values in cells:
        right = (value.rjust(width) for value, width in zip(values, widths[1:], strict=True))
        lines.append([name.ljust(widths[0]), *right])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def write_json(path: Path | str, values: Any) -> None:
    """Write dictionaries, lists and numbers; null stands for infinity and NaN, which JSON lacks."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(values), indent=2, allow_nan=False) + "\n", "utf-8")


def write_csv(path: Path | str, rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Write the named keys of the rows, under a line of these names.

    A value that a row lacks is empty.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _cell(row: Mapping[str, Any], column: Column) -> str:
    if column.key not in row:
        return ""
    value = row[column.key] * column.unit
    return "n/a" if math.isnan(value) else format(value, column.format)


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
