import math

import pytest
import torch

from dss import ops
from dss.config import RenderSettings
from dss.errors import InputError
from dss.evaluation.images import psnr
from dss.reconstruction.samplers.guided import spread
from dss.reconstruction.samplers.sphere_cloud import (
    NEIGHBOURS,
    SphereCloud,
    SphereCloudSettings,
    repulsion,
)
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.volume_rendering import render_picture, render_rays
from tests.helpers import ball_model, pinhole

SETTINGS = SphereCloudSettings(
    spheres=400,
    coarse=32,
    fine=32,
    start_step=10,
    relocate_every=4,
    resample_every=8,
    sphere_lr=1e-2,
)
WHITE = torch.ones(3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def intervals(counts: list[int], start: torch.Tensor, end: torch.Tensor) -> ops.Intervals:
    """Intervals of rays that have `counts` of them."""
    offsets, sphere = torch.tensor([0, *counts]).cumsum(0), torch.zeros(len(start)).long()
    return ops.Intervals(offsets, start, end, sphere, torch.full((len(counts),), torch.inf))


@pytest.fixture
def cloud() -> SphereCloud:
    torch.manual_seed(0)
    return SphereCloud(SETTINGS)


@pytest.fixture
def wrapped(cloud) -> SphereCloud:
    """Spheres of radius 0.2 on the surface of a ball of radius 0.5."""
    cloud.shell.centers.copy_(torch.nn.functional.normalize(cloud.shell.centers, dim=1) / 2)
    cloud.shell.outer_radii.fill_(0.2)
    return cloud


def test_begins_in_the_unit_ball(cloud):
    length = cloud.shell.centers.norm(dim=1)
    assert length.max() <= 0.99 and cloud.radius == pytest.approx(0.4)
    # uniform in volume
    assert (length < 0.99 * 0.5 ** (1 / 3)).float().mean() == pytest.approx(0.5, abs=0.08)


def test_repulsion_is_finite_without_pairs():
    # far, and at the same place
    centers = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0]], requires_grad=True)
    force = repulsion(centers, 0.1)
    force.backward()
    assert force == 0 and torch.equal(centers.grad, torch.zeros(3, 3))
    assert repulsion(torch.zeros(1, 3), 0.1) == 0


def test_no_repulsion_at_all(wrapped):
    """The ablation: what is on the surface stays there."""
    wrapped.settings = wrapped.settings.model_copy(update={"repulsion": 0.0})
    before = wrapped.shell.centers.clone()
    wrapped.move(ball_model(400.0))
    torch.testing.assert_close(wrapped.shell.centers, before, atol=0.02, rtol=0)


def test_repulsion_against_a_loop():
    torch.manual_seed(1)
    centers, radius = torch.rand(40, 3) * 0.6, 0.2
    values = []
    for i in range(40):
        distances = sorted(float((centers[i] - centers[j]).norm()) for j in range(40) if j != i)
        values += [radius / d for d in distances[:NEIGHBOURS] if d < 2 * radius]
    assert repulsion(centers, radius).item() == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_the_radius_never_cuts_into_the_band(cloud):
    for sharpness, step in (
        (20.0, 0),
        (20.0, 100_000),
        (150.0, 30_000),
        (1e5, 30_000),
        (1e5, 300_000),
    ):
        cloud.settings = SphereCloudSettings(spheres=400, start_step=10**6)
        cloud.prepare(ball_model(sharpness), step, generator())
        published = max(0.4 * math.exp(-2.5e-5 * step), 0.04)
        assert cloud.radius == pytest.approx(max(published, math.log(1000) / sharpness), rel=1e-5)


def test_moves_as_adam_does(cloud):
    model, reference = ball_model(100.0), cloud.shell.centers.clone().requires_grad_()
    optimizer = torch.optim.Adam([reference], SETTINGS.sphere_lr)
    for _ in range(3):
        cloud.move(model)
        optimizer.zero_grad()
        (
            model.raw_sdf(reference).square().mean()
            + SETTINGS.repulsion * repulsion(reference, cloud.radius)
        ).backward()
        optimizer.step()
    torch.testing.assert_close(cloud.shell.centers, reference.detach())


