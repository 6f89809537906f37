import json

import numpy as np
import pytest
from PIL import Image

from dss.errors import InputError
from dss.reconstruction.nerf_synthetic import read_image, scene_views


def test_views(scene):
    views = scene_views(scene, "test")
    assert [view.name for view in views] == ["r_0", "r_1", "r_2"]
    assert views[1].path == scene / "test/r_1.png" and (views[1].camera.width, views[1].camera.height) == (24, 16)
    assert views[0].camera.fov == pytest.approx(np.degrees(0.7))


def test_transparency_is_composited_on_white(tmp_path):
    Image.fromarray(np.array([[[100, 0, 200, 51], [9, 9, 9, 0], [1, 2, 3, 255]]], np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[224, 204, 244], [255, 255, 255], [1, 2, 3]]]
    Image.fromarray(np.array([[7]], np.uint8)).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").tolist() == [[[7, 7, 7]]]


def test_missing_images_are_listed(scene):
    (scene / "test/r_0.png").unlink()
    (scene / "test/r_2.png").unlink()
    with pytest.raises(InputError, match="test/r_0.png, test/r_2.png of its test split are missing"):
        scene_views(scene, "test")


def test_another_size_is_named(scene):
    Image.new("RGBA", (5, 5)).save(scene / "test/r_1.png")
    with pytest.raises(InputError, match=r"r_0.png is 24x16, but test/r_1.png \(5x5\) differ"):
        scene_views(scene, "test")


def test_unreadable_image(scene):
    (scene / "test/r_1.png").write_text("no image")
    with pytest.raises(InputError, match="r_1.png: cannot be read .not an image"):
        scene_views(scene, "test")


def test_truncated_image(scene):
    path = scene / "test/r_1.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match="r_1.png: cannot be read"):
        read_image(path)


def test_missing_split_and_empty_scene(scene):
    with pytest.raises(InputError, match="transforms_val.json: cannot be read"):
        scene_views(scene, "val")
    (scene / "transforms_test.json").write_text(json.dumps({"camera_angle_x": 1, "frames": []}))
    with pytest.raises(InputError, match="names no images"):
        scene_views(scene, "test")


def test_chair(data):
    views = scene_views(data / "nerf_synthetic/chair_400", "test")
    assert len(views) == 200 and views[0].camera.width == 400
    eyes = np.stack([view.camera.pose[:, 3].numpy() for view in views])
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=1), 4.031, atol=1e-3)
    image = read_image(views[0].path)
    assert image.shape == (400, 400, 3) and 0.1 < (image != 255).any(-1).mean() < 0.4
