"""Plots of tables."""

import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dss.experiments.compare import EvalSettings, Row
from dss.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

STYLES = {  # marker and colour of each kind of method
    "fields": ("o", "tab:blue"),
    "coded fields": ("D", "tab:green"),
    "published": ("*", "tab:gray"),
    "mesh codecs": ("s", "tab:orange"),
}
MARKER = 4.0  # half the size of a marker, in points
REACHES, DIRECTIONS = range(6, 150, 6), 16  # where a label is tried: points off its marker, angles


def plot_rate_distortion(out: Path, rows: dict[str, Row], settings: EvalSettings) -> Path:
    """rate_distortion.png (returned) and .svg in `out`: bytes against the surface's error and
    against SSIM. Rows whose names differ in numbers only are joined.

    The axes say how was measured. The ground truth, which has no error, is left out.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(15, 6.5), layout="constrained")
    cells, size = f"meshed at {settings.resolution} cells per axis", f"{settings.size}"
    views = f"paper protocol, {settings.views} views of {size}x{size} pixels, on white"
    panels = (
        ("surface_mean", f"mean distance to the surface, both ways; {cells}", lambda value: value),
        ("ssim_paper", f"1 - SSIM of normal maps; {views}", lambda value: 1 - value),
    )
    for axis, (key, label, error) in zip(axes, panels, strict=True):
        points, curves = {}, {}
        for name, row in rows.items():
            if key in row and not name.startswith("ground truth"):
                points[name] = (row["bytes"] / 1024, error(row[key]))
                curves.setdefault((re.sub(r"\d+", "", name), _kind(name)), []).append(points[name])
        for name, point in points.items():
            marker, colour = STYLES[_kind(name)]
            axis.scatter(*point, marker=marker, color=colour)
        for (_, kind), curve in curves.items():
            line = zip(*sorted(curve), strict=True)
            axis.plot(*line, color=STYLES[kind][1], linewidth=0.8, alpha=0.6)
        axis.set(xscale="log", yscale="log" if points else "linear", xlabel="KiB", ylabel=label)
        axis.margins(0.1)
        axis.grid(True, which="both", alpha=0.2)
        figure.draw_without_rendering()  # the layout is known from here on
        place_labels(axis, points)
    for suffix in ("svg", "png"):
        with replacing(path := out / f"rate_distortion.{suffix}") as temporary:
            figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    return path


def place_labels(axis: "Axes", points: dict[str, tuple[float, float]]) -> list["Annotation"]:
    """Write the names beside their points, in the first place where they cover neither each other
    nor a marker, with a line to the point."""
    from matplotlib.transforms import Bbox

    scale = axis.figure.dpi / 72  # pixels per point
    taken, result = [], []
    for x, y in axis.transData.transform(list(points.values())) if points else ():
        reach = MARKER * scale
        taken.append(Bbox([[x - reach, y - reach], [x + reach, y + reach]]))
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray", "shrinkA": 0, "shrinkB": 2}
    for name, point in points.items():
        label = axis.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize=7, arrowprops=line
        )
        label.set_in_layout(False)
        for reach, step in itertools.product(REACHES, range(DIRECTIONS)):
            angle = 2 * math.pi * step / DIRECTIONS
            label.set_position((reach * math.cos(angle), reach * math.sin(angle)))
            label.set_ha("left" if math.cos(angle) >= 0 else "right")
            label.set_va("center")
            box = label_box(label)
            inside = axis.bbox.containsx(box.x0) and axis.bbox.containsx(box.x1)
            inside = inside and axis.bbox.containsy(box.y0) and axis.bbox.containsy(box.y1)
            if inside and not box.count_overlaps(taken):
                break
        taken.append(label_box(label))
        result.append(label)
    return result


def label_box(label: "Annotation") -> "Bbox":
    """The pixels of a label's text, without its line."""
    from matplotlib.text import Text

    renderer = label.figure.canvas.get_renderer()
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def _kind(name: str) -> str:
    if name.endswith("published"):
        return "published"
    if "Draco" in name:
        return "mesh codecs"
    return "coded fields" if "compact" in name or "coded" in name else "fields"
