import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dss.errors import InputError
from dss.rendering.cameras import Camera, fibonacci, look_at, nerf_cameras, paper_cameras, turntable


def test_rays_are_unit_and_pixel_centred():
    camera = Camera(look_at([0, 0, 2], [0, 0, 0], [0, 1, 0]), 90.0, 4, 2)
    origins, directions = camera.rays()
    assert origins.dtype == directions.dtype == torch.float32 and origins.shape == directions.shape == (8, 3)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(8))
    # at 90 degrees the image plane at distance 1 spans x in [-1, 1]; square pixels of side 0.5; the first is top left
    plane = directions / -directions[:, 2:]
    torch.testing.assert_close(plane[0], torch.tensor([-0.75, 0.25, -1.0]))
    torch.testing.assert_close(plane[-1], torch.tensor([0.75, -0.25, -1.0]))


def test_scaled_camera_sees_the_same_view():
    camera = turntable(3, 8)[1]
    fine = camera.scaled(2).rays()[1].reshape(8, 2, 8, 2, 3).mean((1, 3)).reshape(-1, 3)
    torch.testing.assert_close(torch.nn.functional.normalize(fine, dim=1), camera.rays()[1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("up", [[0, 0, 1], [0, 1, 0], [1, 2, 3]])
def test_look_at(up):
    eye = torch.tensor([1.0, -2.0, 0.5])
    pose = look_at(eye, torch.tensor([0.2, 0.1, 0.0]), torch.tensor(up).float())
    rotation = pose[:, :3]
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3).double())
    assert torch.linalg.det(rotation) > 0
    assert pose[:, 1] @ torch.tensor(up).double() > 0
    view = torch.tensor([-0.8, 2.1, -0.5]).double()
    torch.testing.assert_close(-pose[:, 2], view / view.norm(), atol=1e-6, rtol=0)


def test_look_at_along_up_is_defined():
    assert look_at([0, 0, 3], [0, 0, 0], [0, 0, 1]).isfinite().all()


@pytest.mark.parametrize("orbit", [turntable, fibonacci])
@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_orbits_keep_the_unit_ball_in_view(orbit, up):
    cameras = orbit(7, 64, up=up)
    assert len(cameras) == 7
    for camera in cameras:
        origins, directions = camera.rays()
        nearest = torch.linalg.cross(origins, directions).norm(dim=1).reshape(64, 64)  # of each ray to the origin
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
    """The reference code's look_at and model matrix, written out again from dss.md, section 7."""
    origin = np.array([-2.8, 2.8, -2.8])
    view = -origin / np.linalg.norm(origin)
    right = np.cross(view, [0, 1, 0])
    right /= np.linalg.norm(right)
    up = np.cross(right, view)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(1, -1, size))
    tangent = math.tan(math.radians(15))
    direction = right * x[..., None] * tangent + up * y[..., None] * tangent + view
    direction = (direction / np.linalg.norm(direction, axis=-1, keepdims=True)).reshape(-1, 3)
    turn, tilt = Rotation.from_rotvec([0, np.radians(angle), 0]), Rotation.from_rotvec([np.radians(270), 0, 0])
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


def test_nerf_cameras(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = [0, 0, 4]
    path = tmp_path / "transforms_test.json"
    path.write_text(json.dumps({"camera_angle_x": math.pi / 2, "frames": [{"file_path": "./test/r_0", "transform_matrix": pose.tolist()}]}))
    camera = nerf_cameras(path, 2, 2)["test/r_0"]
    origins, directions = camera.rays()
    torch.testing.assert_close(origins[0], torch.tensor([0.0, 0.0, 4.0]))
    torch.testing.assert_close(directions[0], torch.tensor([-0.5, 0.5, -1.0]) / math.sqrt(1.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[]", "not a NeRF-synthetic"),
        ('{"frames": []}', "camera_angle_x"),
        ('{"camera_angle_x": 1, "frames": [{"file_path": "a", "transform_matrix": [[1, 2]]}]}', "4x4"),
        ('{"camera_angle_x": 1, "frames": [{"file_path": "a", "transform_matrix": "b"}]}', "not a NeRF-synthetic"),
    ],
)
def test_bad_camera_files(tmp_path, text, message):
    path = tmp_path / "transforms_test.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        nerf_cameras(path, 2, 2)
