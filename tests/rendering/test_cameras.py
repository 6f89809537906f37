import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dss.geometry.similarity import Similarity
from dss.rendering.cameras import (
    FOV,
    PAPER_EYE,
    Camera,
    Cameras,
    centred_cameras,
    fibonacci,
    look_at,
    paper_cameras,
    turntable,
)


def test_rays_are_unit_and_pixel_centred():
    camera = Camera.from_fov(look_at([0, 0, 2], [0, 0, 0], [0, 1, 0]), 90.0, 4, 2)
    origins, directions = camera.rays()
    assert (
        origins.dtype == directions.dtype == torch.float32
        and origins.shape == directions.shape == (8, 3)
    )
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(8))
    # at 90 degrees the image plane at distance 1 spans x in [-1, 1]; square pixels of side 0.5; the
    # first is top left
    plane = directions / -directions[:, 2:]
    torch.testing.assert_close(plane[0], torch.tensor([-0.75, 0.25, -1.0]))
    torch.testing.assert_close(plane[-1], torch.tensor([0.75, -0.25, -1.0]))


def test_downscaled_camera_sees_the_same_view():
    fine, coarse = turntable(3, 16)[1], turntable(3, 8)[1]
    torch.testing.assert_close(fine.downscaled(2).rays(), coarse.rays())


@pytest.mark.parametrize("up", [[0, 0, 1], [0, 1, 0], [1, 2, 3]])
def test_look_at(up):
    eye = torch.tensor([1.0, -2.0, 0.5])
    pose = look_at(eye, torch.tensor([0.2, 0.1, 0.0]), torch.tensor(up).float())
    rotation = pose[:, :3]
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3).double())
    assert torch.linalg.det(rotation) > 0
    assert pose[:, 1] @ torch.tensor(up).double() < 0
    view = torch.tensor([-0.8, 2.1, -0.5]).double()
    torch.testing.assert_close(pose[:, 2], view / view.norm(), atol=1e-6, rtol=0)


def test_look_at_along_up_is_defined():
    assert look_at([0, 0, 3], [0, 0, 0], [0, 0, 1]).isfinite().all()


@pytest.mark.parametrize("orbit", [turntable, fibonacci])
@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_orbits_keep_the_unit_ball_in_view(orbit, up):
    cameras = orbit(7, 64, up=up)
    assert len(cameras) == 7
    for camera in cameras:
        origins, directions = camera.rays()
        # Of each ray to the origin
        nearest = torch.linalg.cross(origins, directions).norm(dim=1).reshape(64, 64)
        border = torch.cat([nearest[0], nearest[-1], nearest[:, 0], nearest[:, -1]])
        assert border.min() > 0.9 and nearest.min() < 0.1


def test_turntable_turns_about_up():
    heights = torch.stack([camera.pose[:, 3] for camera in turntable(5, 4, up="y")])[:, 1]
    torch.testing.assert_close(heights, heights[:1].expand(5))


def test_fibonacci_is_even():
    eyes = torch.stack([camera.pose[:, 3] for camera in fibonacci(200, 4)])
    eyes = torch.nn.functional.normalize(eyes, dim=1)
    gaps = (torch.cdist(eyes, eyes) + 4 * torch.eye(200)).amin(1)
    assert gaps.min() > 0.7 * math.sqrt(4 * math.pi / 200) and eyes.mean(0).norm() < 0.01


def reference_paper_rays(size, angle):
    """The reference code's look_at and model matrix, written out again (docs/method.md, section
    7)."""
    origin = np.array([-2.8, 2.8, -2.8])
    view = -origin / np.linalg.norm(origin)
    right = np.cross(view, [0, 1, 0])
    right /= np.linalg.norm(right)
    up = np.cross(right, view)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(1, -1, size))
    tangent = math.tan(math.radians(15))
    direction = right * x[..., None] * tangent + up * y[..., None] * tangent + view
    direction = (direction / np.linalg.norm(direction, axis=-1, keepdims=True)).reshape(-1, 3)
    turn, tilt = (
        Rotation.from_rotvec([0, np.radians(angle), 0]),
        Rotation.from_rotvec([np.radians(270), 0, 0]),
    )
    matrix = turn.as_matrix() @ tilt.as_matrix()
    return np.tile(origin, (size * size, 1)) @ matrix, direction @ matrix


def test_paper_cameras():
    cameras = paper_cameras(size=16)
    assert len(cameras) == 30
    for index in (0, 1, 17):
        origins, directions = cameras[index].rays()
        expected = reference_paper_rays(16, 12 * index)
        np.testing.assert_allclose(origins, expected[0], atol=1e-6)
        np.testing.assert_allclose(directions, expected[1], atol=1e-6)


