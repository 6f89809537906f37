"""Warped patches of a textured plane: exact with its normal, worse with another, and an occluded
view counts for nothing."""

import math

import pytest
import torch
from torch import Tensor, nn

from dss.config import PhotoConfig, SceneSettings, TrainSettings
from dss.errors import InputError
from dss.reconstruction.models import build_model
from dss.reconstruction.models.base import Shaded, Step
from dss.reconstruction.models.neuralwarp import (
    Heaviest,
    NeuralWarp,
    NeuralWarpSettings,
    heaviest,
    source_views,
    ssim,
    visible,
    warp,
)
from dss.reconstruction.ray_samples import RaySamples
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.scene import load_scene
from dss.reconstruction.training import Training
from dss.reconstruction.views import Views
from dss.rendering.cameras import Camera, look_at
from tests.helpers import NETWORK, write_synthetic

EYES = [(0.0, 0.3, 2.5), (0.9, 0.0, 2.4), (-0.8, 0.5, 2.3), (0.2, -1.2, 2.2)]
SIZE, SIDE = 200, 5
WHITE = torch.ones(3)
SETTINGS = NeuralWarpSettings(**NETWORK, beta=0.01, warp_start=0, patch=SIDE, sources=3)


def texture(points: Tensor) -> Tensor:
    """Waves over the plane z = 0: (n, 4), opaque."""
    x, y = points[:, 0], points[:, 1]
    bands = [(9 * x + 2).sin(), (7 * y - 5 * x).sin(), (11 * y).cos()]
    colour = 0.5 + 0.4 * torch.stack(bands, 1)
    return torch.cat([colour, torch.ones_like(colour[:, :1])], 1)


@pytest.fixture(scope="module")
def views() -> Views:
    """Four photos of the plane."""
    cameras, images = [], []
    for eye in EYES:
        pose = look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
        camera = Camera.from_fov(pose, 35.0, SIZE, SIZE)
        origins, directions = camera.rays()
        points = origins - origins[:, 2:] / directions[:, 2:] * directions
        cameras.append(camera)
        images.append(texture(points).view(SIZE, SIZE, 4))
    return Views.of(cameras, torch.stack(images))


