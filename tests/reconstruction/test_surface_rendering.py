"""Pictures by the surface alone, of a ball in closed form."""

import numpy as np
import pytest
import torch

from dss.config import RenderSettings
from dss.evaluation.images import psnr
from dss.geometry.similarity import Similarity
from dss.reconstruction.models.base import counted
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.surface_rendering import field_tracer, model_tracer, render_surface
from dss.reconstruction.volume_rendering import render_picture
from dss.shell.dual_shell import DualShell
from tests.helpers import Analytic, ball_model, pinhole, sphere

WHITE = torch.ones(3)


def shell() -> DualShell:
    return DualShell(torch.zeros(1, 3), torch.tensor([0.45]), torch.tensor([0.55]))


def test_the_surface_is_where_volume_rendering_sees_it():
    """The same picture but for the silhouette, by a tenth of the queries."""
    model, camera = ball_model(2000.0), pinhole(size=64)
    sampler = Uniform(UniformSettings(coarse=64, fine=64))
    volume = render_picture(model, sampler, camera, WHITE, RenderSettings())
    surface = render_surface(model, model_tracer(model, shell()), camera, WHITE, 1000)
    assert psnr(surface.colour, volume.colour) > 28
    inside = (volume.opacity > 0.999) & (surface.opacity == 1)
    assert inside.sum() > 100
    gap = np.abs(surface.colour[inside].astype(int) - volume.colour[inside])
    assert np.median(gap) <= 1
    assert (surface.normal * volume.normal).sum(-1)[inside].min() > 0.99
    assert surface.queries < volume.queries / 10
    assert surface.samples == (surface.opacity == 1).mean() == 1 - surface.background


@pytest.mark.parametrize("inside", [shell(), None])
def test_hits_in_closed_form(inside):
    origins = torch.tensor([[0.0, 0.0, -0.95], [0.3, 0.0, -0.95], [0.6, 0.0, -0.95]])
    directions = torch.tensor([[0.0, 0, 1]]).expand(3, 3).contiguous()
    traced = model_tracer(ball_model(400.0), inside)(origins, directions)
    expected = torch.tensor([0.45, 0.95 - 0.4, torch.inf])
    torch.testing.assert_close(traced.t, expected, atol=1e-5, rtol=0)


def test_a_field_in_another_frame_stands_for_the_surface():
    """A ball of radius 0.9 in its own frame, which is 0.5 in the model's, moved a little."""
    similarity = Similarity((0.1, 0.0, 0.0), 0.5 / 0.9)
    field = Analytic(sphere(0.9))
    tracer = field_tracer(field, similarity)
    model = ball_model(400.0, ((0.1, 0.0, 0.0, 0.5),))
    camera = pinhole(size=40)
    own = render_surface(model, model_tracer(model, None), camera, WHITE, 4096)
    other = render_surface(model, tracer, camera, WHITE, 4096)
    assert psnr(own.colour, other.colour) > 45
    assert field.asked > 0 and other.queries > 0
    with counted(model) as asked:
        render_surface(model, tracer, camera, WHITE, 4096)
    assert asked.points == other.opacity.sum()  # one query of the model for each hit


def test_rays_that_miss_show_the_background():
    model = ball_model(400.0, ((5.0, 0, 0, 0.1),))
    colour = torch.tensor([0.2, 0.4, 0.6])
    seen = render_surface(model, model_tracer(model, None), pinhole(size=8), colour, 30)
    assert (seen.colour == [51, 102, 153]).all() and seen.samples == 0 and seen.background == 1


def test_queries_are_counted_only_inside():
    model = ball_model(400.0)
    with counted(model) as asked:
        model.sdf(torch.zeros(7, 3))
    model.sdf(torch.zeros(5, 3))
    assert asked.points == 7
