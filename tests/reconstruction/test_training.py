import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from dss.config import PhotoConfig, SceneSettings, Settings, TrainSettings
from dss.errors import InputError
from dss.reconstruction.models.base import Shaded
from dss.reconstruction.samplers.occupancy import OccupancySettings
from dss.reconstruction.samplers.shell import ShellSettings
from dss.reconstruction.samplers.sphere_cloud import SphereCloudSettings
from dss.reconstruction.samplers.uniform import UniformSettings
from dss.reconstruction.scene import load_scene
from dss.reconstruction.training import (
    Training,
    bilinear,
    flushed,
    losses,
    schedule,
    spread_points,
    train,
)
from dss.reconstruction.volume_rendering import Rendered
from dss.shell.dual_shell import DualShell
from tests.helpers import SMALL, write_synthetic

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic"), 20)


UPSAMPLING = {"coarse": 12, "fine": 8, "rounds": 2}
SAMPLERS = {
    "uniform": UniformSettings(**UPSAMPLING),
    "occupancy": OccupancySettings(step=0.1, grid=16),
    "shell": ShellSettings(**UPSAMPLING, step=0.1, start_step=4, rebuild_every=100),
    "sphere_cloud": SphereCloudSettings(
        **UPSAMPLING, spheres=50, start_step=2, relocate_every=3, resample_every=5
    ),
}
TRAIN = TrainSettings(
    steps=8, rays=64, pixels="scene", lr=5e-3, warm_up_steps=2, anneal_steps=4, mask_weight=0.1,
    checkpoint=4,
)  # fmt: skip


@pytest.fixture
def config(synthetic) -> PhotoConfig:
    scene = SceneSettings(path=str(synthetic), bounds="1 -2 0.5 0.5")
    return PhotoConfig(scene=scene, model=SMALL, sampler=SAMPLERS["uniform"], train=TRAIN)


@pytest.fixture(autouse=True)
def quick_shell(monkeypatch):
    """Building the shell of a model takes seconds; tests of model_shell.py do it."""
    shell = DualShell(torch.zeros(1, 3), torch.tensor([0.2]), torch.tensor([0.9]))
    monkeypatch.setattr("dss.reconstruction.model_shell.shell_of_model", lambda *_: shell)


def changed(settings: Settings | PhotoConfig | TrainSettings, **values):
    """The settings with other values."""
    return settings.model_copy(update=values)


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("pixels", ["photo", "scene"])
def test_an_interrupted_training_ends_the_same(config, method, pixels, tmp_path):
    train_settings = changed(TRAIN, pixels=pixels, samples=900)
    config = changed(config, sampler=SAMPLERS[method], train=train_settings)
    scene, seen = load_scene(config.scene, "train"), []
    whole = train(config, scene, CPU, tmp_path / "a", lambda now, _: seen.append(now.step))

    def interrupt(training: Training, _) -> None:
        if training.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, scene, CPU, tmp_path / "b", interrupt)
    resumed = train(config, scene, CPU, tmp_path / "b", lambda *_: None)
    assert seen == list(range(1, 9))
    expected, found = whole.weights(), resumed.weights()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_numbers_next_to_0_are_flushed_while_it_trains_only(config, tmp_path):
    """Whoever trains and goes on in the same process has them again."""

    def tiny() -> bool:
        return bool((torch.full((4,), 1e-40) * 1 > 0).all())

    assert tiny()
    train(config, load_scene(config.scene, "train"), CPU, tmp_path / "a", lambda *_: None)
    assert tiny()
    with flushed():
        assert not tiny()


def test_rays_that_all_miss_teach_nothing_and_break_nothing(config):
    config = changed(config, sampler=SAMPLERS["shell"])
    training = Training(config, load_scene(config.scene, "train"), CPU)
    training.sampler.shell = DualShell(torch.full((1, 3), 50.0), torch.zeros(1), torch.ones(1))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    assert training.run_step() == {"samples": 0.0}
    assert all(
        torch.equal(value, before[name]) for name, value in training.model.named_parameters()
    )


def test_a_loss_that_is_not_finite(config):
    training = Training(config, load_scene(config.scene, "train"), CPU)
    torch.nn.init.constant_(training.model.v, math.nan)
    with pytest.raises(InputError, match="step 1: the loss is not finite; lower train.lr"):
        training.run_step()


def test_damaged_or_foreign_states(config, tmp_path):
    path = tmp_path / "training.safetensors"
    training = Training(config, load_scene(config.scene, "train"), CPU)
    training.save(path)
    other = Training(changed(config, model=changed(SMALL, width=16)), training.scene, CPU)
    with pytest.raises(InputError, match="not a state of this configuration"):
        other.load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        training.load(path)


