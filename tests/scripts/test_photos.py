"""The scripts on runs of photos: from training to metrics, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dss.config import PhotoConfig, SceneSettings, TrainSettings, save_config
from dss.geometry.similarity import Similarity
from dss.reconstruction.samplers.shell import ShellSettings
from dss.run import open_run
from dss.shell.dual_shell import DualShell
from tests.helpers import CENTER, SMALL, write_photo_run, write_synthetic


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic"), 20)


@pytest.fixture
def small(tmp_path) -> Path:
    """A configuration that trains in seconds."""
    sampler = {"coarse": 12, "fine": 8, "rounds": 2, "step": 0.1, "start_step": 4}
    train = {"steps": 8, "rays": 64, "pixels": "scene", "lr": 5e-3, "warm_up_steps": 2}
    config = PhotoConfig(
        scene=SceneSettings(bounds="1 -2 0.5 0.5"),
        model=SMALL,
        sampler=ShellSettings(**sampler, rebuild_every=100),
        train=TrainSettings(**train, anneal_steps=4, mask_weight=0.1, checkpoint=4),
    )
    save_config(config, tmp_path / "small.yaml")
    return tmp_path / "small.yaml"


@pytest.fixture(autouse=True)
def quick_shell(monkeypatch):
    """Building the shell of a model takes seconds; tests of model_shell.py do it."""
    shell = DualShell(torch.zeros(1, 3), torch.tensor([0.2]), torch.tensor([0.9]))
    monkeypatch.setattr("dss.reconstruction.model_shell.shell_of_model", lambda *_: shell)


@pytest.fixture(scope="module")
def run(tmp_path_factory, synthetic) -> Path:
    """A run of an untrained NeuS, whose surface is about a ball."""
    return write_photo_run(tmp_path_factory.mktemp("photos") / "run", synthetic)


def test_the_four_scripts(small, synthetic, tmp_path, script):
    run = tmp_path / "run"
    train = ("train", "--config", small, "--data", synthetic, "--out", run)
    code, out, error = script(*train, "train.steps=20")
    assert code == 0, error
    following = f"python eval_ssim.py {run} --split test; python render.py {run} --split test"
    assert out.splitlines()[-1] == f"next: {following}"
    assert "already trained" in script(*train, "train.steps=20").out
    assert script(*train, "train.steps=9").code == 2  # another configuration

    code, out, error = script("render", run, "--split", "test")
    assert code == 0, error
    assert out.splitlines()[-1].startswith(f"next: look at {run / 'test.png'}")
    assert len(list((run / "test").glob("*.png"))) == 6
    assert len(list((run / "test/normals").glob("*.png"))) == 6

    code, _, error = script("eval_ssim", run, "--split", "test", "--every", 2)
    assert code == 0, error
    result = json.loads((run / "ssim.json").read_text())
    mean = result["mean"]
    assert list(result["photos"]) == ["r_0", "r_2", "r_4"]
    assert mean["psnr"] > 5 and 0 < mean["background"] < 1 and mean["samples"] > 0

    exported = tmp_path / "ball.ply"
    code, _, error = script("eval", run, "--export", exported, "--resolution", 32)
    assert code == 0, error
    vertices = trimesh.load(exported).vertices  # in the scene's units
    assert np.linalg.norm(vertices - CENTER, axis=1).max() < 0.5


def test_bad_requests_end_in_one_line(small, synthetic, tmp_path, script):
    for data, override, message in (
        (tmp_path / "none", "seed=0", "no such folder"),
        (synthetic, "sampler.method=shel", "did you mean shell?"),
        (synthetic, "train.ray=1", "did you mean train.rays?"),
        (synthetic, "scene.bounds=0 0 0", "expected a ball"),
    ):
        arguments = ("--config", small, "--data", data, override, "--out", tmp_path / "run")
        code, _, error = script("train", *arguments)
        assert code == 2 and message in error and error.count("\n") == 1
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text(small.read_text())
    for name, *arguments in (("render",), ("eval_ssim",), ("eval", "--export", "a.ply")):
        code, _, error = script(name, unfinished, *arguments)
        assert code == 2 and "has not finished" in error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("render", option) for option in ("--size=64", "--views=3", "--up=z", "--animate=gif")),
        ("eval", "--weights=a.h5"),
        *(("eval_ssim", option) for option in ("--views=3", "--size=64", "--truth=scene")),
    ],
)
def test_options_that_do_not_apply_are_refused(run, script, command, option):
    name = option.partition("=")[0]
    code, out, error = script(command, run, option)
    expected = f"error: {name}: does not apply to surfaces from photos; leave it out\n"
    assert (code, out, error) == (2, "", expected)


def test_modes_that_do_not_apply_are_refused(run, script):
    for mode in ("normal", "error", "slice"):
        code, _, error = script("render", run, "--mode", mode)
        assert code == 2 and f"--mode {mode}" in error and error.count("\n") == 1


def test_the_error_on_a_named_surface_is_drawn(run, script, tmp_path):
    """With --mesh a file is the true surface, and the photos stay those of the run."""
    trimesh.creation.icosphere(3, 0.25).apply_translation(CENTER).export(tmp_path / "ball.ply")
    arguments = [
        "--mode",
        "error",
        "--mesh",
        tmp_path / "ball.ply",
        "--out",
        tmp_path,
        "--every",
        3,
    ]
    code, _, error = script("render", run, "--split", "test", *arguments)
    assert code == 0, error
    drawn = {folder: len(list((tmp_path / folder).glob("*.png"))) for folder in ("photo", "error")}
    assert drawn == {"photo": 2, "error": 2}


def test_its_mesh_is_exported_in_the_scene_s_units(run, script, tmp_path):
    exported, facts = tmp_path / "out.ply", tmp_path / "out.json"
    arguments = ["--resolution", 48, "--export", exported, "--json", facts]
    code, out, error = script("eval", run, *arguments)
    assert code == 0, error
    assert out.splitlines()[-1] == f"next: look at {exported}"
    mesh = trimesh.load(exported)
    assert mesh.is_watertight and mesh.volume > 0
    assert np.abs(mesh.bounds.mean(0) - CENTER).max() < 0.2
    assert json.loads(facts.read_text())["faces"] == len(mesh.faces)


def test_its_surface_is_compared_with_a_mesh(run, script, tmp_path, fewer_points):
    """In the scene's units, whatever the run's: the predicted ball against one of its own size."""
    exported, other = tmp_path / "out.ply", tmp_path / "other.json"
    few = ["--resolution", 48]
    assert script("eval", run, *few, "--export", exported).code == 0
    code, out, error = script("eval", run, *few, "--mesh", exported, "--json", other)
    assert code == 0 and "F at 0.005" in out, error
    facts = json.loads(other.read_text())
    assert facts["surface_max"] < 1e-5 and facts["fscore_fine"] == 1
    assert facts["chamfer_mean"] == pytest.approx(facts["chamfer_mean_floor"], rel=0.02)
    code, _, error = script("eval", run, *few, "--mesh", tmp_path / "none.ply")
    assert code == 2 and "no such file" in error and error.count("\n") == 1
    (tmp_path / "empty").mkdir()
    code, _, error = script("eval", run, *few, "--mesh", tmp_path / "empty")
    assert code == 2 and "neither a mesh, nor a folder of meshes" in error


def test_its_pictures_are_compared_with_the_photos(run, script, tmp_path):
    out = tmp_path / "out"
    code, output, error = script("eval_ssim", run, "--split", "test", "--every", 3, "--out", out)
    assert code == 0, error
    result = json.loads((out / "ssim.json").read_text())
    assert result["split"] == "test" and len(result["photos"]) == 2
    assert 0 < result["mean"]["psnr"] < 60 and 0 < result["mean"]["ssim"] <= 1
    assert output.splitlines()[-1] == f"next: look at {out / 'ssim.json'}"


def test_its_pictures_are_drawn(run, script, tmp_path):
    out = tmp_path / "pictures"
    code, output, error = script("render", run, "--every", 3, "--out", out)
    assert code == 0, error
    sheet = output.splitlines()[-1].removeprefix("next: look at ")
    assert np.asarray(Image.open(sheet)).shape[2] == 3
    assert len(list(out.glob("*.png"))) >= 2


def test_its_pictures_by_the_surface(run, script, tmp_path, monkeypatch):
    """Traced, and by a small field that stands for it; here that is the fit of a moment."""
    out, other = tmp_path / "out", tmp_path / "other"
    code, output, error = script("eval_ssim", run, "--every", 3, "--by", "surface", "--out", out)
    assert code == 0 and "queries / ray" in output, error
    code, _, error = script("render", run, "--every", 3, "--by", "surface", "--out", other)
    assert code == 0 and len(list(other.glob("*.png"))) == 2, error
    monkeypatch.setattr("dss.pipeline.DISTILLED", write_small(tmp_path))
    monkeypatch.setattr("dss.pipeline.CELLS", 48)
    third = tmp_path / "third"
    code, _, error = script("eval_ssim", run, "--every", 3, "--by", "distilled", "--out", third)
    assert code == 0, error
    traced, small = (json.loads((each / "ssim.json").read_text())["mean"] for each in (out, third))
    assert small["psnr"] == pytest.approx(traced["psnr"], abs=1.5)
    assert (run / "distilled/run/field.safetensors").is_file()


def write_small(folder: Path) -> Path:
    path = folder / "moment.yaml"
    path.write_text(
        "spheres: {count: 24}\nsamples: {count: 20000}\nfield: {width: 16, latent: 4}\n"
        "fit: {epochs: 6, resample: 6, batch_size: 1024}\n"
    )
    return path


def test_the_similarity_is_that_of_the_run(run):
    opened = open_run(run)
    assert isinstance(opened.similarity, Similarity)
    assert opened.similarity.center == pytest.approx(tuple(CENTER), abs=0.2)
