import math

import pytest
import torch

from dss.reconstruction.models.unisurf import MEMORY, UNISURF, UNISURFSettings
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.training import smoothness, surface_points
from dss.reconstruction.volume_rendering import render_rays
from tests.helpers import NETWORK, Balls, Normals

SETTINGS = UniformSettings(coarse=48, fine=24, rounds=8)


class Steep(Balls):
    """A ball's distance, times 5 and bent: an occupancy logit."""

    def forward(self, points):
        sdf, feature = super().forward(points)
        return 5 * sdf + 3 * sdf**2, feature


def ball_model() -> UNISURF:
    model = UNISURF(UNISURFSettings(**NETWORK))
    model.distance, model.colour = Steep(torch.tensor([[0.0, 0, 0, 0.5]])), Normals()
    return model


def rays(count: int, heights: float = 0.45) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    height = torch.linspace(0, heights, count)
    origins = torch.stack([height, torch.zeros(count), torch.full((count,), -3.0)], 1)
    return height, origins, torch.tensor([[0.0, 0, 1]]).expand(count, 3)


def test_root_against_a_sphere():
    height, origins, directions = rays(200)
    t = torch.linspace(2, 4, 48).expand(200, 48)
    root = ball_model().root(origins, directions, t, 8)
    torch.testing.assert_close(root, 3 - (0.25 - height**2).sqrt(), atol=1e-5, rtol=0)


def test_no_root_where_a_ray_misses_or_begins_inside():
    _, origins, directions = rays(1)
    t = torch.linspace(2, 4, 48)[None]
    assert ball_model().root(origins + torch.tensor([0.7, 0, 0]), directions, t, 8).isinf().all()
    assert ball_model().root(origins, directions, t.clamp(min=3), 8).isinf().all()


def test_samples_surround_the_root():
    model, (height, origins, directions) = ball_model(), rays(20)
    model.anneal(1.0)
    t = torch.linspace(2, 4, 48).expand(20, 48)
    for generator in (None, torch.Generator().manual_seed(0)):
        found, interval = model.refine(
            origins, directions, t, torch.zeros_like(t, dtype=torch.int64), SETTINGS, generator
        )
        root = (3 - (0.25 - height**2).sqrt())[:, None]
        assert (
            found.shape == interval.shape == (20, 36)
            and (found.diff() > 0).all()
            and (interval == 0).all()
        )
        assert ((found - root).abs() <= 0.1 + 1e-5).sum(1).tolist() == [24] * 20
        assert (found < root - 0.1).sum(1).tolist() == [12] * 20 and found.min() >= 2


def test_samples_are_even_where_there_is_no_root():
    _, origins, directions = rays(1)
    t = torch.linspace(2, 4, 48)[None]
    found, _ = ball_model().refine(
        origins + torch.tensor([0.7, 0, 0]), directions, t, t.long(), SETTINGS
    )
    torch.testing.assert_close(found.diff(), torch.full((1, 35), 2 / 36), atol=1e-5, rtol=0)


def test_refine_without_rays():
    t = torch.zeros(0, 8)
    assert all(
        len(value) == 0
        for value in ball_model().refine(
            torch.zeros(0, 3), torch.zeros(0, 3), t, t.long(), SETTINGS
        )
    )


def test_the_interval_shrinks_as_published():
    model = UNISURF(UNISURFSettings())
    for step in (0, 50_000, 150_000, 200_000):
        model.anneal(step / 200_000)
        assert model.interval.item() == pytest.approx(
            max(2 * math.exp(-1.5e-5 * step), 0.1), rel=0.01
        )