def rays(views: Views, count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Photo, places and points on the plane of some rays of the first photo."""
    generator = torch.Generator().manual_seed(0)
    places = 0.35 * SIZE + 0.3 * SIZE * torch.rand(count, 2, generator=generator)
    photo = torch.zeros(count, dtype=torch.int64)
    origins, directions = views.cameras.rays(photo, places)
    return photo, places, origins - origins[:, 2:] / directions[:, 2:] * directions


def found(points: Tensor, normal: tuple[float, float, float]) -> Heaviest:
    """One sample per ray, with all of the weight."""
    count, unit = len(points), nn.functional.normalize(torch.tensor(normal).float(), dim=0)
    ray, weight = torch.arange(count), torch.ones(count, 1)
    return Heaviest(ray, weight, points[:, None], unit.expand(count, 1, 3))


def loss(views: Views, seen: Heaviest, photo: Tensor, places: Tensor) -> Tensor:
    """(r, s) from all other photos."""
    sources = torch.tensor([[1, 2, 3]]).expand(len(photo), 3)
    patches = warp(views, photo, places, SIDE, seen, sources, WHITE)
    assert patches.valid.all()
    return (1 - ssim(patches.reference[:, None], patches.warped)) / 2


def test_the_warp_of_a_plane_is_exact(views):
    photo, places, points = rays(views)
    sources = torch.tensor([[1, 2, 3]]).expand(len(photo), 3)
    patches = warp(views, photo, places, SIDE, found(points, (0, 0, 1)), sources, WHITE)
    assert patches.valid.all()
    gap = (patches.warped - patches.reference[:, None]).abs()
    assert gap.max() < 5e-3  # what bilinear interpolation leaves
    assert loss(views, found(points, (0, 0, 1)), photo, places).max() < 5e-3


def test_a_wrong_normal_or_depth_costs(views):
    photo, places, points = rays(views)
    right = loss(views, found(points, (0, 0, 1)), photo, places).mean()
    tilted = loss(views, found(points, (0.8, 0, 1)), photo, places).mean()
    more = loss(views, found(points, (1.6, 0, 1)), photo, places).mean()
    assert more > tilted > 3 * right
    origins = views.cameras.eyes[photo]
    nearer = origins + 0.96 * (points - origins)
    assert loss(views, found(nearer, (0, 0, 1)), photo, places).mean() > 20 * right


def test_gradients_turn_the_normal_right(views):
    photo, places, points = rays(views)
    tilt = torch.tensor([0.3, 0.0], requires_grad=True)
    normal = nn.functional.normalize(torch.cat([tilt, torch.ones(1)]), dim=0)
    seen = found(points, (0, 0, 1))._replace(normals=normal.expand(len(points), 1, 3))
    loss(views, seen, photo, places).mean().backward()
    assert tilt.grad[0] > 0  # downhill is back to the plane's normal


def test_the_warp_is_the_plane_s_homography(views):
    """K_s (R - t n^T / d) K_r^-1 in the reference camera's frame (Hartley & Zisserman, 13.1)."""
    photo, places, points = rays(views, 1)
    normal = nn.functional.normalize(torch.tensor([0.2, -0.3, 1.0]), dim=0)
    cameras = []
    for eye in EYES[:2]:
        pose = look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
        cameras.append(Camera.from_fov(pose, 35.0, SIZE, SIZE))
    (first, second), homogeneous = cameras, torch.tensor([*places[0].double() + 1, 1.0])
    turn = second.pose[:, :3].T @ first.pose[:, :3]
    shift = second.pose[:, :3].T @ (first.pose[:, 3] - second.pose[:, 3])
    local = first.pose[:, :3].T @ normal.double()
    distance = local @ (first.pose[:, :3].T @ (points[0].double() - first.pose[:, 3]))
    matrix = second.intrinsics @ (turn + torch.outer(shift, local) / distance)
    expected = matrix @ (first.intrinsics.inverse() @ homogeneous)
    expected = expected[:2] / expected[2]
    marked = views._replace(images=places_as_colours())
    seen = found(points, tuple(normal.tolist()))
    patches = warp(marked, photo, places, 3, seen, torch.tensor([[1]]), WHITE)
    last = patches.warped[0, 0, -1, :2]  # the pixel beside and below the middle
    torch.testing.assert_close(last * SIZE, expected.float(), atol=1e-2, rtol=0)


def places_as_colours() -> Tensor:
    """Photos whose colours are their own pixel coordinates, as shares of the size."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, 0 * x, 0 * x + 1], -1).expand(4, SIZE, SIZE, 4)


def test_patches_that_leave_a_photo_or_see_the_back_do_not_count(views):
    photo, places, points = rays(views)
    sources = torch.tensor([[1, 2, 3]]).expand(len(photo), 3)
    behind = warp(views, photo, places, SIDE, found(points, (0, 0, -1)), sources, WHITE)
    assert not behind.valid.any()
    edge = torch.full_like(places, 1.0)
    assert not warp(views, photo, edge, SIDE, found(points, (0, 0, 1)), sources, WHITE).valid.any()
    far = found(points + torch.tensor([40.0, 0, 0]), (0, 0, 1))
    assert not warp(views, photo, places, SIDE, far, sources, WHITE).valid.any()


class Known(nn.Module):
    """The plane z = 0, solid below, and balls (k, 4), in the place of a distance network."""

    def __init__(self, *balls: tuple[float, float, float, float]):
        super().__init__()
        self.balls = torch.tensor(balls).view(-1, 4)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        to_balls = (points[:, None] - self.balls[:, :3]).norm(dim=2) - self.balls[:, 3]
        sdf = torch.cat([points[:, 2:], to_balls], 1).amin(1)
        return sdf, points.new_zeros(len(points), 8)


def test_an_occluded_view_counts_for_nothing(views):
    """A ball on the way to one source, near the plane's middle; the others see all."""
    points = torch.tensor([[0.0, 0, 0], [0.05, 0.05, 0]])
    seen, sources = found(points, (0, 0, 1)), torch.tensor([[1, 2, 3]]).expand(2, 3)
    toward = nn.functional.normalize(views.cameras.eyes[2], dim=0)
    for count in (48, 200):
        sampler = Uniform(UniformSettings(coarse=count, fine=32, rounds=5))
        model = NeuralWarp(SETTINGS)
        model.distance = Known()
        assert visible(model, sampler, seen, views, sources).all()
        model.distance = Known((*(0.6 * toward).tolist(), 0.2))
        expected = torch.tensor([[True, False, True]]).expand(2, 3)
        assert torch.equal(visible(model, sampler, seen, views, sources), expected)


def test_what_is_behind_the_source_does_not_hide_it(views):
    points, sources = torch.zeros(1, 3), torch.tensor([[1]])
    near = views._replace(cameras=views.cameras._replace(eyes=views.cameras.eyes * 0.2))
    model, sampler = NeuralWarp(SETTINGS), Uniform(UniformSettings(coarse=100, fine=32, rounds=5))
    beyond = nn.functional.normalize(views.cameras.eyes[1], dim=0)
    model.distance = Known((*(0.8 * beyond).tolist(), 0.15))
    assert visible(model, sampler, found(points, (0, 0, 1)), near, sources).all()
    assert not visible(model, sampler, found(points, (0, 0, 1)), views, sources).any()


def test_sources_are_the_nearest_in_angle():
    angle = torch.tensor([0.0, 1, 20, 90, 40, 10]) * (math.pi / 180)
    eyes = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1) * 3
    assert source_views(eyes, 3)[0].tolist() == [5, 2, 4]  # 10, 20, 40; one degree is no baseline
    assert source_views(eyes, 9)[0].tolist()[:3] == [5, 2, 4]
    assert source_views(eyes, 9).shape == (6, 5) and source_views(eyes[:1], 3).shape == (1, 0)


