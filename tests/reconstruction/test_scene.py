import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dss.config import RenderSettings, SceneSettings
from dss.errors import InputError
from dss.geometry.similarity import Similarity
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.scene import load_scene, scene_sha256
from dss.reconstruction.visual_hull import focus
from dss.reconstruction.volume_rendering import render_picture
from tests.helpers import CENTER, RADIUS, ball_model, ball_pixels, cameras, pinhole, write_synthetic


@pytest.fixture
def dtu(tmp_path: Path) -> Path:
    """A scene in the layout of NeuS: six photos of a ball, with masks.

    OpenCV's pixel centres are whole numbers.
    """
    arrays = {}
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
    for index, camera in enumerate(cameras()):
        pixels = ball_pixels(camera)
        Image.fromarray(pixels[..., :3]).save(tmp_path / f"image/{index:06d}.png")
        Image.fromarray(pixels[..., 3:].repeat(3, 2)).save(tmp_path / f"mask/{index:03d}.png")
        rotation = camera.pose[:, :3].numpy().T
        intrinsics = camera.intrinsics.numpy().copy()
        intrinsics[:2, 2] -= 0.5
        world = np.eye(4)
        world[:3] = intrinsics @ np.concatenate(
            [rotation, -rotation @ camera.pose[:, 3:].numpy()], 1
        )
        scale = np.diag([0.5, 0.5, 0.5, 1.0])
        scale[:3, 3] = CENTER
        # a projection has no scale and no sign
        arrays |= {f"world_mat_{index}": -3.0 * world, f"scale_mat_{index}": scale}
    np.savez(tmp_path / "cameras_sphere.npz", **arrays)
    return tmp_path


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """The same in the NeRF-synthetic layout; train and test are the same photos."""
    return write_synthetic(tmp_path)


def test_dtu_cameras(dtu):
    scene = load_scene(SceneSettings(path=str(dtu)), "train")
    assert (
        scene.similarity == Similarity(tuple(CENTER), 0.5)
        and scene.masked
        and len(scene.photos) == 6
    )
    for photo, camera in zip(scene.photos, cameras(), strict=True):
        expected = camera.moved(scene.similarity)
        torch.testing.assert_close(photo.camera.pose, expected.pose, atol=1e-9, rtol=0)
        torch.testing.assert_close(photo.camera.intrinsics, expected.intrinsics, atol=1e-6, rtol=0)


def test_both_layouts_are_one_scene(dtu, tmp_path, request):
    first = load_scene(SceneSettings(path=str(dtu)), "train")
    other = request.getfixturevalue("synthetic")
    (other / "image").rename(other / "moved")  # both layouts lie in one folder here
    (other / "cameras_sphere.npz").unlink()
    second = load_scene(SceneSettings(path=str(other), bounds="1 -2 0.5 0.5"), "train")
    (other / "moved").rename(other / "image")
    torch.testing.assert_close(first.load(), second.load(), atol=3e-3, rtol=0)
    for a, b in zip(first.photos, second.photos, strict=True):
        torch.testing.assert_close(a.camera.pose, b.camera.pose, atol=1e-6, rtol=0)


def test_bounds_from_masks(synthetic):
    scene = load_scene(SceneSettings(path=str(synthetic)), "train")
    assert np.linalg.norm(np.array(scene.similarity.center) - CENTER) < 0.03
    assert RADIUS < scene.similarity.scale / 1.05 < 1.3 * RADIUS  # six views leave corners
    assert load_scene(SceneSettings(path=str(synthetic)), "test").similarity == scene.similarity
    assert np.linalg.norm(focus(cameras())[0] - CENTER) < 1e-6


def test_downscale_averages_areas_of_premultiplied_pixels(synthetic):
    full, half = (
        load_scene(SceneSettings(path=str(synthetic), downscale=k, bounds="1 -2 0.5 0.5"), "train")
        for k in (1, 2)
    )
    fine, coarse = full.photos[0].pixels(), half.photos[0].pixels()
    assert coarse.shape == (20, 20, 4) and half.photos[0].camera.width == 20
    torch.testing.assert_close(coarse[5, 7], fine[10:12, 14:16].mean((0, 1)))
    # premultiplied, and divided by 255
    torch.testing.assert_close(fine[..., 0], fine[..., 3] * (200 / 255))
    assert fine[..., 3].max() == 1 and fine[..., 3].min() == 0
    origins, directions = half.photos[0].camera.rays(torch.tensor([[7.5, 5.5]]))
    # the corner between its four pixels
    expected = full.photos[0].camera.rays(torch.tensor([[15.0, 11.0]]))
    torch.testing.assert_close((origins, directions), expected)


def test_rays_are_half_pixel_correct():
    """The picture of a ball in the middle is symmetric, and projection undoes rays."""
    camera = pinhole((0.0, -3.0, 0.0), size=33)
    picture = render_picture(
        ball_model(300.0), Uniform(UniformSettings()), camera, torch.ones(3), RenderSettings()
    )
    np.testing.assert_allclose(picture.opacity, picture.opacity[:, ::-1], atol=1e-3)
    np.testing.assert_allclose(picture.opacity, picture.opacity[::-1], atol=1e-3)
    places = torch.rand(50, 2).double() * 33
    origins, directions = camera.rays(places)
    pixels, depth = camera.project((origins + 2.5 * directions).double())
    torch.testing.assert_close(pixels, places, atol=1e-4, rtol=0)
    assert (depth > 0).all() and camera.sees(pixels, depth).all()
    assert not camera.sees(*camera.project((origins - directions).double())).any()


