"""How much results differ from mesh to mesh, or from seed to seed, by what finished runs hold."""

import json
from pathlib import Path

from dss.errors import InputError
from dss.evaluation.protocols import PROTOCOLS
from dss.experiments.compare import Row
from dss.files import is_file
from dss.tables import mean_of, spread_of


def measured(folder: Path) -> Row:
    """The metrics of a run folder: of compare.py, or else of eval.py and, where they are there, of
    eval_ssim.py. Raises InputError where there are none."""
    try:
        if is_file(folder / "comparison.json"):
            return json.loads((folder / "comparison.json").read_text())["row"]
        row = json.loads((folder / "eval.json").read_text())
        if "chamfer" in row:
            row["chamfer_excess"] = row["chamfer"] - row["chamfer_floor"]
        if is_file(folder / "ssim.json"):
            pictures = json.loads((folder / "ssim.json").read_text())
            for name in (protocol.name for protocol in PROTOCOLS):
                row[f"ssim_{name}"] = pictures[name]["mean"]["ssim_white"]
        return row
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder}: holds no metrics, or damaged ones; measure it with eval.py"
        ) from error


def summary(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows, followed by their mean and their standard deviation."""
    return rows | {
        "mean": mean_of(rows.values()),
        "standard deviation": spread_of(rows.values()),
    }
