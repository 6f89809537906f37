import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dss.errors import InputError
from dss.reconstruction.nerf_synthetic import posed_images, read_transforms
from dss.rendering.cameras import Camera
from dss.rendering.images import read_image


def test_views(scene):
    views = posed_images(scene, "test")
    assert [view.name for view in views] == ["r_0", "r_1", "r_2"]
    camera = views[1].camera
    assert views[1].path == scene / "test/r_1.png" and (camera.width, camera.height) == (24, 16)
    assert views[0].camera.intrinsics[0, 0].item() == pytest.approx(12 / math.tan(0.35))


def test_transforms(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = [0, 0, 4]
    path = tmp_path / "transforms_test.json"
    frame = {"file_path": "./test/r_0", "transform_matrix": pose.tolist()}
    path.write_text(json.dumps({"camera_angle_x": math.pi / 2, "frames": [frame]}))
    fov, poses = read_transforms(path)
    origins, directions = Camera.from_fov(poses["test/r_0"], fov, 2, 2).rays()
    torch.testing.assert_close(origins[0], torch.tensor([0.0, 0.0, 4.0]))
    torch.testing.assert_close(directions[0], torch.tensor([-0.5, 0.5, -1.0]) / math.sqrt(1.5))


def framed(matrix: str) -> str:
    """A camera file with one image."""
    return (
        f'{{"camera_angle_x": 1, "frames": [{{"file_path": "a", "transform_matrix": {matrix}}}]}}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[]", "not a NeRF-synthetic"),
        ('{"frames": []}', "camera_angle_x"),
        ('{"camera_angle_x": 0, "frames": []}', "no angle between 0 and pi"),
        ('{"camera_angle_x": NaN, "frames": []}', "no angle between 0 and pi"),
        (framed("[[1, 2]]"), "4x4"),
        (framed('"b"'), "not a NeRF-synthetic"),
    ],
)
def test_bad_camera_files(tmp_path, text, message):
    path = tmp_path / "transforms_test.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_transforms(path)


def test_missing_images_are_listed(scene):
    (scene / "test/r_0.png").unlink()
    (scene / "test/r_2.png").unlink()
    missing = "test/r_0.png, test/r_2.png of its test split are missing"
    with pytest.raises(InputError, match=missing):
        posed_images(scene, "test")


def test_another_size_is_named(scene):
    Image.new("RGBA", (5, 5)).save(scene / "test/r_1.png")
    with pytest.raises(InputError, match=r"r_0.png is 24x16, but test/r_1.png \(5x5\) differ"):
        posed_images(scene, "test")


def test_unreadable_image(scene):
    (scene / "test/r_1.png").write_text("no image")
    with pytest.raises(InputError, match="r_1.png: cannot be read .not an image"):
        posed_images(scene, "test")


def test_missing_split_and_empty_scene(scene):
    with pytest.raises(InputError, match="transforms_val.json: cannot be read"):
        posed_images(scene, "val")
    (scene / "transforms_test.json").write_text(json.dumps({"camera_angle_x": 1, "frames": []}))
    with pytest.raises(InputError, match="names no images"):
        posed_images(scene, "test")


def test_chair(data):
    views = posed_images(data / "nerf_synthetic/chair_400", "test")
    assert len(views) == 200 and views[0].camera.width == 400
    eyes = np.stack([view.camera.pose[:, 3].numpy() for view in views])
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=1), 4.031, atol=1e-3)
    image = read_image(views[0].path)
    assert image.shape == (400, 400, 3) and 0.1 < (image != 255).any(-1).mean() < 0.4
