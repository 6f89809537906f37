"""The scripts on a run of photos: what applies to it, and what is refused."""

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dss.geometry.similarity import Similarity
from dss.reconstruction.models import build_model
from dss.reconstruction.samplers import build_sampler
from dss.reconstruction.scene import load_scene
from dss.run import Source, load_config, open_folder, save_model
from tests.helpers import CENTER, write_synthetic

SMALL = [
    "model.layers=2",
    "model.width=32",
    "model.skip=0",
    "model.feature=8",
    "model.colour_layers=1",
    "model.colour_width=32",
    "sampler.coarse=16",
    "sampler.fine=16",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of an untrained NeuS, whose surface is about a ball, on a scene of six photos."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "scene").mkdir()
    scene = str(write_synthetic(folder / "scene", 20))
    config = load_config("neus_tiny", [*SMALL, "scene.downscale=1"], scene)
    similarity = load_scene(config.scene, "train").similarity
    torch.manual_seed(0)
    model, sampler = build_model(config.model), build_sampler(config.sampler)
    open_folder(folder / "run", config)
    save_model(folder / "run", model, sampler, config, Source(scene, "", similarity))
    return folder / "run"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("render", option) for option in ("--size=64", "--views=3", "--up=z", "--animate=gif")),
        *(("eval", option) for option in ("--weights=a.h5", "--data=a.ply", "--mesh=a.ply")),
        *(("eval_ssim", option) for option in ("--views=3", "--size=64", "--truth=scene")),
    ],
)
def test_options_that_do_not_apply_are_refused(run, script, command, option):
    name = option.partition("=")[0].replace("--mesh", "--data")
    code, out, error = script(command, run, option)
    expected = f"error: {name}: does not apply to surfaces from photos; leave it out\n"
    assert (code, out, error) == (2, "", expected)


def test_modes_that_do_not_apply_are_refused(run, script):
    for mode in ("normal", "error", "slice"):
        code, _, error = script("render", run, "--mode", mode)
        assert code == 2 and f"--mode {mode}" in error and error.count("\n") == 1


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


def test_the_similarity_is_that_of_the_run(run):
    from dss.run import open_run

    opened = open_run(run)
    assert isinstance(opened.similarity, Similarity)
    assert opened.similarity.center == pytest.approx(tuple(CENTER), abs=0.2)
