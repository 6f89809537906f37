"""Hostile scenes: one line, at once, and nothing outside the scene's folder is read."""

import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from dss.config import SceneSettings
from dss.errors import InputError
from dss.reconstruction.nerf_synthetic import posed_images, read_transforms
from dss.reconstruction.scene import load_scene
from dss.rendering.images import read_image
from tests.helpers import write_synthetic

POSE = np.eye(4).tolist()
MATRIX = json.dumps(POSE)
ENORMOUS = "1" + "0" * 400


def transforms(scene, angle="0.7", path='"./test/r_0"', matrix=MATRIX, more=""):
    """Write the camera file of the test split, from texts."""
    frame = f'{{"file_path": {path}, "transform_matrix": {matrix}}}'
    text = f'{{"camera_angle_x": {angle}, "frames": [{frame}{more}]}}'
    (scene / "transforms_test.json").write_text(text)


@pytest.mark.parametrize(
    "angle",
    ["0", "-0.5", "3.5", str(math.pi), "1e-300", "Infinity", "NaN", "1e400", ENORMOUS, "true"],
)
def test_impossible_fields_of_view(scene, angle):
    transforms(scene, angle)
    with pytest.raises(InputError, match="transforms_test.json") as error:
        posed_images(scene, "test")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "matrix",
    [
        json.dumps(POSE).replace("1.0", ENORMOUS, 1),
        json.dumps(POSE).replace("1.0", "9" * 5000, 1),
        json.dumps(POSE).replace("1.0", "true", 1),
        json.dumps(POSE).replace("1.0", '"1"', 1),
        json.dumps(POSE).replace("1.0", "1e400", 1),
        "[" * 100_000,
        "[" * 500 + "]" * 500,
        "[]",
        "[[], []]",
    ],
    ids=str.__len__,
)
def test_impossible_matrices(scene, matrix):
    transforms(scene, matrix=matrix)
    with pytest.raises(InputError, match="transforms_test.json"):
        posed_images(scene, "test")


def test_an_image_that_is_named_twice(scene):
    transforms(scene, more=f', {{"file_path": "./test/r_0", "transform_matrix": {POSE}}}')
    with pytest.raises(InputError, match="names an image twice"):
        read_transforms(scene / "transforms_test.json")


def test_images_outside_the_scene_are_refused(scene, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGBA", (24, 16)).save(secret)
    (scene / "test" / "link.png").symlink_to(secret)
    (scene / "up").symlink_to(tmp_path)
    (scene / "round.png").symlink_to(scene / "round.png")
    names = ["../secret", str(secret), "./test/link", "up/secret", "./test/../../secret", "round"]
    for name in names:
        transforms(scene, path=json.dumps(name))
        with pytest.raises(InputError, match="outside the scene's folder|are missing"):
            posed_images(scene, "test")
    for name in ("a\0b", "x" * 300):
        transforms(scene, path=json.dumps(name))
        with pytest.raises(InputError, match="outside the scene's folder|are missing"):
            posed_images(scene, "test")
    (tmp_path / "same").symlink_to(scene)  # the scene itself may be a link
    transforms(scene)
    assert len(posed_images(tmp_path / "same", "test")) == 1


def dtu(tmp_path):
    """A DTU scene of two pictures."""
    scene = tmp_path / "dtu"
    (scene / "image").mkdir(parents=True)
    matrices = {"scale_mat_0": np.eye(4)}
    for index in range(2):
        Image.new("RGB", (8, 8)).save(scene / "image" / f"{index}.png")
        matrices[f"world_mat_{index}"] = np.eye(4)
    np.savez(scene / "cameras_sphere.npz", **matrices)
    return scene, matrices


def test_cameras_that_are_a_link_out_of_the_scene(scene, tmp_path):
    (scene / "transforms_test.json").rename(tmp_path / "elsewhere.json")
    (scene / "transforms_test.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="outside the scene's folder"):
        posed_images(scene, "test")


def test_a_dtu_picture_that_is_a_link_out_of_the_scene(tmp_path):
    scene, _ = dtu(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (scene / "image" / "1.png").unlink()
    (scene / "image" / "1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="outside the scene's folder"):
        load_scene(SceneSettings(path=str(scene)), "train")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "bad",
    [np.eye(4) * 1e200, np.eye(4) * 1j, np.eye(4).astype("U"), np.zeros((9000, 9000))],
    ids=["huge", "complex", "text", "bomb"],
)
def test_impossible_dtu_matrices(tmp_path, bad):
    scene, matrices = dtu(tmp_path)
    np.savez_compressed(scene / "cameras_sphere.npz", **matrices | {"world_mat_1": bad})
    with pytest.raises(InputError, match="cameras_sphere.npz"):
        load_scene(SceneSettings(path=str(scene)), "train")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["transforms_train.json", "train/r_0.png"])
def test_pipes_and_devices_are_not_opened(tmp_path, name, kind):
    write_synthetic(tmp_path)
    (tmp_path / name).unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"r_0|transforms_train"):
        load_scene(SceneSettings(path=str(tmp_path)), "train")


def test_a_pipe_for_the_cameras_of_a_dtu_scene(tmp_path):
    scene, _ = dtu(tmp_path)
    (scene / "cameras_sphere.npz").unlink()
    os.mkfifo(scene / "cameras_sphere.npz")
    with pytest.raises(InputError, match="no such file"):
        load_scene(SceneSettings(path=str(scene)), "train")


def test_more_pictures_than_memory(tmp_path, monkeypatch):
    write_synthetic(tmp_path)
    monkeypatch.setattr("dss.reconstruction.scene.BYTES", 1 << 40)
    with pytest.raises(InputError, match="scene.downscale=2: 6 pictures of 20x20 pixels need"):
        load_scene(SceneSettings(path=str(tmp_path), downscale=2), "train")


def test_a_path_that_cannot_be():
    for path in ("x" * 300, "a\0b"):
        with pytest.raises(InputError, match="no such folder"):
            load_scene(SceneSettings(path=path), "train")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n"


@pytest.mark.parametrize("content", [POSTSCRIPT, b"GIF89a", b"II*\0", b"BM", b"P6 1 1 255\n..."])
def test_other_formats_under_the_name_of_a_png_are_not_decoded(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content + bytes(200))
    with pytest.raises(InputError, match="not an image of the formats PNG, JPEG, WEBP"):
        read_image(path)


def test_postscript_never_reaches_ghostscript(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *args, **_: started.append(args))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    (tmp_path / "image.png").write_bytes(POSTSCRIPT)
    with pytest.raises(InputError):
        read_image(tmp_path / "image.png")
    assert not started


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [8_100, 10_000, 20_000])
def test_a_decompression_bomb(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match="more than 64,000,000 pixels"):
        read_image(tmp_path / "bomb.png")


def test_damaged_images(tmp_path):
    path, generator = tmp_path / "image.png", np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (20, 20, 4), np.uint8)).save(path)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        content[generator.integers(8, len(content))] ^= 1 << generator.integers(8)
        path.write_bytes(content[: generator.integers(20, len(content) + 1)])
        try:
            read_image(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
