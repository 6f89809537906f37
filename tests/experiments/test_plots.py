"""The plot of a table holds every row that it can place."""

from xml.etree import ElementTree

import pytest

from dss.experiments.plots import plot_rate_distortion

ROWS = {
    "ground truth": {"bytes": 5e5, "surface_mean": 0.0, "ssim_paper": 1.0},
    "fast": {"bytes": 5e4, "surface_mean": 1e-4, "ssim_paper": 0.98},
    "Draco, 11 bits": {"bytes": 2e4, "surface_mean": 2e-4, "ssim_paper": 0.95},
    "NGLOD-5, published": {"bytes": 2e6, "ssim_paper": 0.988},
}


@pytest.mark.parametrize("rows", [ROWS, {"ground truth": ROWS["ground truth"]}])
def test_rate_distortion(tmp_path, rows):
    path = plot_rate_distortion(tmp_path, rows)
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


def test_rows_of_different_numbers_are_a_curve(tmp_path):
    def lines(rows: dict) -> int:
        plot_rate_distortion(tmp_path, rows)
        return (tmp_path / "rate_distortion.svg").read_text().count("stroke-opacity: 0.6")

    row = {"surface_mean": 1e-4, "ssim_paper": 0.98}
    curve = {f"compact_{size}k": row | {"bytes": 1024.0 * size} for size in (4, 8, 16)}
    assert lines(curve) == 2 and lines(curve | {"fast": row | {"bytes": 1e5}}) == 2 + 2