def test_splits_of_dtu(dtu):
    names = {
        split: [
            photo.name
            for photo in load_scene(SceneSettings(path=str(dtu), test_every=3), split).photos
        ]
        for split in ("train", "test")
    }
    assert names == {
        "train": ["000001", "000002", "000004", "000005"],
        "test": ["000000", "000003"],
    }
    assert len(load_scene(SceneSettings(path=str(dtu)), "test").photos) == 6


def test_scene_without_masks_needs_bounds(synthetic):
    for path in synthetic.glob("*/*.png"):
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(InputError, match="neither masks nor bounds; name a ball"):
        load_scene(SceneSettings(path=str(synthetic)), "train")
    scene = load_scene(SceneSettings(path=str(synthetic), bounds="1 -2 0.5 0.6"), "train")
    assert not scene.masked and (scene.load()[..., 3] == 1).all()


def spoil(folder: Path, what: str) -> None:
    """Damage a DTU scene."""
    file = folder / "cameras_sphere.npz"
    arrays = dict(np.load(file))
    if what == "singular":
        arrays["world_mat_2"][0] = arrays["world_mat_2"][1]
    elif what == "lost matrix":
        del arrays["world_mat_5"]
    elif what == "nan":
        arrays["world_mat_1"][0, 0] = np.nan
    elif what == "scale":
        arrays["scale_mat_0"] *= 0
    np.savez(file, **arrays)
    if what == "image size":
        Image.new("RGB", (5, 5)).save(folder / "image/000003.png")
    elif what == "mask size":
        Image.new("RGB", (5, 5)).save(folder / "mask/003.png")
    elif what == "lost mask":
        (folder / "mask/003.png").unlink()
    elif what == "empty masks":
        for path in (folder / "mask").iterdir():
            Image.new("RGB", (40, 40)).save(path)
    elif what == "no image":
        (folder / "image/000003.png").write_text("none")
    elif what == "no cameras":
        file.unlink()
    elif what == "no photos":
        for path in (folder / "image").iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    {
        "singular": "world_mat_2 is singular",
        "lost matrix": "not the cameras of 6 pictures",
        "nan": "world_mat_1 is not a finite",
        "scale": "scale_mat_0 is not a finite",
        "image size": "not of the size of 000000.png: 000003.png",
        "mask size": "003.png: not of the size",
        "lost mask": "6 pictures, but 5 masks",
        "empty masks": "masks of all pictures are empty",
        "no image": "000003.png: cannot be read",
        "no cameras": "cameras_sphere.npz: not the cameras",
        "no photos": "no pictures there",
    }.items(),
)
def test_a_damaged_scene_is_named_in_one_line(dtu, what, message):
    spoil(dtu, what)
    with pytest.raises(InputError, match=message):
        load_scene(SceneSettings(path=str(dtu)), "train").load()


def test_damaged_nerf_scenes(synthetic):
    file = synthetic / "transforms_train.json"
    about = json.loads(file.read_text())
    about["frames"][1]["transform_matrix"][0] = about["frames"][1]["transform_matrix"][1]
    file.write_text(json.dumps(about))
    with pytest.raises(InputError, match="r_1.png: the matrix of its camera is singular"):
        load_scene(SceneSettings(path=str(synthetic)), "train")


def test_bad_requests(synthetic):
    config = SceneSettings(path=str(synthetic))
    for change, message in (
        ({"path": str(synthetic / "none")}, "no such folder"),
        ({"path": ""}, "no such folder"),
        ({"downscale": 41}, "only 40 pixels"),
        ({"bounds": "1 2 3"}, "expected a ball"),
        ({"bounds": "1 2 3 -1"}, "expected a ball"),
        ({"bounds": "-300 300 -300 0.1"}, "contain nothing"),
    ):
        with pytest.raises(InputError, match=message):
            load_scene(config.model_copy(update=change), "train")
    for path in synthetic.glob("train/*.png"):
        Image.new("RGBA", (40, 40)).save(path)
    with pytest.raises(InputError, match="no point lies in all masks"):
        load_scene(config, "train")


def test_chair(data):
    scene = load_scene(
        SceneSettings(path=str(data / "nerf_synthetic/chair_400"), downscale=4), "train"
    )
    assert scene.similarity.scale / 1.05 == pytest.approx(1.29, abs=0.02)  # from depth maps
    assert np.abs(np.array(scene.similarity.center) - [-0.03, 0, 0.03]).max() < 0.1


def test_what_tells_scenes_apart(dtu, request):
    cameras_file = dtu / "cameras_sphere.npz"
    first = scene_sha256(dtu)
    assert first == hashlib.sha256(cameras_file.read_bytes()).hexdigest() == scene_sha256(str(dtu))
    cameras_file.write_bytes(b"another")
    assert scene_sha256(dtu) != first
    cameras_file.unlink()
    with pytest.raises(InputError, match="cameras_sphere.npz: cannot be read"):
        scene_sha256(dtu)
    (dtu / "image").rename(dtu / "moved")  # what is left is a scene in the other layout
    scene = request.getfixturevalue("synthetic")
    expected = hashlib.sha256((scene / "transforms_train.json").read_bytes()).hexdigest()
    assert scene_sha256(scene) == expected
