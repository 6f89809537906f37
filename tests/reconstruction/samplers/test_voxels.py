"""Greedy voxels, and the parts of guidance switched off."""

import pytest
import torch

from dss.config import RenderSettings
from dss.errors import InputError
from dss.evaluation.images import psnr
from dss.reconstruction.samplers.sphere_cloud import SphereCloud, SphereCloudSettings
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.samplers.voxels import Voxels, VoxelsSettings
from dss.reconstruction.volume_rendering import render_picture
from tests.helpers import ball_model, pinhole

SETTINGS = VoxelsSettings(
    coarse=32, fine=16, rounds=2, grid=4, grid_final=16, start_step=10, prune_every=5, split_every=5
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pruned() -> Voxels:
    """Around a ball of radius 0.5, at 16 cells per axis."""
    sampler, model = Voxels(SETTINGS), ball_model(400.0)
    for step in range(30):
        sampler.prepare(model, step, generator())
    return sampler


def test_cells_are_pruned_and_split_on_time():
    sampler, model, sizes, counts = Voxels(SETTINGS), ball_model(400.0), [], []
    for step in range(30):
        sampler.prepare(model, step, generator())
        sizes.append(len(sampler.occupied))
        counts.append(int(sampler.occupied.sum()))
    assert sizes == [4] * 15 + [8] * 5 + [16] * 10  # not beyond grid_final
    assert counts[:10] == [64] * 10 and counts[10] < 64 and counts[29] < 16**3 / 4


def test_no_cell_of_the_surface_is_lost(pruned):
    points = torch.nn.functional.normalize(torch.randn(5000, 3, generator=generator()), dim=1) / 2
    i, j, k = ((points + 1) / pruned.edge).long().T
    assert pruned.occupied[i, j, k].all()
    gap = (pruned.centers.norm(dim=1) - 0.5).abs()
    assert gap.max() <= 1.1 * 3**0.5 / 2 * pruned.edge


def test_what_is_pruned_never_comes_back(pruned):
    before = pruned.occupied.clone()
    pruned.prune(ball_model(400.0, ((0.0, 0.0, 0.0, 0.55),)))
    assert not (pruned.occupied & ~before).any()
    with pytest.raises(InputError, match="the voxels are all pruned"):
        pruned.prune(ball_model(400.0, ((0.0, 0.0, 0.0, 0.05),)))


def test_intervals_against_brute_force(pruned):
    """By marching the rays densely, among them some along the planes of the grid."""
    origins, directions = pinhole(size=12).rays()
    straight = torch.tensor([[0.0, 0.0, -3.0], [0.25, 0.3, -3.0], [0.9, 0.9, -3.0]])
    origins = torch.cat([origins, straight])
    directions = torch.cat([directions, torch.tensor([[0.0, 0, 1]]).expand(3, 3)])
    found = pruned.intervals(origins, directions)
    t = torch.arange(1.5, 4.5, 0.002)
    points = origins[:, None] + t[:, None] * directions[:, None]
    cell = ((points + 1) / pruned.edge).floor().long()
    inside = ((cell >= 0) & (cell < 16)).all(2)
    expected = pruned.occupied[tuple(cell.clamp(0, 15).unbind(2))] & inside
    for ray in range(len(origins)):
        mine = found.ray == ray
        start, end = found.start[mine], found.end[mine]
        assert (start[1:] > end[:-1]).all()  # merged
        marked = ((t[:, None] > start) & (t[:, None] < end)).any(1)
        if ray != 144:  # the axis runs along four cells' common edge
            assert (marked != expected[ray]).sum() <= 2 * len(start) + 1


def test_agrees_with_plain_sampling_on_a_converged_field(pruned):
    model, camera, white = ball_model(400.0), pinhole(size=48), torch.ones(3)
    pruned.settings = VoxelsSettings(coarse=64, fine=64)
    uniform = Uniform(UniformSettings(coarse=64, fine=64))
    plain = render_picture(model, uniform, camera, white, RenderSettings())
    found = render_picture(model, pruned, camera, white, RenderSettings())
    assert psnr(found.colour, plain.colour) > 38 and found.background > 0.3


def test_aims_at_cells(pruned):
    camera = pinhole()
    pixels = pruned.aim(camera, 300, generator())
    assert len(pixels) == 300
    assert len(pruned.intervals(*camera.rays(pixels)).ray.unique()) == 300  # each meets a cell


def test_state_survives_splits(pruned):
    other = Voxels(SETTINGS)
    other.restore(pruned.state_dict())
    assert torch.equal(other.occupied, pruned.occupied)
    for shape in ((5, 5, 5), (32, 32, 32), (8, 8, 4)):
        with pytest.raises(ValueError, match="none of its own"):
            other.restore({"occupied": torch.ones(shape, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [(SphereCloud, SphereCloudSettings(spheres=50)), (Voxels, VoxelsSettings())],
)
def test_guidance_is_switched_off(sampler, settings):
    """Of rays: they are drawn as `uniform` draws them; of points: the samples are `uniform`'s."""
    model, (origins, directions) = ball_model(400.0), pinhole(size=8).rays()
    made = sampler(settings.model_copy(update={"guide_rays": False, "guide_points": False}))
    made.aims = True
    assert made.aim(pinhole(), 50, generator()) is None
    found = made.sample(model, origins, directions, generator())
    expected = Uniform(UniformSettings()).sample(model, origins, directions, generator())
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    guided = sampler(settings)
    guided.aims = True
    assert guided.aim(pinhole(), 50, generator()) is not None
    inside = guided.sample(model, origins, directions, generator())
    assert len(inside.ray) != len(expected.ray)
