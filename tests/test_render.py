import sys

import numpy as np
import pytest
import torch
from PIL import Image

import render
from dss import cli
from dss.config import Config, FieldConfig
from dss.fields import build
from dss.run import Source, save_field
from dss.shell import DualShell


@pytest.fixture
def script(monkeypatch, capsys):
    """Run render.py with these arguments; returns exit code, last line of output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["render.py", *map(str, arguments)])
        code = 0
        try:
            cli.run(render.main)
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        return code, output.out.strip().split("\n")[-1], output.err

    return call


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder with an unfitted field: its surface is somewhere between two spheres."""
    torch.manual_seed(0)
    config = Config(field=FieldConfig(latent=4, width=8))
    field = build(config.field, DualShell(torch.tensor([[0.0, 0, 0], [0.3, 0, 0]]), torch.tensor([0.4, 0.3]), torch.tensor([0.5, 0.5])))
    folder = tmp_path_factory.mktemp("runs") / "two_spheres"
    save_field(folder, field, config, Source("gone.ply", "0" * 64, (0.0, 0.0, 0.0), 1.0))
    return folder


def test_renders_views_and_a_sheet_the_same_each_time(script, run, tmp_path):
    for folder in ("first", "second"):
        code, last, _ = script(run, "--views", 3, "--size", 40, "--mode", "normal", "--out", tmp_path / folder)
        assert code == 0 and last == f"next: look at {tmp_path / folder / 'normal.png'}"
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["normal.png", "normal_000.png", "normal_001.png", "normal_002.png"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    image = np.asarray(Image.open(tmp_path / "first" / "normal_000.png"))
    assert image.shape == (40, 40, 3) and (image[0] == 255).all() and (image[20, 20] != 255).any()


@pytest.mark.parametrize("mode", ["shaded", "depth", "steps"])
def test_mesh_alone(script, tmp_path, ball, mode):
    ball.export(tmp_path / "ball.ply")
    code, last, error = script("--mesh", tmp_path / "ball.ply", "--views", 1, "--size", 32, "--mode", mode, "--out", tmp_path)
    assert code == 0, error
    image = np.asarray(Image.open(tmp_path / f"{mode}_000.png"))
    ys, xs = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(xs, ys) < 14  # of the ball's disc
    assert (image[~inside & (np.hypot(xs, ys) > 17)] == 255).all() if mode != "steps" else True
    assert (image[inside] != 255).any(-1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a run folder, or --mesh"),
        (["nowhere"], "not a run folder"),
        (["--mesh", "nowhere.obj"], "no such file"),
        (["--mesh", "demo", "--views", "0"], "--views 0"),
        (["--mesh", "demo", "--size", "0"], "--size 0"),
        (["--mesh", "demo", "--size", "10000000"], "GiB of memory"),
    ],
)
def test_bad_input(script, arguments, message):
    code, _, error = script(*arguments)
    assert code == 2 and message in error and "Traceback" not in error and len(error.strip().split("\n")) == 1
