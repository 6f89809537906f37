"""render.py as a user calls it."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dss.config import MeshConfig
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.geometry.similarity import Similarity
from dss.rendering.images import ALARM
from dss.run import Source, save_field
from dss.shell.dual_shell import DualShell


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder with an unfitted field: its surface is somewhere between two spheres."""
    torch.manual_seed(0)
    config = MeshConfig(field=DualShellSettings(latent=4, width=8))
    shell = DualShell(
        torch.tensor([[0.0, 0, 0], [0.3, 0, 0]]), torch.tensor([0.4, 0.3]), torch.tensor([0.5, 0.5])
    )
    field = build(config.field, shell.geometry)
    folder = tmp_path_factory.mktemp("runs") / "two_spheres"
    save_field(
        folder, field, config, Source("gone.ply", "0" * 64, Similarity((0.0, 0.0, 0.0), 1.0))
    )
    return folder


def test_renders_views_and_a_sheet_the_same_each_time(script, run, tmp_path):
    for folder in ("first", "second"):
        options = ["--views", 3, "--size", 40, "--mode", "normal", "--out", tmp_path / folder]
        code, out, _ = script("render", run, *options)
        assert (
            code == 0
            and out.splitlines()[-1] == f"next: look at {tmp_path / folder / 'normal.png'}"
        )
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["normal.png", "normal_000.png", "normal_001.png", "normal_002.png"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    image = np.asarray(Image.open(tmp_path / "first" / "normal_000.png"))
    assert image.shape == (40, 40, 3) and (image[0] == 255).all() and (image[20, 20] != 255).any()


@pytest.mark.parametrize("mode", ["shaded", "headlight", "normal", "depth"])
def test_mesh_alone(script, tmp_path, ball, mode):
    ball.export(tmp_path / "ball.ply")
    code, _, error = script(
        "render",
        "--mesh",
        tmp_path / "ball.ply",
        "--views",
        1,
        "--size",
        32,
        "--mode",
        mode,
        "--out",
        tmp_path,
    )
    assert code == 0, error
    image = np.asarray(Image.open(tmp_path / f"{mode}_000.png"))
    y, x = np.mgrid[:32, :32] - 15.5
    distance = np.hypot(x, y)
    assert (image[distance > 17] == 255).all() and (image[distance < 14] != 255).any(-1).all()


@pytest.mark.parametrize("mode", ["depth", "steps", "slice", "shell"])
def test_modes_of_a_run(script, run, tmp_path, mode):
    code, _, error = script(
        "render", run, "--views", 3, "--size", 24, "--mode", mode, "--out", tmp_path
    )
    assert code == 0, error
    images = [np.asarray(Image.open(tmp_path / f"{mode}_{index:03d}.png")) for index in range(3)]
    assert all(len(np.unique(image.reshape(-1, 3), axis=0)) > 5 for image in images)


def test_error_of_a_run(script, ball_run):
    """No error, but where only one of the two is hit; and a mesh that has moved is asked for."""
    arguments = [ball_run, "--mode", "error", "--views", 1, "--size", 24]
    code, _, error = script("render", *arguments)
    assert code == 2 and "moved.ply, which is not there; name its place with --data" in error
    code, _, error = script("render", *arguments, "--mesh", ball_run.parent / "ball.ply")
    assert code == 0, error
    image = np.asarray(Image.open(ball_run / "pictures" / "error_000.png"))
    assert (image == ALARM).all(-1).mean() < 0.05 and (image != 255).any(-1).mean() > 0.4


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_animation(script, run, tmp_path, kind):
    if kind == "mp4" and not shutil.which("ffmpeg"):
        code, _, error = script(
            "render", run, "--views", 2, "--size", 16, "--animate", kind, "--out", tmp_path
        )
        assert code == 2 and "ffmpeg is not installed" in error
        return
    for folder in ("first", "second"):
        code, _, error = script(
            "render", run, "--views", 4, "--size", 16, "--animate", kind, "--out", tmp_path / folder
        )
        assert code == 0, error
    first, second = (tmp_path / folder / f"shaded.{kind}" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    if kind != "mp4":
        with Image.open(first) as animation:
            animation.load()
            assert (
                animation.n_frames == 4
                and animation.info["duration"] == 1500
                and animation.info["loop"] == 0
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a run folder, or --mesh"),
        (["nowhere"], "not a run folder"),
        (["--mesh", "nowhere.obj"], "no such file"),
        (["--mesh", "MESH", "--mode", "shell"], "a mesh alone has none"),
        (["--mesh", "demo", "--views", "0"], "--views 0"),
        (["--mesh", "demo", "--size", "0"], "--size 0"),
        (["--mesh", "demo", "--size", "10000000"], "GiB of memory"),
    ],
)
def test_bad_input(script, tmp_path, box, arguments, message):
    box.export(tmp_path / "box.ply")
    arguments = [tmp_path / "box.ply" if argument == "MESH" else argument for argument in arguments]
    code, _, error = script("render", *arguments)
    assert (
        code == 2
        and message in error
        and "Traceback" not in error
        and len(error.strip().split("\n")) == 1
    )


def test_options_of_photos_do_not_apply_to_meshes(script, run):
    for subject, what in (([run], "runs of meshes"), (["--mesh", "demo"], "meshes")):
        for option, value in (("--split", "test"), ("--every", "2")):
            code, _, error = script("render", *subject, option, value)
            expected = f"error: {option}: does not apply to {what}; leave it out\n"
            assert (code, error) == (2, expected)
