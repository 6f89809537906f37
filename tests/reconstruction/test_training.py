import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from dss.reconstruction.config import SamplerConfig, SceneConfig, TrainConfig, ViewsConfig
from dss.reconstruction.run import is_views, load_views_run, save_run
from scipy.ndimage import map_coordinates

import eval
import eval_ssim
import render
import train as train_script
from dss import cli
from dss.errors import InputError
from dss.reconstruction.models.base import Shaded
from dss.reconstruction.scene import load_scene
from dss.reconstruction.training import Training, bilinear, losses, schedule, train
from dss.reconstruction.volume_rendering import Rendered
from dss.shell.dual_shell import DualShell
from tests.helpers import SMALL, write_synthetic

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic"), 20)


@pytest.fixture
def config(synthetic) -> ViewsConfig:
    return ViewsConfig(
        scene=SceneConfig(str(synthetic), bounds="1 -2 0.5 0.5"),
        model=SMALL,
        sampler=SamplerConfig(coarse=12, fine=8, rounds=2, step=0.1, grid=16, after=4, rebuild=100),
        train=TrainConfig(steps=8, batch=64, pixels="scene", rate=5e-3, warm_up=2, anneal=4, mask_weight=0.1, checkpoint=4),
    )


@pytest.fixture(autouse=True)
def quick_shell(monkeypatch):
    """Building the shell of a model takes seconds; tests/test_views_dual.py does it."""
    monkeypatch.setattr("dss.reconstruction.model_shell.shell_of_model", lambda *_: DualShell(torch.zeros(1, 3), torch.tensor([0.2]), torch.tensor([0.9])))


def state(training: Training) -> dict[str, torch.Tensor]:
    return training.model.state_dict() | {f"sampler.{name}": value for name, value in training.sampler.state_dict().items()}


@pytest.mark.parametrize("method", ["uniform", "occupancy", "shell"])
@pytest.mark.parametrize("pixels", ["photo", "scene"])
def test_an_interrupted_training_ends_the_same(config, method, pixels, tmp_path):
    config = replace(config, sampler=replace(config.sampler, method=method), train=replace(config.train, pixels=pixels, samples=900))
    scene, seen = load_scene(config.scene, "train"), []
    whole = train(config, scene, CPU, tmp_path / "a.safetensors", lambda training, _: seen.append(training.step))

    def interrupt(training: Training, _) -> None:
        if training.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, scene, CPU, tmp_path / "b.safetensors", interrupt)
    resumed = train(config, scene, CPU, tmp_path / "b.safetensors", lambda *_: None)
    assert seen == list(range(1, 9))
    assert state(whole).keys() == state(resumed).keys()
    assert all(torch.equal(value, state(resumed)[name]) for name, value in state(whole).items())


def test_rays_that_all_miss_teach_nothing_and_break_nothing(config):
    config = replace(config, sampler=replace(config.sampler, method="shell"))
    training = Training(config, load_scene(config.scene, "train"), CPU)
    training.sampler.shell = DualShell(torch.full((1, 3), 50.0), torch.zeros(1), torch.ones(1))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    assert training.run_step() == {"sections": 0.0}
    assert all(torch.equal(value, before[name]) for name, value in training.model.named_parameters())


def test_a_loss_that_is_not_finite(config):
    training = Training(config, load_scene(config.scene, "train"), CPU)
    torch.nn.init.constant_(training.model.v, math.nan)
    with pytest.raises(InputError, match="step 1: the loss is not finite; lower train.rate"):
        training.run_step()


def test_damaged_or_foreign_states(config, tmp_path):
    training, path = Training(config, load_scene(config.scene, "train"), CPU), tmp_path / "training.safetensors"
    training.save(path)
    other = Training(replace(config, model=replace(SMALL, width=16)), training.scene, CPU)
    with pytest.raises(InputError, match="not a state of this configuration"):
        other.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        training.load(path)


def rendered(colour: list[float], opacity: float) -> Rendered:
    gradient = torch.tensor([[3.0, 0, 0], [9.0, 0, 0]])
    shaded = Shaded(torch.zeros(2), torch.zeros(2, 3), gradient, torch.zeros(2))
    return Rendered(torch.tensor([colour]), torch.tensor([opacity]), torch.zeros(1, 3), shaded, torch.tensor([[0.5, 0, 0], [1.3, 0, 0]]))


def test_losses_by_hand():
    """One ray; the second point is beyond 1.2, where the gradient is nobody's business."""
    pixel, white = torch.tensor([[0.2, 0.1, 0.0, 0.5]]), torch.ones(3)  # before white: 0.7 0.6 0.5
    config = TrainConfig(colour_weight=2.0, eikonal_weight=0.1, mask_weight=0.3)
    loss, _ = losses(rendered([0.6, 0.6, 0.8], 0.25), pixel, white, config)
    cross = -(0.5 * math.log(0.25) + 0.5 * math.log(0.75))
    assert loss.item() == pytest.approx(2 * 0.4 + 0.1 * 4 + 0.3 * cross, rel=1e-4)
    squared, _ = losses(rendered([0.6, 0.6, 0.8], 0.25), pixel, white, replace(config, colour="l2", mask_weight=0.0))
    assert squared.item() == pytest.approx(2 * (0.01 + 0.09) + 0.4, rel=1e-4)
    outside, _ = losses(rendered([0.0, 0, 0], 0.25), torch.tensor([[0.0, 0, 0, 0.4]]), white, replace(config, masked=True, mask_weight=0.0))
    assert outside.item() == pytest.approx(0.4, rel=1e-4)


