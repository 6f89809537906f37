import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dss.config import RenderSettings
from dss.evaluation.images import psnr
from dss.reconstruction.models.neus import TINY
from dss.reconstruction.samplers.occupancy import Occupancy, OccupancySettings
from dss.reconstruction.samplers.shell import Shell, ShellSettings
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.volume_rendering import render_picture, render_rays, render_stopped
from dss.shell.dual_shell import DualShell
from tests.helpers import ball_model, pinhole

UNIFORM = UniformSettings(coarse=64, fine=64)
OCCUPANCY = OccupancySettings(step=0.01, grid=64)
SHELL = ShellSettings(coarse=64, fine=64, step=0.01)
WHITE = torch.ones(3)
BALLS = ((0.0, 0.0, 0.0, 0.4), (0.55, 0.1, 0.2, 0.15), (-0.3, -0.3, 0.5, 0.12))


def shell_sampler(model, balls, eps: float = 1e-3) -> Shell:
    """The shell of balls: themselves, with the band as margin."""
    sampler = Shell(SHELL)
    balls, margin = torch.tensor(balls), model.band(eps)
    sampler.shell = DualShell(
        balls[:, :3], (balls[:, 3] - margin).clamp(min=0), balls[:, 3] + margin
    )
    return sampler


def occupancy_sampler(model) -> Occupancy:
    sampler = Occupancy(OCCUPANCY)
    sampler.refresh(model)
    return sampler


@pytest.fixture(scope="module")
def converged():
    return ball_model(400.0, BALLS)


def test_samplers_agree_on_a_converged_field(converged):
    """Occupancy and shell show the same picture as plain NeuS, to 40 dB, from a fraction of the
    samples."""
    camera, config = pinhole(size=64), RenderSettings()
    plain = render_picture(converged, Uniform(UNIFORM), camera, WHITE, config)
    assert plain.samples == 128 and plain.background == 0
    for sampler in (occupancy_sampler(converged), shell_sampler(converged, BALLS)):
        for stop in (0.0, 1e-4):
            found = render_picture(
                converged, sampler, camera, WHITE, RenderSettings(min_transmittance=stop)
            )
            assert psnr(found.colour, plain.colour) > 40
            assert found.samples < 40 and found.background > 0.6
            both = (plain.opacity > 0.99) & (found.opacity > 0.99)
            assert both.mean() > 0.1 and (found.normal * plain.normal).sum(-1)[both].min() > 0.98
    assert found.samples < 5  # the shell: a few per ray, over all rays


def test_early_stop_changes_nothing_but_the_work(converged):
    sampler, (origins, directions) = (
        occupancy_sampler(converged),
        pinhole().rays(pinhole().centers()),
    )
    samples = sampler.sample(converged, origins, directions)
    everything = render_rays(converged, samples, origins, directions, WHITE)
    stopped = render_stopped(converged, samples, origins, directions, WHITE, 1e-4)
    assert (everything.colour - stopped.colour).abs().max() < 3e-4
    assert len(stopped.points) < 0.6 * len(everything.points)


@pytest.mark.parametrize("stop", [0.0, 1e-4])
@pytest.mark.parametrize("shade", [0.0, 1.0, 0.3])
def test_rays_without_samples_are_background_exactly(converged, stop, shade):
    sampler, background = shell_sampler(converged, BALLS), torch.full((3,), shade)
    away = pinhole((0.0, -3.0, 0.0))
    # looks the other way
    away = replace(away, pose=torch.cat([-away.pose[:, :3], away.pose[:, 3:]], 1))
    for each in (sampler, occupancy_sampler(converged)):
        picture = render_picture(
            converged, each, away, background, RenderSettings(min_transmittance=stop)
        )
        assert picture.samples == 0 and picture.background == 1
        assert (
            (picture.colour == round(255 * shade)).all()
            and not picture.opacity.any()
            and np.isfinite(picture.normal).all()
        )


def test_intervals_against_brute_force():
    """Union and cut by dense marking along rays, with random overlapping spheres."""
    generator = torch.Generator().manual_seed(3)
    centers = torch.rand(30, 3, generator=generator) - 0.5
    outer = 0.05 + 0.2 * torch.rand(30, generator=generator)
    inner = (outer - 0.1).clamp(min=0)
    sampler = Shell(SHELL)
    sampler.shell = DualShell(centers, inner, outer)
    targets = torch.rand(50, 3, generator=generator) - 0.5
    origins = torch.tensor([0.0, -2.0, 0.3]).expand(50, 3)
    directions = torch.nn.functional.normalize(targets - origins, dim=1)
    found = sampler.intervals(origins, directions)
    ray, start, end = found.ray, found.start, found.end
    t = torch.arange(0.0005, 4, 0.001)
    for number in range(50):
        distance = (
            (origins[number] + t[:, None] * directions[number] - centers[:, None]).norm(dim=2).T
        )
        solid = (distance < inner).any(1).float().cummax(0).values.bool()
        expected = (distance < outer).any(1) & ~solid
        found = ((t[:, None] > start[ray == number]) & (t[:, None] < end[ray == number])).sum(1)
        assert (
            found.max() <= 1
            and (found.bool() != expected).sum() <= 2 * int((ray == number).sum()) + 1
        )


