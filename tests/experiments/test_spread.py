"""Mean and spread of finished runs, whatever measured them."""

import json

import pytest

from dss.errors import InputError
from dss.experiments.spread import measured, summary


@pytest.fixture
def runs(tmp_path):
    """Three runs of different seeds, two measured by eval.py and one by compare.py."""
    folders = [tmp_path / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        row = {"chamfer": 3e-5 + seed * 1e-6, "chamfer_floor": 2e-5, "surface_mean": 1e-4 * seed}
        if seed < 2:
            pictures = {name: {"mean": {"ssim_white": 0.9}} for name in ("paper", "surface")}
            (folder / "eval.json").write_text(json.dumps(row))
            (folder / "ssim.json").write_text(json.dumps(pictures))
        else:
            row |= {"chamfer_excess": 1.2e-5, "ssim_paper": 0.96, "ssim_surface": 0.9}
            (folder / "comparison.json").write_text(json.dumps({"row": row}))
    return folders


def test_summary(runs):
    rows = summary({folder.name: measured(folder) for folder in runs})
    assert list(rows) == ["0", "1", "2", "mean", "standard deviation"]
    assert rows["mean"]["ssim_paper"] == pytest.approx(0.92)
    assert rows["standard deviation"]["chamfer_excess"] == pytest.approx(1e-6)
    assert rows["standard deviation"]["surface_mean"] == pytest.approx(1e-4)


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"chamfer": 1}'])
def test_what_was_not_measured_is_one_line(runs, script, text):
    if text is None:
        (runs[0] / "eval.json").unlink()
    else:
        (runs[0] / "eval.json").write_text(text)
    with pytest.raises(InputError, match="0: holds no metrics, or damaged ones; measure it"):
        measured(runs[0])
    assert script("scripts.spread", *runs).err.strip().count("\n") == 0


def test_script(runs, script, tmp_path):
    end = script("scripts.spread", *runs, "--json", tmp_path / "out.json")
    lines = end.out.splitlines()
    assert end.code == 0 and "| standard deviation" in lines[-1] and "0.0346" in lines[-1]
    assert len(json.loads((tmp_path / "out.json").read_text())) == 5
    assert "several" in script("scripts.spread", runs[0]).err