def opengl_rays(eye, up, fov, width, height, inclusive, rotation=None):
    """The rays by the formulas of the OpenGL camera that this one replaced, in its order of
    operations."""
    eye, up = (torch.tensor(value, dtype=torch.float64) for value in (eye, up))
    back = torch.nn.functional.normalize(eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    pose = torch.stack([right, torch.linalg.cross(back, right), back, eye], 1)
    pose = pose if rotation is None else rotation.T @ pose

    def samples(count):
        if inclusive:
            return torch.linspace(-1, 1, count, dtype=torch.float64)
        return (torch.arange(count).double() + 0.5) * 2 / count - 1

    reach = math.tan(math.radians(fov) / 2)
    y, x = torch.meshgrid(
        -samples(height) * reach * height / width, samples(width) * reach, indexing="ij"
    )
    local = torch.stack([x, y, -torch.ones_like(x)], -1).reshape(-1, 3)
    directions = torch.nn.functional.normalize(local @ pose[:, :3].T, dim=1)
    return pose[:, 3].expand_as(directions).float(), directions.float()


def assert_equal_to_the_last_bit(rays, expected):
    for value, other in zip(rays, expected, strict=True):
        # Half of the spacing of float32 numbers near 1
        torch.testing.assert_close(value, other, atol=6e-8, rtol=0)
        assert (value != other).float().mean() < 1e-3


def test_rays_are_those_of_the_opengl_camera():
    eye, up = [1.0, -2.0, 0.5], [0.0, 0.0, 1.0]
    camera = Camera.from_fov(look_at(eye, [0, 0, 0], up), 40.0, 37, 24)
    assert_equal_to_the_last_bit(camera.rays(), opengl_rays(eye, up, 40.0, 37, 24, inclusive=False))


@pytest.mark.parametrize(("make", "inclusive"), [(paper_cameras, True), (centred_cameras, False)])
def test_the_papers_grid_is_another_focal_length(make, inclusive):
    rotation = torch.from_numpy(Rotation.from_euler("YX", [120.0, 270.0], degrees=True).as_matrix())
    expected = opengl_rays(PAPER_EYE, [0.0, 1.0, 0.0], FOV, 64, 64, inclusive, rotation)
    assert_equal_to_the_last_bit(make(64, 3)[1].rays(), expected)


def test_one_pixel_looks_straight_ahead():
    for camera in (*paper_cameras(1, 1), *centred_cameras(1, 1)):
        torch.testing.assert_close(camera.rays()[1][0], camera.pose[:, 2].float())


def test_rays_through_chosen_pixels():
    camera = turntable(1, 6)[0]
    origins, directions = camera.rays()
    torch.testing.assert_close(
        camera.rays(camera.centers()[4:9]), (origins[4:9], directions[4:9]), atol=0, rtol=0
    )
    assert [value.shape for value in camera.rays(torch.empty(0, 2))] == [(0, 3), (0, 3)]


def test_projection_undoes_rays():
    camera = turntable(1, 33)[0]
    pixels = 33 * torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    origins, directions = camera.rays(pixels)
    places, depth = camera.project((origins + 2.5 * directions).double())
    torch.testing.assert_close(places, pixels, atol=1e-4, rtol=0)
    assert camera.sees(places, depth).all()
    assert not camera.sees(*camera.project((origins - directions).double())).any()


def test_a_moved_camera_sees_the_normalised_scene():
    camera, similarity = turntable(1, 8)[0], Similarity((4.0, -1.0, 2.0), 5.0)
    points = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels, depth = camera.project(points)
    normalised, normalised_depth = camera.moved(similarity).project(similarity.inverse(points))
    torch.testing.assert_close(normalised, pixels)
    torch.testing.assert_close(5 * normalised_depth, depth)


def test_many_cameras_are_each_of_them():
    each = turntable(3, 8)
    index, pixels = (
        torch.tensor([2, 0, 1, 1]),
        8 * torch.rand(4, 2, generator=torch.Generator().manual_seed(0)),
    )
    rays = Cameras.of(each, torch.device("cpu")).rays(index, pixels)
    alone = [
        torch.cat(part)
        for part in zip(
            *(each[i].rays(pixel[None]) for i, pixel in zip(index, pixels, strict=True)),
            strict=True,
        )
    ]
    torch.testing.assert_close(rays, tuple(alone), atol=1e-6, rtol=0)