def test_comes_to_wrap_the_surface(cloud):
    """The cloud ends on the surface, and no part of the surface is without spheres."""
    model = ball_model(400.0)
    for step in range(120):
        cloud.prepare(model, step, generator(step))
    centers = cloud.shell.centers
    assert (
        model.sdf(centers).abs().mean() < 0.01 and (model.sdf(centers).abs() < cloud.radius).all()
    )
    surface = torch.nn.functional.normalize(torch.randn(1000, 3), dim=1) / 2
    assert torch.cdist(surface, centers).amin(1).max() < 0.15
    assert model.distance.balls.grad is None  # the surface does not come to the spheres


def test_resampling_keeps_the_count_and_zeroes_the_moments(wrapped):
    model, centers = ball_model(400.0), wrapped.shell.centers
    centers[:30] *= 2.5  # out of the unit ball
    centers[30:50] = 0  # in the solid
    before = centers.clone()
    for value in (wrapped.first, wrapped.second):
        value.fill_(1.0)
    wrapped.resample(model, False, generator())
    assert torch.equal(centers[30:], before[30:]) and (wrapped.first[30:] == 1).all()
    assert (wrapped.first[:30] == 0).all() and (wrapped.second[:30] == 0).all()
    wrapped.resample(model, True, generator())
    assert len(wrapped.shell) == 400 and torch.equal(centers[50:], before[50:])
    assert (
        (wrapped.first[:50] == 0).all()
        and (wrapped.second[:50] == 0).all()
        and (wrapped.second[50:] == 1).all()
    )
    assert (model.sdf(centers).abs() < 0.1).all() and len(centers.unique(dim=0)) == 400


def test_a_cloud_that_lost_all_its_spheres_is_one_line(wrapped):
    wrapped.shell.centers.zero_()
    wrapped.shell.outer_radii.fill_(0.04)
    with pytest.raises(
        InputError, match="lost all its 400 spheres: none is within 0.04 of the surface; raise"
    ) as error:
        wrapped.resample(ball_model(400.0), True, generator())
    assert "\n" not in str(error.value)


def test_a_distance_that_is_not_finite_is_one_line(wrapped):
    model = ball_model(400.0)
    model.distance.balls[0, 3] = torch.nan
    with pytest.raises(InputError, match="not finite at its centres; lower train.lr"):
        wrapped.move(model)


def test_aims_at_spheres_before_the_camera(wrapped):
    assert wrapped.aim(pinhole(), 50, generator()) is None  # not before the spheres move
    wrapped.aims = True
    for eye in ((0.0, -3.0, 0.5), (0.0, 0.2, 0.1)):  # outside, and amid the spheres
        camera = pinhole(eye)
        pixels = wrapped.aim(camera, 300, generator())
        assert (
            len(pixels) == (300 if eye[1] == -3 else len(pixels))
            and ((pixels >= 0) & (pixels < 48)).all()
        )
        rays = camera.rays(pixels)
        assert len(wrapped.intervals(*rays).ray.unique()) == len(pixels)  # each meets a sphere
    assert len(wrapped.aim(pinhole(), 1000, generator())) == 1000  # more rays than spheres
    behind = pinhole((0.0, -3.0, 0.0))
    wrapped.shell.centers[:, 1] -= 10
    assert wrapped.aim(behind, 50, generator()) is None


def test_intervals_with_and_without_a_tree(wrapped):
    rays = pinhole(size=24).rays(pinhole(size=24).centers())
    one, other = wrapped.intervals(*rays), wrapped.intervals(*rays, moving=True)
    assert torch.equal(one.offsets, other.offsets)
    for name in ("start", "end"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=2e-4, rtol=0)


