"""Plots of tables."""

import re
from pathlib import Path

from dss.experiments.compare import Row
from dss.files import replacing

STYLES = {  # marker and colour of each kind of method
    "fields": ("o", "tab:blue"),
    "coded fields": ("D", "tab:green"),
    "published": ("*", "tab:gray"),
    "mesh codecs": ("s", "tab:orange"),
}


def plot_rate_distortion(out: Path, rows: dict[str, Row]) -> Path:
    """rate_distortion.png (returned) and .svg in `out`: bytes against the surface's error and
    against SSIM. Rows whose names differ in numbers only are joined.

    The ground truth, which has no error, is left out.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    panels = (
        ("surface_mean", "mean distance to the surface", lambda value: value),
        ("ssim_paper", "1 - SSIM of normal maps, the paper's protocol", lambda value: 1 - value),
    )
    for axis, (key, label, error) in zip(axes, panels, strict=True):
        curves = {}
        for name, row in rows.items():
            if key not in row or name.startswith("ground truth"):
                continue
            marker, colour = STYLES[_kind(name)]
            point = row["bytes"] / 1024, error(row[key])
            axis.scatter(*point, marker=marker, color=colour)
            axis.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
            curves.setdefault((re.sub(r"\d+", "", name), colour), []).append(point)
        for (_, colour), points in curves.items():
            axis.plot(*zip(*sorted(points), strict=True), color=colour, linewidth=0.8, alpha=0.6)
        axis.set(
            xscale="log", yscale="log" if axis.collections else "linear", xlabel="KiB", ylabel=label
        )
        axis.grid(True, which="both", alpha=0.2)
    for suffix in ("svg", "png"):
        with replacing(path := out / f"rate_distortion.{suffix}") as temporary:
            figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    return path


def _kind(name: str) -> str:
    if name.endswith("published"):
        return "published"
    if "Draco" in name:
        return "mesh codecs"
    return "coded fields" if "compact" in name or "coded" in name else "fields"