def test_distance_to_first_order():
    """The mean slope at the surface makes a distance of the logit there, and tells the band."""
    model, steps = ball_model(), 400
    surface = torch.nn.functional.normalize(torch.randn(300, 3), dim=1) / 2
    for _ in range(steps):
        model.shade(surface, surface, torch.ones(300))
    assert model.slope.item() == pytest.approx(5, abs=4 * MEMORY**steps + 1e-3)
    assert model.sdf(surface * 1.02).mean().item() == pytest.approx(0.01, rel=0.04)
    outside, inside = (surface * (1 + sign * 2 * model.band(1e-3)) for sign in (1, -1))
    opacity = [model.shade(points, surface, torch.ones(300)).alpha for points in (outside, inside)]
    assert opacity[0].max() < 1.1e-3 and opacity[1].min() > 1 - 5e-3
    torch.testing.assert_close(
        model.opacity(model.sdf(outside), 0.1), opacity[0].detach(), atol=1e-6, rtol=1e-3
    )


def test_pictures_do_not_change_the_model():
    model = ball_model()
    with torch.no_grad():
        model.shade(torch.rand(50, 3), torch.rand(50, 3), torch.ones(50))
    assert model.slope == 1


def test_weights_are_those_of_occupancies():
    """A ray's opacity is one minus the product of what its samples let through."""
    model, (_, origins, directions) = ball_model(), rays(9, 0.8)
    samples = Uniform(SETTINGS).sample(model, origins, directions)
    rendered = render_rays(model, samples, origins, directions, torch.zeros(3))
    for ray in range(9):
        points = rendered.points[samples.ray == ray]
        left = torch.sigmoid(10 * model.distance(points)[0]).double().prod()
        assert rendered.opacity[ray].item() == pytest.approx(1 - left.item(), abs=1e-4)


def test_smoothness():
    """None on a plane; on a ball of radius 0.5, twice the mean distance of the neighbours along the
    surface."""
    model, (_, origins, directions) = ball_model(), rays(64, 0.3)

    def measure() -> float:
        samples = Uniform(SETTINGS).sample(model, origins, directions)
        rendered = render_rays(model, samples, origins, directions, torch.zeros(3))
        points = surface_points(rendered, samples, origins, directions)
        assert len(points) == 64
        return smoothness(model, points, torch.Generator().manual_seed(0)).item()

    noise = 0.01 * (torch.rand(100_000, 2) - 0.5)
    assert measure() == pytest.approx(2 * noise.norm(dim=1).mean().item(), rel=0.15)
    model.distance.forward = lambda points: (-points[:, 2], points.new_zeros(len(points), 1))
    assert measure() < 1e-5
    assert smoothness(model, torch.zeros(0, 3), torch.Generator()) == 0


def test_smoothness_is_taken_at_the_roots():
    """On the ball where rays enter it, but not where they leave it, and only of those that do."""
    model, (height, origins, directions) = ball_model(), rays(64, 0.8)
    samples = Uniform(SETTINGS).sample(model, origins, directions)
    rendered = render_rays(model, samples, origins, directions, torch.zeros(3))
    points = surface_points(rendered, samples, origins, directions)
    hit = height < 0.49
    assert hit.sum() <= len(points) <= (height < 0.5).sum()
    assert (points.norm(dim=1) - 0.5).abs().max() < 2e-3 and (points[:, 2] < 0).all()


def test_a_guide_narrows_the_search_and_not_the_samples():
    """As published: about the root, before it, and along the whole ray where there is none."""
    model, (_, origins, directions) = ball_model(), rays(1)
    model.anneal(1.0)
    t = torch.linspace(2.45, 2.55, 48)[None]  # the root is at 2.5
    found, _ = model.refine(origins, directions, t, t.long(), SETTINGS)
    assert found.min() < 2.1 and ((found - 2.5).abs() <= 0.1).sum() == 24 and found.max() > 2.59
    missed = model.refine(origins, directions, t - 0.3, t.long(), SETTINGS)[0]
    torch.testing.assert_close(missed.diff(), torch.full((1, 35), 2 / 36), atol=1e-5, rtol=0)


def test_gradients_reach_all_parameters():
    model = UNISURF(UNISURFSettings(**NETWORK))
    shaded = model.shade(
        torch.rand(64, 3) - 0.5,
        torch.nn.functional.normalize(torch.randn(64, 3), dim=1),
        torch.full((64,), 0.05),
    )
    (shaded.colour.sum() + shaded.alpha.sum() + shaded.gradient.square().sum()).backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in model.parameters()
    )
