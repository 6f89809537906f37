"""One HTML page about runs, or about a whole sweep, that needs nothing but a browser: pictures,
plots and the script that sorts the table are in the file, and it may not ask the network."""

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from dss.errors import InputError
from dss.evaluation.geometry import COLUMNS
from dss.evaluation.photos import pictures, scene_of, truth_of
from dss.experiments.status import FITTED, Outcome, is_sweep, read_status
from dss.files import is_file, is_folder, replacing
from dss.progress import Progress, silent, tracked
from dss.rendering.gallery import LEGENDS, draw_field
from dss.run import MeshRun, PhotoRun, open_run
from dss.tables import Column, mean_of

WORST = 20  # runs of a sweep that are pictured
SIZE = 320  # pixels per side of a picture
BINS = 30  # of a histogram
MAX_MESSAGE = 300  # characters of a reason in the table
FACTS = (
    Column("seconds", "seconds", ",.1f"),
    Column("peak_memory", "peak MiB", ",.0f", 2.0**-20),
)
PHOTO_COLUMNS = (Column("psnr", "PSNR", ".2f"), Column("ssim", "SSIM", ".4f"))
HISTOGRAMS = (
    ("surface_mean", "mean distance to the surface", 1.0),
    ("bytes", "KiB", 1 / 1024),
    ("seconds", "seconds", 1.0),
)


@dataclass(frozen=True)
class Row:
    """A mesh of a sweep, or a run: how it ended, and what is known of it."""

    mesh: str  # the name
    status: str = "ok"
    reason: str = ""
    warnings: Sequence[str] = ()
    about: str = ""  # what was found when the mesh was loaded
    seconds: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds
    peak_memory: int | None = None  # bytes
    metrics: Mapping[str, Any] = field(default_factory=dict)  # as eval.py's
    folder: Path | None = None  # of the run; None where there is none

    @property
    def numbers(self) -> dict[str, float]:
        """All finite numbers, by key."""
        facts = {"seconds": self.seconds, "peak_memory": self.peak_memory or None, **self.metrics}
        return {key: value for key, value in facts.items() if _is_number(value)}


@dataclass(frozen=True)
class Entry:
    """A row with its pictures: captions and data URIs."""

    row: Row
    pictures: list[tuple[str, str]]
    notes: list[str]
    configuration: str


def rows_of(folder: Path) -> list[Row]:
    """A run folder as a row; of a sweep a row for each of its meshes, and of another folder of run
    folders a row for each. Raises InputError where there is none."""
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder; name run folders, or the folder of a sweep")
    if is_file(folder / "config.yaml"):
        return [row_of_run(folder)]
    if is_sweep(folder):
        return [row_of_outcome(outcome, folder) for outcome in read_status(folder)]
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not runs:
        raise InputError(f"{folder}: holds no run; name run folders, or the folder of a sweep")
    return [row_of_run(run) for run in runs]


def row_of_run(folder: Path) -> Row:
    """What the scripts left in a run folder."""
    metrics, fit, pictured = (
        _json(folder / name) for name in ("eval.json", "fit.json", "ssim.json")
    )
    if isinstance(mean := pictured.get("mean"), dict):  # of photos
        metrics |= {column.key: mean.get(column.key) for column in PHOTO_COLUMNS}
    seconds = fit.get("fit_seconds")
    done = any(is_file(folder / name) for name in ("field.safetensors", "model.safetensors"))
    return Row(
        folder.resolve().name, "ok" if done else "unfinished",
        seconds=seconds, stages={} if seconds is None else {"fit": seconds},
        metrics=metrics, folder=folder if done else None,
    )  # fmt: skip


def row_of_outcome(outcome: Outcome, folder: Path) -> Row:
    """What the table of the sweep in `folder` says of a mesh; `outcome` has all attributes of a row
    but its folder."""
    values = {
        item.name: getattr(outcome, item.name) for item in fields(Row) if item.name != "folder"
    }
    return Row(**values, folder=folder / outcome.mesh if outcome.status in FITTED else None)


def grouped(groups: list[list[Row]]) -> list[list[Row]]:
    """The rows, those of a common name under the paths of their runs, where they have some."""
    count = Counter(row.mesh for group in groups for row in group)
    return [
        [
            replace(row, mesh=str(row.folder)) if row.folder and count[row.mesh] > 1 else row
            for row in group
        ]
        for group in groups
    ]


def worst(rows: Sequence[Row], count: int = WORST, key: str = "surface_mean") -> list[Row]:
    """The rows with a run that have the largest error, the worst first; a single row in any
    case."""
    if len(rows) == 1:
        return list(rows)
    measured = [row for row in rows if row.folder and key in row.numbers]
    return sorted(measured, key=lambda row: -row.numbers[key])[:count]


