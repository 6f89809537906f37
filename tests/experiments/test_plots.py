"""The plot of a table holds every row that it can place."""

from xml.etree import ElementTree

import pytest

from dss.experiments.compare import EvalSettings
from dss.experiments.plots import label_box, place_labels, plot_rate_distortion

ROWS = {
    "ground truth": {"bytes": 5e5, "surface_mean": 0.0, "ssim_paper": 1.0},
    "fast": {"bytes": 5e4, "surface_mean": 1e-4, "ssim_paper": 0.98},
    "Draco, 11 bits": {"bytes": 2e4, "surface_mean": 2e-4, "ssim_paper": 0.95},
    "NGLOD-5, published": {"bytes": 2e6, "ssim_paper": 0.988},
}


@pytest.mark.parametrize("rows", [ROWS, {"ground truth": ROWS["ground truth"]}])
def test_rate_distortion(tmp_path, rows):
    path = plot_rate_distortion(tmp_path, rows, EvalSettings(64, 3, 99))
    assert path == tmp_path / "rate_distortion.png" and path.stat().st_size > 10_000
    text = (tmp_path / "rate_distortion.svg").read_text()
    ElementTree.fromstring(text)
    counts = {name: text.count(f"<!-- {name} -->") for name in ROWS}
    shown = len(rows) > 1
    assert counts == {
        "ground truth": 0,
        "fast": 2 * shown,
        "Draco, 11 bits": 2 * shown,
        "NGLOD-5, published": 1 * shown,  # no surface error was published
    }
    for words in ("meshed at 64 cells per axis", "paper protocol, 3 views of 99x99 pixels"):
        assert words in text


def test_labels_cover_neither_each_other_nor_a_marker():
    """Where many points lie together, as in the tables."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    points = {
        f"{share} % of the faces, Draco, 11 bits": (40 + 2 * share, 1e-3 + 1e-5 * share)
        for share in range(12)
    }
    points |= {"far left": (1, 1e-4), "far right, with a long name": (4000, 1e-2)}
    axis.scatter(*zip(*points.values(), strict=True))
    axis.set(xscale="log", yscale="log")
    figure.draw_without_rendering()
    labels = place_labels(axis, points)
    figure.savefig("/dev/null", format="png")  # the layout stays
    boxes = [label_box(label) for label in labels]
    for number, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:number])
        assert axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
        for point in axis.transData.transform(list(points.values())):
            assert not box.contains(*point)


def test_rows_of_different_numbers_are_a_curve(tmp_path):
    def lines(rows: dict) -> int:
        plot_rate_distortion(tmp_path, rows, EvalSettings())
        return (tmp_path / "rate_distortion.svg").read_text().count("stroke-opacity: 0.6")

    row = {"surface_mean": 1e-4, "ssim_paper": 0.98}
    curve = {f"compact_{size}k": row | {"bytes": 1024.0 * size} for size in (4, 8, 16)}
    assert lines(curve) == 2 and lines(curve | {"fast": row | {"bytes": 1e5}}) == 2 + 2
