import json

import numpy as np
from PIL import Image

from scripts import teaser


def test_teaser(ball_run, monkeypatch, script):
    monkeypatch.setattr(teaser, "SIDE", 40)
    mesh, path = ball_run.parent / "ball.ply", ball_run / "teaser.png"
    command = ["scripts.teaser", ball_run, "--mesh", mesh, "--out", path]
    code, _, error = script(*command)
    assert code == 2 and "eval.json: not there; run eval.py" in error
    surface = {"bytes": 2048, "surface_mean": 1e-4, "surface_max": 1e-3, "thickness_mean": 0.2}
    mean = {"mean": {"ssim_white": 0.99, "normal_error_deg": 1.5}}
    images = dict.fromkeys(("paper", "surface"), mean)
    for name, values in (("eval", surface), ("ssim", images)):
        (ball_run / f"{name}.json").write_text(json.dumps(values))
    code, _, error = script(*command)
    assert code == 0, error
    image = np.asarray(Image.open(path))
    assert image.shape == (40 + teaser.TOP + teaser.BOTTOM, 5 * 40 + 6 * teaser.GAP, 3)
    for panel in range(5):
        left = teaser.GAP + panel * (40 + teaser.GAP)
        drawn = image[teaser.TOP : teaser.TOP + 40, left : left + 40] != 255
        assert drawn.any(-1).mean() > 0.3
