"""Plots of tables."""

from pathlib import Path

from dss.experiments.compare import Row
from dss.files import replacing

STYLES = {  # marker and colour of each kind of method
    "fields": ("o", "tab:blue"),
    "published": ("*", "tab:gray"),
    "mesh codecs": ("s", "tab:orange"),
}


def plot_rate_distortion(out: Path, rows: dict[str, Row]) -> Path:
    """rate_distortion.png (returned) and .svg in `out`: bytes against the surface's error and
    against SSIM.

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
        for name, row in rows.items():
            if key not in row or name.startswith("ground truth"):
                continue
            kind = (
                "published"
                if name.endswith("published")
                else "mesh codecs"
                if "Draco" in name
                else "fields"
            )
            marker, colour = STYLES[kind]
            point = row["bytes"] / 1024, error(row[key])
            axis.scatter(*point, marker=marker, color=colour)
            axis.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axis.set(
            xscale="log", yscale="log" if axis.collections else "linear", xlabel="KiB", ylabel=label
        )
        axis.grid(True, which="both", alpha=0.2)
    for suffix in ("svg", "png"):
        with replacing(path := out / f"rate_distortion.{suffix}") as temporary:
            figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
    return path