def test_the_heaviest_samples():
    alpha = torch.tensor([0.1, 0.8, 0.5, 0.1, 0.9])
    gradient = torch.tensor([[0.0, 0, 2]]).expand(5, 3)
    shaded = Shaded(alpha, torch.zeros(5, 3), gradient, torch.zeros(5))
    ray, t = torch.tensor([0, 0, 0, 1, 3]), torch.zeros(5)
    points = torch.arange(15.0).view(5, 3)
    step = Step(
        0, None, torch.zeros(4), None, RaySamples(ray, t, t, ray), points, shaded, None, WHITE
    )
    seen = heaviest(step, 2)
    assert seen.ray.tolist() == [0, 3]  # the others are not opaque enough
    first = dict(zip(seen.points[0, :, 0].tolist(), seen.weight[0].tolist(), strict=True))
    assert first == {0.0: pytest.approx(0.1 / 0.82), 3.0: pytest.approx(0.72 / 0.82)}
    torch.testing.assert_close(seen.weight.sum(1), torch.ones(2))
    assert seen.points[1, seen.weight[1].argmax()].tolist() == points[4].tolist()
    torch.testing.assert_close(seen.normals.norm(dim=2), torch.ones(2, 2))


def test_ssim_of_whole_patches():
    """By the formula of Wang et al. (2004) with one window."""
    first, second = torch.rand(2, 25, 1, generator=torch.Generator().manual_seed(0)).double()
    (a, b), c1, c2 = (first[:, 0].numpy(), second[:, 0].numpy()), 1e-4, 9e-4
    both = ((a - a.mean()) * (b - b.mean())).mean()
    expected = (2 * a.mean() * b.mean() + c1) * (2 * both + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2)
    assert ssim(first, second).item() == pytest.approx(expected, rel=1e-6)
    assert ssim(first, first).item() == pytest.approx(1)


def test_the_second_stage_begins_on_time(tmp_path):
    scene = SceneSettings(path=str(write_synthetic(tmp_path, 24)), bounds="1 -2 0.5 0.5")
    train = TrainSettings(steps=4, rays=48, warm_up_steps=0, checkpoint=4, mask_weight=0.1)
    model = NeuralWarpSettings(**NETWORK, warp_start=2, patch=3, sources=2, warp_samples=3)
    sampler = UniformSettings(coarse=12, fine=12, rounds=2)
    config = PhotoConfig(scene=scene, model=model, sampler=sampler, train=train)
    training = Training(config, load_scene(scene, "train"), torch.device("cpu"))
    scalars = [training.run_step() for _ in range(4)]
    assert ["warp" in each for each in scalars] == [False, False, True, True]
    assert all(math.isfinite(float(each["warp"])) for each in scalars[2:])
    assert all(p.isfinite().all() for p in training.model.parameters())


def test_an_even_patch_is_refused():
    with pytest.raises(InputError, match="model.patch=4: a patch has a pixel in its middle"):
        build_model(NeuralWarpSettings(**NETWORK, patch=4))