def test_spread():
    """Both ends of all intervals, and in between in proportion to their lengths."""
    given = intervals([0, 2, 0, 0, 1], torch.tensor([0.0, 2.0, 1.0]), torch.tensor([0.9, 2.1, 3.0]))
    rays, t, interval = spread(given, 15)
    assert rays.tolist() == [1, 4] and t.shape == interval.shape == (2, 15)
    torch.testing.assert_close(t[1], torch.linspace(1, 3, 15))
    torch.testing.assert_close(
        t[0], torch.cat([torch.linspace(0, 0.9, 12), torch.linspace(2, 2.1, 3)])
    )
    assert interval[0].tolist() == [0] * 12 + [1] * 3
    moved = spread(given, 15, torch.tensor([0.3, -0.5, 0.0]))[1]
    assert (
        moved[0, [0, 11, 12, 14]].tolist() == t[0, [0, 11, 12, 14]].tolist()
        and (moved.diff() > 0).all()
    )
    assert all(
        len(value) == 0 for value in spread(intervals([0], given.start[:0], given.end[:0]), 15)
    )


@pytest.mark.parametrize("seed", range(4))
def test_spread_covers_any_number_of_intervals(seed):
    torch.manual_seed(seed)
    number = torch.randint(0, 12, (50,))
    ray = torch.arange(50).repeat_interleave(number)
    start = torch.cat([torch.arange(n) + 0.5 * torch.rand(n) for n in number])
    end = start + 0.01 + 0.4 * torch.rand(len(ray))
    # at most 8 intervals, the rest is joined
    rays, t, interval = spread(intervals(number.tolist(), start, end), 16)
    assert torch.equal(rays, number.nonzero()[:, 0]) and (t.diff() > 0).all()
    for row, index in enumerate(rays.tolist()):
        first, last = start[ray == index], end[ray == index]
        count = min(len(first), 8)
        assert interval[row].unique().tolist() == list(range(count))
        for k in range(count):
            mine = t[row][interval[row] == k]
            assert mine[0] == first[k] and mine[-1].item() == pytest.approx(
                last[k if k < 7 else -1].item(), abs=1e-5
            )


def test_samples_lie_in_spheres(wrapped):
    model, (origins, directions) = ball_model(400.0), pinhole().rays(pinhole().centers())
    for jitter in (None, generator()):
        samples = wrapped.sample(model, origins, directions, jitter)
        points = origins[samples.ray] + samples.middle[:, None] * directions[samples.ray]
        assert (wrapped.shell.outer_gap(points)[0] < 1e-5).all() and (samples.length > 0).all()
        same = samples.ray[1:] == samples.ray[:-1]
        assert (samples.start[1:] >= samples.end[:-1] - 1e-6)[same].all()


def test_rays_that_miss_are_background(wrapped):
    model, origins = ball_model(400.0), torch.tensor([[0.9, 0.9, -3.0]])
    directions = torch.tensor([[0.0, 0, 1]])
    samples = wrapped.sample(model, origins, directions, generator())
    rendered = render_rays(model, samples, origins, directions, torch.tensor([0.2, 0.3, 0.4]))
    assert len(samples.ray) == 0 and torch.equal(rendered.colour, torch.tensor([[0.2, 0.3, 0.4]]))


def test_agrees_with_plain_sampling_on_a_converged_field(wrapped):
    model, camera = ball_model(400.0), pinhole(size=64)
    wrapped.settings = SphereCloudSettings(coarse=64, fine=64)
    uniform = Uniform(UniformSettings(coarse=64, fine=64))
    plain = render_picture(model, uniform, camera, WHITE, RenderSettings())
    found = render_picture(model, wrapped, camera, WHITE, RenderSettings())
    assert psnr(found.colour, plain.colour) > 40 and found.background > 0.4


def test_state_survives(wrapped):
    wrapped.move(ball_model(400.0))
    other = SphereCloud(SETTINGS)
    other.restore(wrapped.state_dict())
    for sampler in (wrapped, other):
        sampler.move(ball_model(400.0))
    assert (
        torch.equal(wrapped.shell.centers, other.shell.centers) and other.radius == wrapped.radius
    )