def test_the_shell_loses_less_than_eps(converged):
    """What lies outside the intervals changes no opacity by more than the band's eps, and the 1e-5
    that NeuS gives each sample."""
    camera = pinhole(size=40)
    origins, directions = camera.rays(camera.centers())
    dense = Uniform(UniformSettings(coarse=512, fine=128)).sample(converged, origins, directions)
    truth = render_rays(converged, dense, origins, directions, WHITE).opacity - 640 * TINY
    for eps in (1e-1, 1e-2, 1e-3):
        sampler = shell_sampler(converged, BALLS, eps)
        sampler.settings = ShellSettings(step=2e-3)
        found = render_rays(
            converged, sampler.sample(converged, origins, directions), origins, directions, WHITE
        ).opacity
        assert (found - truth).abs().max() < eps + 640 * TINY + 1e-3


def test_occupancy_holds_whatever_can_be_opaque(converged):
    sampler = occupancy_sampler(converged)
    points = torch.rand(20_000, 3) * 1.2 - 0.6
    opaque = converged.opacity(converged.sdf(points), OCCUPANCY.step) > OCCUPANCY.threshold
    cell = ((points + 1) * 32).long()
    assert sampler.occupied[cell[:, 0], cell[:, 1], cell[:, 2]][opaque].all()
    assert sampler.occupied.float().mean() < 0.1


def test_occupancy_samples_are_disjoint_and_runs_are_intervals(converged):
    origins, directions = pinhole().rays(pinhole().centers())
    samples = occupancy_sampler(converged).sample(
        converged, origins, directions, torch.Generator().manual_seed(0)
    )
    same = samples.ray[1:] == samples.ray[:-1]
    gap = samples.start[1:] - samples.end[:-1]
    assert (gap[same] > -1e-6).all()
    assert torch.equal(samples.interval[1:] == samples.interval[:-1], same & (gap.abs() < 1e-4))


def test_uniform_is_published_neus(converged):
    origins, directions = pinhole().rays(pinhole().centers())
    samples = Uniform(UNIFORM).sample(converged, origins, directions)
    assert len(samples.ray) == 128 * len(origins) and not samples.interval.any()
    first = samples.start.view(-1, 128)[:, 0]
    torch.testing.assert_close(first, -(origins * directions).sum(1) - 1)


def test_nothing_in_nothing_out(converged):
    none = torch.zeros(0, 3)
    for sampler in (
        Uniform(UNIFORM),
        occupancy_sampler(converged),
        shell_sampler(converged, BALLS),
    ):
        samples = sampler.sample(converged, none, none)
        assert len(samples.ray) == 0
        for stop in (0.0, 1e-4):
            rendered = render_stopped(converged, samples, none, none, WHITE, stop)
            assert rendered.colour.shape == (0, 3)


@pytest.mark.parametrize("grid", [0, 32])
def test_before_its_first_shell_the_shell_sampler_is_another(converged, grid):
    """Plain, or with an occupancy grid, which it refreshes and forgets with the first shell."""
    origins, directions = pinhole().rays(pinhole().centers())
    settings = SHELL.model_copy(update={"grid": grid})
    shell, resumed = Shell(settings), Shell(settings)
    shell.prepare(converged, 0, torch.Generator())
    resumed.restore(shell.state_dict())
    other = Uniform(UNIFORM)
    if grid:
        other = Occupancy(OccupancySettings(step=settings.step, grid=grid))
        other.refresh(converged)
    first, second, third = (
        sampler.sample(converged, origins, directions) for sampler in (other, shell, resumed)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert bool(shell.state_dict()) == bool(grid)
    finished = shell_sampler(converged, BALLS).state_dict()
    resumed.restore(finished)
    assert resumed.state_dict().keys() == finished.keys()


def test_state_survives(converged):
    for sampler in (
        Uniform(UNIFORM),
        occupancy_sampler(converged),
        shell_sampler(converged, BALLS),
        Shell(SHELL),
    ):
        other = type(sampler)(sampler.settings)
        other.restore(sampler.state_dict())
        assert all(
            torch.equal(value, other.state_dict()[name])
            for name, value in sampler.state_dict().items()
        )


def test_margin_follows_the_live_sharpness():
    assert ball_model(1000.0).band(1e-3) == pytest.approx(math.log(1e3) / 1000, rel=1e-4)
    assert ball_model(50.0).band(1e-3) == pytest.approx(math.log(1e3) / 50, rel=1e-4)
