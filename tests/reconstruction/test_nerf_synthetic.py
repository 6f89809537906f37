import json

import numpy as np
import pytest
from PIL import Image

from dss.errors import InputError
from dss.reconstruction.nerf_synthetic import posed_images, read_image


def test_images_and_cameras(scene):
    images = posed_images(scene, "test")
    assert [image.name for image in images] == ["r_0", "r_1", "r_2"]
    assert images[1].path == scene / "test/r_1.png" and (
        images[1].camera.width,
        images[1].camera.height,
    ) == (24, 16)
    assert images[0].camera.fov == pytest.approx(np.degrees(0.7))


def test_transparency_is_composited_on_white(tmp_path):
    Image.fromarray(np.array([[[100, 0, 200, 51], [9, 9, 9, 0], [1, 2, 3, 255]]], np.uint8)).save(
        tmp_path / "a.png"
    )
    assert read_image(tmp_path / "a.png").tolist() == [
        [[224, 204, 244], [255, 255, 255], [1, 2, 3]]
    ]
    Image.fromarray(np.array([[7]], np.uint8)).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").tolist() == [[[7, 7, 7]]]


def test_missing_images_are_listed(scene):
    (scene / "test/r_0.png").unlink()
    (scene / "test/r_2.png").unlink()
    with pytest.raises(
        InputError, match="test/r_0.png, test/r_2.png of its test split are missing"
    ):
        posed_images(scene, "test")


def test_another_size_is_named(scene):
    Image.new("RGBA", (5, 5)).save(scene / "test/r_1.png")
    with pytest.raises(InputError, match=r"r_0.png is 24x16, but test/r_1.png \(5x5\) differ"):
        posed_images(scene, "test")


def test_unreadable_image(scene):
    (scene / "test/r_1.png").write_text("no image")
    with pytest.raises(InputError, match="r_1.png: cannot be read .not an image"):
        posed_images(scene, "test")


def test_truncated_image(scene):
    path = scene / "test/r_1.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match="r_1.png: cannot be read"):
        read_image(path)


def test_missing_split_and_empty_scene(scene):
    with pytest.raises(InputError, match="transforms_val.json: cannot be read"):
        posed_images(scene, "val")
    (scene / "transforms_test.json").write_text(json.dumps({"camera_angle_x": 1, "frames": []}))
    with pytest.raises(InputError, match="names no images"):
        posed_images(scene, "test")


def test_chair(data):
    images = posed_images(data / "nerf_synthetic/chair_400", "test")
    assert len(images) == 200 and images[0].camera.width == 400
    eyes = np.stack([image.camera.pose[:, 3].numpy() for image in images])
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=1), 4.031, atol=1e-3)
    image = read_image(images[0].path)
    assert image.shape == (400, 400, 3) and 0.1 < (image != 255).any(-1).mean() < 0.4