def write_report(
    path: Path, title: str, rows: Sequence[Row], detailed: Sequence[Row],
    data: str | None = None, size: int = SIZE, device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> None:  # fmt: skip
    """Write the page: the table of all rows, plots where there are several, and pictures of the
    `detailed` ones, of size x size pixels. `data` is as in `MeshRun.load_truth`."""
    import jinja2

    seen = tracked(detailed, "picture", len(detailed), progress if len(detailed) > 1 else silent)
    entries = [draw_entry(row, data, size, device) for row in seen]
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    present = {key for row in rows for key in row.numbers}
    columns = [column for column in (*FACTS, *COLUMNS, *PHOTO_COLUMNS) if column.key in present]
    page = environment.get_template("report.html").render(
        title=title, rows=rows, entries=entries, columns=list(dict.fromkeys(columns)),
        statuses=Counter(row.status for row in rows).most_common(),
        mean=mean_of([row.numbers for row in rows if row.metrics]),
        plots=histograms(rows) if len(rows) > 1 else "",
        shown=shown, message=message, pictured={entry.row.mesh for entry in entries},
    )  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")


def draw_entry(
    row: Row, data: str | None = None, size: int = SIZE, device: torch.device | str = "cpu"
) -> Entry:
    """A row with its pictures; what cannot be drawn is noted."""
    if row.folder is None:
        return Entry(row, [], [], "")
    try:
        run = open_run(row.folder, device)
    except InputError as error:
        return Entry(row, [], [str(error)], "")
    draw = _photo_pictures if isinstance(run, PhotoRun) else _mesh_pictures
    images, notes = draw(run, data, size)
    configuration = yaml.safe_dump(run.config.model_dump(), sort_keys=False)
    return Entry(row, [(text, data_uri(image)) for text, image in images], notes, configuration)


def data_uri(image: np.ndarray) -> str:
    """A picture (h, w, 3) uint8 as an address that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def histograms(rows: Sequence[Row]) -> str:
    """Errors, bytes and times of the rows as SVG, on logarithmic axes; empty without numbers."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, NullFormatter

    found = {}
    for key, label, unit in HISTOGRAMS:
        values = np.array([row.numbers[key] * unit for row in rows if key in row.numbers])
        if len(values := values[values > 0]):
            found[label] = values
    if not found:
        return ""
    figure, axes = pyplot.subplots(
        1, len(found), figsize=(4.2 * len(found), 2.6), layout="constrained", squeeze=False
    )
    for axis, (label, values) in zip(axes[0], found.items(), strict=True):
        low, high = np.floor(np.log10(values.min())), np.ceil(np.log10(values.max() * 1.001))
        axis.hist(values, np.logspace(low, high, BINS + 1), color="tab:blue")
        axis.set(xscale="log", xlabel=label, ylabel="meshes")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return text.getvalue().partition("?>")[2].partition('.dtd">')[2]


def shown(row: Row, column: Column) -> str:
    """The number of a cell; empty where there is none."""
    value = row.numbers.get(column.key)
    return "" if value is None else format(value * column.unit, column.format)


def message(row: Row) -> str:
    """Why a row is not simply `ok`, in one line."""
    text = " ".join("; ".join([*filter(None, [row.reason]), *row.warnings]).split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ..."


def _mesh_pictures(
    run: MeshRun, data: str | None, size: int
) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    images, notes, truth = [], [], None
    try:
        truth = run.load_mesh(data)
    except InputError as error:
        notes.append(f"no error map: {error}")
    for mode in ("shaded", "error", "shell" if run.field.shell else "slice"):
        if mode == "error" and truth is None:
            continue
        gallery = draw_field(run.field, mode, 1, size, truth=truth)
        caption = mode
        if mode == "error":
            caption += f", from 0 (violet) to {gallery.scale.high:.1e} (yellow)"
        caption += f"; {LEGENDS[mode]}" if mode in LEGENDS else ""
        images.append((caption, gallery.images[0]))
    return images, notes


def _photo_pictures(
    run: PhotoRun, data: str | None, _: int
) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    try:
        scene = scene_of(run, "test", data)
    except InputError as error:
        return [], [f"no pictures: {error}"]
    scene.photos[1:] = []
    ((photo, picture),) = pictures(run, scene)
    images = [
        (f"photo {photo.name}", truth_of(photo, run.background)),
        ("model", picture.colour),
        ("normals", picture.normal_map()),
    ]
    return images, []


def _json(path: Path) -> dict[str, Any]:
    """What a script left there; nothing where it is missing or damaged."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_number(value: Any) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value)
