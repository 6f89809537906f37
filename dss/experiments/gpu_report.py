"""The section of docs/results.md about a GPU, from what scripts/measure_gpu.py wrote."""

from pathlib import Path

from dss.experiments.stages import Measured, Row
from dss.tables import Column, table

HEADING = "## On a GPU"
COMMAND = "python scripts/measure_gpu.py INPUTS --out docs/gpu.json --report"
SECONDS = Column("seconds", "s", ".2f")
TABLES = {  # of each stage: what it tells, and the columns of its rows
    "frames": (
        "Frames: the tracer by the exact rule, medians of several. The depth error is that against "
        "the mesh, the rounding that of 16 bits against 32, and wrong are rays that should hit or "
        "miss.",
        (
            Column("total", "ms", ".3f"), Column("spread", "spread", ".3f"),
            Column("steps", "steps", ".2f"), Column("hits", "hits", ",.0f"),
            Column("depth_error", "depth error", ".1e"), Column("rounding", "rounding", ".1e"),
            Column("wrong_hits", "wrong", ".2%"),
        ),
    ),
    "fits": (
        "Fits to the error of the CPU's, whose seconds are of one core, from the same samples in "
        "memory.",
        (
            SECONDS, Column("epochs", "epochs", ".0f"), Column("rate", "M samples/s", ".2f", 1e-6),
            Column("error", "error", ".2e"), Column("cpu_error", "CPU's error", ".2e"),
            Column("cpu_seconds", "CPU's s", ".0f"), Column("reached", "reached", ".0f"),
        ),
    ),
    "meshing": ("Meshes of the fields.", (SECONDS, Column("faces", "faces", ",.0f"))),
    "photos": (
        "Surfaces from photos, after the same few steps.",
        (
            Column("steps", "steps", ",.0f"), Column("train_seconds", "training s", ".1f"),
            Column("psnr", "PSNR", ".2f"), Column("ssim", "SSIM", ".4f"),
            Column("seconds", "s / frame", ".3f"),
        ),
    ),
    "tables": (
        "The paper's tables, full fits on one mesh.",
        (
            Column("chamfer", "chamfer", ".2e"), Column("surface_mean", "surface mean", ".2e"),
            Column("ssim_paper", "SSIM paper", ".4f"), Column("fit_seconds", "fit s", ".1f"),
            Column("frame_ms", "frame ms", ".1f"), Column("rounding", "16-bit error", ".1e"),
        ),
    ),
}  # fmt: skip
FAULTS = {"parity": "Operators against a CPU's results", "sanitizer": "compute-sanitizer"}


def section(measured: Measured | None) -> str:
    """The section, which says "not measured" of whatever is missing."""
    measured = measured or {"about": None, "stages": {}}
    about = measured["about"]
    where = ", ".join(f"{key} {value}" for key, value in about.items()) if about else "not measured"
    parts = [HEADING, f"Machine: {where}. This section is written by", f"```\n{COMMAND}\n```"]
    for name, title in FAULTS.items():
        parts.append(f"{title}: {_faults(measured['stages'].get(name, {}))}.")
    for name, (title, columns) in TABLES.items():
        stage = measured["stages"].get(name, {})
        rows = {key: _numbers(row) for key, row in stage.get("rows", {}).items()}
        parts += [title, table(rows, columns)] if rows else [f"{title} Not measured."]
        parts += [f"({stage['reason']})"] if stage.get("reason") else []
    return "\n\n".join(parts) + "\n"


def replace_section(path: Path, measured: Measured | None) -> None:
    """Put the section into a document in the place of the old one."""
    path.write_text(replaced(path.read_text("utf-8"), section(measured)), "utf-8")


def replaced(text: str, new: str) -> str:
    """A document with a new section; what is around the old one stays."""
    before, _, rest = text.partition(HEADING + "\n")
    _, mark, after = rest.partition("\n## ")
    return before + new + mark + after


def _faults(stage: Row) -> str:
    rows = stage.get("rows", {})
    wrong = {name: row["fault"] for name, row in rows.items() if row["fault"]}
    wrong |= stage.get("failed", {})
    if not rows:
        return "not measured" + (f" ({stage['reason']})" if stage.get("reason") else "")
    text = f"{len(rows) - len(wrong)} of {len(rows)} right"
    return text + "".join(f"; {name}: {fault}" for name, fault in wrong.items())


def _numbers(row: Row) -> Row:
    return {key: value for key, value in row.items() if value is not None}