def rendered(colour: list[float], opacity: float) -> Rendered:
    gradient = torch.tensor([[3.0, 0, 0], [9.0, 0, 0]])
    shaded = Shaded(torch.zeros(2), torch.zeros(2, 3), gradient, torch.zeros(2))
    points = torch.tensor([[0.5, 0, 0], [1.3, 0, 0]])
    normal = torch.zeros(1, 3)
    return Rendered(torch.tensor([colour]), torch.tensor([opacity]), normal, shaded, points)


def test_losses_by_hand():
    """One ray; the second point is beyond 1.2, where the gradient is nobody's business."""
    pixel, white = torch.tensor([[0.2, 0.1, 0.0, 0.5]]), torch.ones(3)  # before white: 0.7 0.6 0.5
    config = TrainSettings(colour_weight=2.0, eikonal_weight=0.1, mask_weight=0.3)
    loss, _ = losses(rendered([0.6, 0.6, 0.8], 0.25), pixel, white, config)
    cross = -(0.5 * math.log(0.25) + 0.5 * math.log(0.75))
    assert loss.item() == pytest.approx(2 * 0.4 + 0.1 * 4 + 0.3 * cross, rel=1e-4)
    config = changed(config, colour="l2", mask_weight=0.0)
    squared, _ = losses(rendered([0.6, 0.6, 0.8], 0.25), pixel, white, config)
    assert squared.item() == pytest.approx(2 * (0.01 + 0.09) + 0.4, rel=1e-4)
    config = changed(config, colour="l1", masked=True)
    pixel = torch.tensor([[0.0, 0, 0, 0.4]])  # outside the mask, for the most part
    outside, _ = losses(rendered([0.0, 0, 0], 0.25), pixel, white, config)
    assert outside.item() == pytest.approx(0.4, rel=1e-4)


def test_gradients_at_one_sample_of_each_ray_and_in_the_cube():
    ray = torch.tensor([0, 0, 0, 2, 2, 5])
    points = torch.arange(6.0)[:, None].expand(6, 3) + 10
    seen = set()
    for seed in range(50):
        found = spread_points(points, ray, 7, torch.Generator().manual_seed(seed))
        near, cube = found[:3, 0], found[3:]
        assert near[0] in (10, 11, 12) and near[1] in (13, 14) and near[2] == 15
        assert len(cube) == 4 and cube.abs().max() <= 1
        seen.update(near.tolist())
    assert seen == {10, 11, 12, 13, 14, 15}
    none = spread_points(points[:0], ray[:0], 7, torch.Generator())
    assert none.shape == (4, 3)


def test_eikonal_elsewhere(config, monkeypatch):
    """The loss has the term at the spread points, and none at the samples."""
    config = changed(config, train=changed(TRAIN, eikonal_at="spread", mask_weight=0.0))
    training, asked = Training(config, load_scene(config.scene, "train"), CPU), []

    def constant(model, points):
        asked.append(points)
        return torch.full_like(points, 3.0) / 3**0.5  # of length 3

    monkeypatch.setattr("dss.reconstruction.training.slopes", constant)
    scalars = training.run_step()
    assert scalars["eikonal"] == pytest.approx(4) and len(asked[0]) == 64 + 32
    pixel, white = torch.tensor([[0.2, 0.1, 0.0, 0.5]]), torch.ones(3)
    loss, _ = losses(rendered([0.6, 0.6, 0.8], 0.25), pixel, white, config.train)
    assert loss.item() == pytest.approx(0.4, rel=1e-4)


def test_schedule():
    config = TrainSettings()
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
        expected = [
            map_coordinates(images[number, ..., band].numpy(), [y, x], order=1, mode="nearest")
            for band in range(2)
        ]
        np.testing.assert_allclose(found[mine], np.stack(expected, 1), atol=1e-5)
    center = bilinear(images, torch.tensor([1]), torch.tensor([[4.5, 2.5]]))
    assert torch.equal(center, images[1, 2, 4][None])


def test_a_model_learns_the_ball(config, tmp_path):
    """Two hundred small steps beat the best constant picture clearly."""
    settings = changed(TRAIN, steps=200, warm_up_steps=10, anneal_steps=50)
    config = changed(config, train=settings)
    colours: list[float] = []

    def follow(_: Training, scalars: dict) -> None:
        colours.append(float(scalars["colour"]))

    train(config, load_scene(config.scene, "train"), CPU, tmp_path / "state", follow)
    assert np.mean(colours[-20:]) < 0.3 * np.mean(colours[:5])