def test_schedule():
    config = TrainConfig()
    assert schedule(0, config) == 1 / 5000 and schedule(4999, config) == 1
    assert schedule(5000, config) == 1 and schedule(152_500, config) == pytest.approx(0.525)
    assert schedule(300_000, config) == pytest.approx(0.05)


def test_bilinear():
    images = torch.rand(3, 6, 9, 2)
    index, places = torch.randint(3, (200,)), torch.rand(200, 2).double() * torch.tensor([9, 6])
    found = bilinear(images, index, places)
    for number in range(3):
        mine = (index == number).numpy()
        x, y = places[mine].T.numpy() - 0.5
        expected = [map_coordinates(images[number, ..., band].numpy(), [y, x], order=1, mode="nearest") for band in range(2)]
        np.testing.assert_allclose(found[mine], np.stack(expected, 1), atol=1e-5)
    assert torch.equal(bilinear(images, torch.tensor([1]), torch.tensor([[4.5, 2.5]])), images[1, 2, 4][None])


def test_a_model_learns_the_ball(config, tmp_path):
    """Two hundred small steps beat the best constant picture clearly."""
    config = replace(config, train=replace(config.train, steps=200, warm_up=10, anneal=50))
    colours: list[float] = []
    train(config, load_scene(config.scene, "train"), CPU, tmp_path / "state", lambda _, scalars: colours.append(float(scalars["colour"])))
    assert np.mean(colours[-20:]) < 0.3 * np.mean(colours[:5])


def script(monkeypatch, capsys, module, *arguments) -> tuple[int, str, str]:
    """Exit code, last line of output and standard error of a script with these arguments."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    code = 0
    try:
        cli.run(module.main)
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    return code, output.out.strip().split("\n")[-1], output.err


@pytest.fixture
def small(config, tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    config = replace(config, scene=replace(config.scene, path=""), sampler=replace(config.sampler, method="shell"))
    path.write_text(json.dumps(asdict(config)))  # JSON is YAML
    return path


def test_the_four_scripts(small, synthetic, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    code, last, _ = script(monkeypatch, capsys, train_script, "--config", small, "--data", synthetic, "--out", run, "train.steps=20")
    assert code == 0 and last == f"next: python eval_ssim.py {run} --split test; python render.py {run} --split test"
    assert script(monkeypatch, capsys, train_script, "--config", small, "--data", synthetic, "--out", run, "train.steps=20")[0] == 0
    assert script(monkeypatch, capsys, train_script, "--config", small, "--data", synthetic, "--out", run, "train.steps=9")[0] == 2

    code, last, _ = script(monkeypatch, capsys, render, run, "--split", "test")
    assert code == 0 and last.startswith(f"next: look at {run / 'test.png'}")
    assert len(list((run / "test").glob("*.png"))) == len(list((run / "test/normals").glob("*.png"))) == 6

    code, last, _ = script(monkeypatch, capsys, eval_ssim, run, "--split", "test", "--every", 2)
    result = json.loads((run / "views.json").read_text())
    assert code == 0 and list(result["photos"]) == ["r_0", "r_2", "r_4"]
    assert result["mean"]["psnr"] > 5 and 0 < result["mean"]["background"] < 1 and result["mean"]["samples"] > 0

    code, last, _ = script(monkeypatch, capsys, eval, run, "--export", tmp_path / "ball.ply", "--resolution", 32)
    mesh = trimesh.load(tmp_path / "ball.ply")
    assert code == 0 and np.linalg.norm(mesh.vertices - [1, -2, 0.5], axis=1).max() < 0.5  # the scene's units


def test_bad_requests_end_in_one_line(small, synthetic, tmp_path, monkeypatch, capsys):
    for module, arguments, message in (
        (train_script, ["--config", small, "--data", tmp_path / "none"], "no such folder"),
        (train_script, ["--config", small, "--data", synthetic, "sampler.method=shel"], "must be one of uniform, occupancy, shell"),
        (train_script, ["--config", small, "--data", synthetic, "train.rates=1"], "did you mean train.rate?"),
        (train_script, ["--config", small, "--data", synthetic, "scene.bounds=0 0 0"], "expected a ball"),
    ):
        code, _, error = script(monkeypatch, capsys, module, *arguments, "--out", tmp_path / "run")
        assert code == 2 and message in error and error.count("\n") == 1
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/config.yaml").write_text(small.read_text())
    for module, arguments in ((render, []), (eval_ssim, []), (eval, ["--export", tmp_path / "a.ply"])):
        code, _, error = script(monkeypatch, capsys, module, tmp_path / "unfinished", *arguments)
        assert code == 2 and "its training has not finished" in error


def test_run_folders(config, tmp_path):
    training = Training(config, load_scene(config.scene, "train"), CPU)
    save_run(tmp_path, training)
    run = load_views_run(tmp_path)
    assert run.config == config and run.frame == training.scene.frame and run.background.tolist() == [1, 1, 1]
    points = torch.rand(50, 3)
    assert torch.equal(run.model.sdf(points), training.model.sdf(points))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        load_views_run(tmp_path)
    assert is_views(ROOT / "configs/neus.yaml") and not is_views(ROOT / "configs/fast.yaml") and not is_views(tmp_path / "none")
