import json
import sys

import numpy as np
import pytest
from PIL import Image

from dss import cli
from scripts import teaser


def test_teaser(ball_run, monkeypatch, capsys):
    monkeypatch.setattr(teaser, "SIDE", 40)
    arguments = [ball_run, "--mesh", ball_run.parent / "ball.ply", "--out", ball_run / "teaser.png"]
    monkeypatch.setattr(sys, "argv", ["teaser.py", *map(str, arguments)])
    with pytest.raises(SystemExit):
        cli.run(teaser.main)
    assert "eval.json: not there; run eval.py" in capsys.readouterr().err
    surface = {"bytes": 2048, "surface_mean": 1e-4, "surface_max": 1e-3, "thickness_mean": 0.2}
    images = {name: {"mean": {"ssim_white": 0.99, "normal_error_deg": 1.5}} for name in ("paper", "surface")}
    for name, values in (("eval", surface), ("ssim", images)):
        (ball_run / f"{name}.json").write_text(json.dumps(values))
    cli.run(teaser.main)
    image = np.asarray(Image.open(ball_run / "teaser.png"))
    assert image.shape == (40 + teaser.TOP + teaser.BOTTOM, 5 * 40 + 6 * teaser.GAP, 3)
    for panel in range(5):
        left = teaser.GAP + panel * (40 + teaser.GAP)
        assert (image[teaser.TOP : teaser.TOP + 40, left : left + 40] != 255).any(-1).mean() > 0.3
