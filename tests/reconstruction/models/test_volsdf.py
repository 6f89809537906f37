import math

import pytest
import torch

from dss.reconstruction.models import build_model
from dss.reconstruction.models.base import UpsamplingSettings
from dss.reconstruction.models.volsdf import (
    ERROR,
    MIN_BETA,
    VolSDF,
    VolSDFSettings,
    density,
    error_bound,
    smallest_beta,
)
from dss.reconstruction.ray_samples import weights
from tests.helpers import NETWORK, Balls, Normals


def ball_model(beta: float) -> VolSDF:
    """A converged VolSDF of a ball of radius 0.5."""
    model = VolSDF(VolSDFSettings(**NETWORK))
    model.distance, model.colour = Balls(torch.tensor([[0.0, 0, 0, 0.5]])), Normals()
    torch.nn.init.constant_(model.beta, beta - MIN_BETA)
    return model


def test_built_by_name():
    torch.manual_seed(0)
    model = build_model(VolSDFSettings(initial_radius=0.6))
    assert isinstance(model, VolSDF) and model.width.item() == pytest.approx(0.1001)
    points = torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    assert model.sdf(0.6 * points).mean().abs() < 0.2 and model.sdf(torch.zeros(1, 3)) < -0.3


def test_density_is_the_distribution_function():
    laplace = torch.distributions.Laplace(0.0, 0.05)
    sdf = torch.linspace(-1, 1, 201)
    torch.testing.assert_close(density(sdf, torch.tensor(0.05)), laplace.cdf(-sdf) / 0.05)


@pytest.mark.parametrize("cosine", [1.0, 0.64])
def test_weights_of_a_plane_in_closed_form(cosine):
    """The optical depth of a ray into a plane is the integral of the density over the cosine.

    That is exp(-f/b) / 2 outside, then |f|/b + exp(f/b) / 2. A sample's weight is the difference of
    the light left at its ends.
    """
    beta, count = 0.05, 1000
    model = ball_model(beta)
    # solid where z > 0
    model.distance.forward = lambda points: (-points[:, 2], points.new_zeros(len(points), 1))
    direction = torch.tensor([math.sqrt(1 - cosine**2), 0.0, cosine])
    edges = torch.linspace(-0.4, 0.4, count + 1)
    points = ((edges[1:] + edges[:-1]) / 2)[:, None] * direction
    shaded = model.shade(points, direction.expand(count, 3), edges.diff())
    found = weights(shaded.alpha, torch.zeros(count, dtype=torch.int64), 1)

    f = -edges.double() * cosine
    depth = (
        torch.where(f > 0, (-f / beta).exp() / 2, 0.5 - f / beta - (1 - (f / beta).exp()) / 2)
        / cosine
    )
    left = (depth[0] - depth).exp()
    torch.testing.assert_close(found.double().cumsum(0), (1 - left)[1:], atol=3e-4, rtol=0)
    torch.testing.assert_close(shaded.gradient, torch.tensor([[0.0, 0, -1]]).expand(count, 3))


def test_band():
    """Outside the band a ray loses less than eps; what passes through it is less than eps."""
    beta, eps = 0.02, 1e-3
    margin = ball_model(beta).band(eps)
    depth = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    light = density(depth, torch.tensor(beta).double()) * 1e-5
    assert margin == pytest.approx(beta * math.log(1000), rel=1e-4)
    assert (
        light[depth > margin].sum() < eps
        and math.exp(-light[depth.abs() < margin].sum()) < 1.1 * eps
    )


def test_opacity_bounds_the_shaded_one():
    model, points = ball_model(0.03), torch.rand(500, 3) - 0.5
    shaded = model.shade(
        points, torch.nn.functional.normalize(torch.randn(500, 3), dim=1), torch.full((500,), 0.02)
    )
    torch.testing.assert_close(shaded.alpha, model.opacity(shaded.sdf, 0.02))


def test_the_error_is_bounded():
    """Against the true opacity by fine quadrature, for coarse samples of rays through a ball."""
    beta, radius = torch.tensor(0.05), 0.5
    for height in (0.0, 0.3, 0.49, 0.6):
        for count in (8, 16, 33):
            t, fine = torch.linspace(-1, 1, count).double(), torch.linspace(-1, 1, 100_001).double()
            sdf, exact = ((x.square() + height**2).sqrt() - radius for x in (t, fine))
            gap = t.diff()
            depth = torch.nn.functional.pad((density(sdf[:-1], beta) * gap).cumsum(0), (1, 0))
            true = torch.nn.functional.pad((density(exact[:-1], beta) * 2e-5).cumsum(0), (1, 0))
            place = (fine[1:] + 1) / 2 * (count - 1)
            gap_of = place.long().clamp(max=count - 2)
            ours = depth[gap_of] + density(sdf[gap_of], beta) * (fine[1:] - t[gap_of])
            wrong = ((-ours).exp() - (-true[1:]).exp()).abs().max()
            assert wrong <= error_bound(gap[None], sdf[None], beta).max() + 1e-3


def test_smallest_beta_bounds_the_error_and_not_more():
    t = torch.linspace(-1, 1, 24)
    sdf = torch.stack([(t.square() + height**2).sqrt() - 0.5 for height in (0.0, 0.4, 0.6, 2.0)])
    gap, beta = t.diff().expand(4, -1), torch.tensor(0.01)
    found = smallest_beta(gap, sdf, beta)
    assert (error_bound(gap, sdf, found).amax(1) <= ERROR + 1e-6).all() and (found >= beta).all()
    assert found[3] == beta and found[0] > 2 * beta
    assert (error_bound(gap, sdf, 0.95 * found).amax(1)[:2] > ERROR).all()


def test_refine_concentrates_at_the_surface():
    model, settings = ball_model(0.01), UpsamplingSettings(coarse=32, fine=40, rounds=5)
    origins, directions = (
        torch.tensor([[0.0, 0, -3], [0, 0.9, -3]]),
        torch.tensor([[0.0, 0, 1], [0, 0, 1]]),
    )
    t = torch.linspace(2, 4, 32).expand(2, 32)
    for generator in (None, torch.Generator().manual_seed(0)):
        refined, interval = model.refine(
            origins, directions, t, torch.zeros_like(t, dtype=torch.int64), settings, generator
        )
        assert refined.shape == interval.shape == (2, 40) and (refined.diff() >= 0).all()
        assert ((refined[0] - 2.5).abs() < 0.05).sum() >= 30
        # nothing there: evenly
        torch.testing.assert_close(refined[1].diff(), torch.full((39,), 2 / 40), atol=2e-3, rtol=0)


def test_refine_never_crosses_intervals():
    model, settings = ball_model(0.02), UpsamplingSettings(coarse=16, fine=30, rounds=3)
    t = torch.cat([torch.linspace(2.0, 2.2, 8), torch.linspace(2.6, 3, 8)])[None]
    interval = torch.tensor([[0] * 8 + [1] * 8])
    refined, interval = model.refine(
        torch.tensor([[0.0, 0, -3]]), torch.tensor([[0.0, 0, 1]]), t, interval, settings
    )
    assert not ((refined > 2.201) & (refined < 2.599)).any() and torch.equal(
        interval, (refined > 2.4).long()
    )


def test_refine_without_rays():
    t = torch.zeros(0, 8)
    refined, interval = ball_model(0.1).refine(
        torch.zeros(0, 3), torch.zeros(0, 3), t, t.long(), UpsamplingSettings()
    )
    assert len(refined) == len(interval) == 0


def test_gradients_reach_all_parameters():
    model = VolSDF(VolSDFSettings(**NETWORK))
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
