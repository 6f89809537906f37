import math

import pytest
import torch

from dss.reconstruction.models import build_model
from dss.reconstruction.models.base import UpsamplingSettings
from dss.reconstruction.models.neus import NeuSSettings
from dss.reconstruction.ray_samples import RaySamples, weights
from tests.helpers import SMALL, ball_model

HASH = NeuSSettings(
    encoding="hash", levels=4, log2_table=10, base_resolution=4, growth=1.6,
    layers=1, width=64, skip=0, feature=8, colour_layers=1,
)  # fmt: skip


def test_sizes_of_the_published_networks():
    model = build_model(NeuSSettings())
    count = {
        name: sum(
            p.numel()
            for key, p in getattr(model, name).named_parameters()
            if key.endswith("original1")
        )
        for name in ("distance", "colour")
    }
    assert count == {"distance": 524_544, "colour": 271_360}  # docs/method.md, section 11
    assert model.sharpness.item() == pytest.approx(math.exp(3), rel=1e-5)


@pytest.mark.parametrize("settings", [NeuSSettings(), HASH], ids=["frequency", "hash"])
def test_geometric_initialisation(settings):
    """About |x| - 0.5: random features of a finite width are off by a tenth or two, even in the
    published size."""
    torch.manual_seed(0)
    errors = []
    for _ in range(5):
        model = build_model(settings)
        points = torch.nn.functional.normalize(torch.randn(2000, 3), dim=1) * torch.rand(2000, 1)
        errors.append(model.sdf(points) - (points.norm(dim=1) - 0.5))
    assert torch.cat(errors).abs().mean() < 0.15
    assert all(
        model.sdf(torch.zeros(1, 3)) < 0 < model.sdf(torch.eye(3)).min()
        for model in [build_model(settings) for _ in range(5)]
    )


def test_opacity_of_a_plane_in_closed_form():
    """Along a ray into a plane, Phi(f at the end) / Phi(f at the start) of the light is left,
    however the ray is cut."""
    model = ball_model(64.0)
    model.distance.forward = lambda points: (
        points @ torch.tensor([0.6, 0.0, 0.8]),
        points.new_zeros(len(points), 1),
    )
    direction = torch.tensor([0.0, 0.6, -0.8])  # cosine -0.64
    for count in (2, 7, 50):
        edges = torch.linspace(0, 1, count + 1).double().pow(1.3).float()
        ray = torch.zeros(count, dtype=torch.int64)
        samples = RaySamples(ray, edges[:-1], edges[1:], ray)
        origin = torch.tensor([0.1, 0, 0.2])
        shaded = model.shade(
            origin + samples.middle[:, None] * direction, direction.expand(count, 3), samples.length
        )
        start, end = (float(origin @ torch.tensor([0.6, 0, 0.8])) - 0.64 * t for t in (0.0, 1.0))
        left = 1 - weights(shaded.alpha, samples.ray, 1).sum().item()
        assert left == pytest.approx(
            (1 + math.exp(-64 * start)) / (1 + math.exp(-64 * end)), abs=2e-4
        )
        torch.testing.assert_close(shaded.gradient, torch.tensor([[0.6, 0, 0.8]]).expand(count, 3))


def test_no_opacity_where_the_ray_leaves():
    model = ball_model(100.0)
    points = torch.tensor([[0.49, 0, 0], [0.52, 0, 0]])
    shaded = model.shade(points, torch.tensor([[1.0, 0, 0]]).expand(2, 3), torch.full((2,), 0.02))
    assert shaded.alpha.max() < 1e-3


def test_annealing_lets_all_angles_be_opaque_first():
    model, points, along = (
        ball_model(100.0),
        torch.tensor([[0.5, 0, 0]]),
        torch.tensor([[0.0, 1, 0]]),
    )
    model.anneal(0.0)
    first = model.shade(points, along, torch.tensor([0.02])).alpha
    model.anneal(1.0)
    assert first > 0.3 and model.shade(points, along, torch.tensor([0.02])).alpha < 1e-3


def test_opacity_bounds_the_shaded_one():
    model = ball_model(200.0)
    points = torch.rand(500, 3) - 0.5
    shaded = model.shade(
        points, torch.nn.functional.normalize(torch.randn(500, 3), dim=1), torch.full((500,), 0.02)
    )
    assert (shaded.alpha <= model.opacity(shaded.sdf, 0.02) + 1e-6).all()


def test_band():
    """Outside the band a ray loses less than eps; what passes through it is less than eps."""
    model, eps = ball_model(150.0), 1e-3
    margin = model.band(eps)
    assert margin == pytest.approx(math.log(1000) / 150, rel=1e-4)
    assert torch.sigmoid(torch.tensor(-margin) * 150) < eps


def test_refine_concentrates_at_the_surface():
    model, settings = ball_model(100.0), UpsamplingSettings(coarse=32, fine=32, rounds=4)
    origins, directions = (
        torch.tensor([[0.0, 0, -3], [0, 0.9, -3]]),
        torch.tensor([[0.0, 0, 1], [0, 0, 1]]),
    )
    t = torch.linspace(2, 4, 32).expand(2, 32)
    refined, interval = model.refine(
        origins, directions, t, torch.zeros_like(t, dtype=torch.int64), settings
    )
    assert refined.shape == interval.shape == (2, 64) and (refined.diff() >= 0).all()
    assert ((refined[0] - 2.5).abs() < 0.06).sum() >= 25


def test_refine_never_crosses_intervals():
    model, settings = ball_model(100.0), UpsamplingSettings(fine=16, rounds=2)
    t = torch.cat([torch.linspace(2.0, 2.2, 8), torch.linspace(2.6, 3, 8)])[None]
    interval = torch.tensor([[0] * 8 + [1] * 8])
    refined, interval = model.refine(
        torch.tensor([[0.0, 0, -3]]), torch.tensor([[0.0, 0, 1]]), t, interval, settings
    )
    assert not ((refined > 2.2) & (refined < 2.6)).any()
    assert torch.equal(interval, (refined > 2.4).long())


def test_refine_without_rays():
    t = torch.zeros(0, 8)
    refined, interval = ball_model(10.0).refine(
        torch.zeros(0, 3), torch.zeros(0, 3), t, t.long(), UpsamplingSettings()
    )
    assert len(refined) == len(interval) == 0


def test_gradients_reach_all_parameters():
    for settings in (SMALL, HASH):
        model = build_model(settings)
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
