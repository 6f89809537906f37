"""The background of scenes without masks, in closed form."""

import pytest
import torch
import trimesh
from torch import nn

from dss.config import PhotoConfig, RenderSettings, SceneSettings, TrainSettings
from dss.reconstruction.background import WALL, InvertedSphere, SolidBall, build_backdrop
from dss.reconstruction.made_scene import make_scene
from dss.reconstruction.models import build_model
from dss.reconstruction.models.neus import NeuSSettings
from dss.reconstruction.samplers.shell import Shell, ShellSettings
from dss.reconstruction.samplers.uniform import UniformSettings
from dss.reconstruction.scene import load_scene
from dss.reconstruction.training import Training
from dss.reconstruction.volume_rendering import render_picture
from dss.shell.dual_shell import DualShell
from tests.helpers import NETWORK, ball_model, pinhole, write_synthetic

TINY = NETWORK | {"background_samples": 8, "background_layers": 6, "background_width": 16}
NERF = NeuSSettings(**TINY, background="nerf++")
BALL = NeuSSettings(**TINY, background="ball")


def rays(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """From around the ball, in all directions: many miss it."""
    generator = torch.Generator().manual_seed(0)
    origins, directions = torch.randn(2, count, 3, generator=generator)
    origins = 2.5 * nn.functional.normalize(origins, dim=1)
    return origins, nn.functional.normalize(directions, dim=1)


class Known(InvertedSphere):
    """Any density and a colour that is known; remembers what it was asked."""

    def __init__(self, density: float, colour: str):
        super().__init__(NERF)
        self.constant, self.kind = density, colour

    def radiance(self, places, directions):
        self.places = places.view(-1, self.samples, 4)
        colour = directions if self.kind == "direction" else places[:, :3]
        return torch.full((len(places),), self.constant), colour / 2 + 0.5


@pytest.mark.parametrize("density", [0.0, 1.0, 1e4])
def test_all_of_the_light_ends_behind(density):
    """A colour that depends on the direction alone is seen as it is, whatever the density."""
    origins, directions = rays()
    for generator in (None, torch.Generator().manual_seed(1)):
        seen = Known(density, "direction")(None, origins, directions, generator)
        torch.testing.assert_close(seen, directions / 2 + 0.5, atol=1e-5, rtol=0)


def test_places_are_on_the_ray_beyond_the_ball_in_order():
    origins, directions = rays()
    known = Known(1.0, "direction")
    known(None, origins, directions, torch.Generator().manual_seed(1))
    unit, inverse = known.places[..., :3], known.places[..., 3]
    assert (inverse > 0).all() and (inverse < 1).all() and (inverse.diff(dim=1) < 0).all()
    points = unit / inverse[..., None]
    torch.testing.assert_close(points.norm(dim=2), 1 / inverse, rtol=1e-3, atol=1e-3)
    way = points - origins[:, None]
    apart = torch.linalg.cross(way, directions[:, None].expand_as(way)).norm(dim=2)
    assert (apart < 1e-3 * points.norm(dim=2)).all()
    assert ((way * directions[:, None]).sum(2).diff(dim=1) > 0).all()


def test_an_opaque_outside_is_seen_where_it_begins():
    """At the unit sphere, where rays leave it: the first cell's middle."""
    origins = torch.tensor([[0.0, 0, -3]])
    directions = torch.tensor([[0.0, 0, 1]])
    known = Known(1e6, "place")
    torch.testing.assert_close(known(None, origins, directions), torch.tensor([[0.5, 0.5, 1.0]]))
    assert known.places[0, 0, 3].item() == pytest.approx(1 - 1 / 16)


def test_the_wall_has_the_model_s_colour_there():
    """The normals of a ball's distance are seen on the wall, where the rays leave it."""
    origins, directions = rays()
    model = ball_model(400.0, ((0.0, 0.0, 0.0, 0.5),))
    seen = SolidBall(BALL)(model, origins, directions)
    middle = -(origins * directions).sum(1)
    across = (origins + middle[:, None] * directions).square().sum(1)
    wall = origins + (middle + (WALL**2 - across).sqrt())[:, None] * directions
    torch.testing.assert_close(seen, (wall / WALL + 1) / 2, atol=2e-3, rtol=0)


def test_rays_without_samples_show_the_background():
    """Which the published code leaves black."""
    torch.manual_seed(0)
    model = build_model(NERF)
    sampler = Shell(ShellSettings(step=0.1))
    sampler.shell = DualShell(torch.full((1, 3), 50.0), torch.zeros(1), torch.ones(1))
    camera = pinhole(size=8)
    seen = render_picture(model, sampler, camera, torch.zeros(3), RenderSettings(chunk=20))
    expected = model.behind(*camera.rays(), torch.zeros(3)).detach().view(8, 8, 3)
    assert seen.background == 1 and abs(seen.colour / 255 - expected.numpy()).max() < 0.003


def test_models_without_a_background_are_as_they_were():
    assert build_backdrop(NeuSSettings()) is None
    torch.manual_seed(0)
    plain = build_model(NeuSSettings(**NETWORK)).state_dict()
    torch.manual_seed(0)
    more = build_model(NERF).state_dict()
    assert all(torch.equal(value, more[name]) for name, value in plain.items())
    assert {name.split(".")[0] for name in more.keys() - plain.keys()} == {"backdrop"}
    origins, directions = rays(3)
    colour = torch.rand(3)
    assert build_model(NeuSSettings(**NETWORK)).behind(origins, directions, colour) is colour


@pytest.mark.parametrize("model", [NERF, BALL])
def test_every_parameter_learns_even_where_all_rays_miss(model, tmp_path):
    scene = SceneSettings(path=str(write_synthetic(tmp_path, 16)), bounds="1 -2 0.5 0.5")
    train = TrainSettings(steps=2, rays=32, pixels="scene", warm_up_steps=0, checkpoint=2)
    sampler = UniformSettings(coarse=8, fine=8, rounds=2)
    config = PhotoConfig(scene=scene, model=model, sampler=sampler, train=train)
    training = Training(config, load_scene(scene, "train"), torch.device("cpu"))
    training.run_step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in training.model.parameters())
    training.sampler = Shell(ShellSettings(step=0.1))
    training.sampler.shell = DualShell(torch.full((1, 3), 50.0), torch.zeros(1), torch.ones(1))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    training.run_step()
    changed = [
        name for name, now in training.model.named_parameters() if (now != before[name]).any()
    ]
    assert any(name.startswith("backdrop") for name in changed) == (model is NERF)
    assert changed


def test_a_room_is_learnt_without_masks(tmp_path):
    """A made scene: the mask term is left out, and object and walls are learnt by colours alone."""
    trimesh.creation.icosphere(subdivisions=2).export(tmp_path / "ball.ply")
    look = {"texture": "none", "background": "room"}
    make_scene(str(tmp_path / "ball.ply"), tmp_path / "made", views=4, size=16, **look)
    scene = SceneSettings(path=str(tmp_path / "made/synthetic"))
    train = TrainSettings(
        steps=60, rays=64, pixels="scene", lr=1e-2, warm_up_steps=0, checkpoint=60, mask_weight=0.1
    )
    sampler = UniformSettings(coarse=8, fine=8, rounds=2)
    config = PhotoConfig(scene=scene, model=NERF, sampler=sampler, train=train)
    training = Training(config, load_scene(scene, "train"), torch.device("cpu"))
    rows = [training.run_step() for _ in range(60)]
    assert not any("mask" in row for row in rows)
    colour = torch.stack([row["colour"] for row in rows])
    assert colour[-10:].mean() < 0.6 * colour[:5].mean()
