"""Made scenes: what the photos show is where the mesh is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dss.config import SceneSettings
from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.reconstruction import made_scene
from dss.reconstruction.made_scene import BALL, albedo, demo_scene, light, make_scene, room
from dss.reconstruction.nerf_synthetic import read_ball
from dss.reconstruction.scene import load_scene

CENTER, RADIUS = np.array([3.0, -1.0, 7.0]), 2.0


@pytest.fixture(scope="module")
def ball_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mesh") / "ball.ply"
    ball = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    ball.apply_translation(CENTER)
    ball.export(path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, ball_file) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_scene(str(ball_file), folder, views=6, size=32)
    return folder


def test_both_layouts_show_the_same(made):
    one = load_scene(SceneSettings(path=str(made / "synthetic")), "train")
    other = load_scene(SceneSettings(path=str(made / "dtu")), "train")
    assert len(one.photos) == len(other.photos) == 6 and one.masked and other.masked
    assert other.similarity == one.similarity
    assert one.similarity.scale == pytest.approx(RADIUS / 0.9 * BALL, rel=1e-3)
    torch.testing.assert_close(one.load(), other.load(), atol=5e-3, rtol=0)
    for a, b in zip(one.photos, other.photos, strict=True):
        torch.testing.assert_close(a.camera.pose, b.camera.pose, atol=2e-3, rtol=0)
        torch.testing.assert_close(a.camera.intrinsics, b.camera.intrinsics, atol=1e-6, rtol=0)
    assert len(load_scene(SceneSettings(path=str(made / "synthetic")), "test").photos) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_depths_and_masks_are_those_of_the_ball(made, split):
    """A depth puts each pixel onto the ball, and the mask covers what the ball covers."""
    settings = SceneSettings(path=str(made / "synthetic"), bounds="0 0 0 1")  # scene units
    for photo in load_scene(settings.model_copy(update={"bounds": "0 0 0 1"}), split).photos:
        depth = np.load(made / "synthetic/depth" / split / f"{photo.name}.npy")
        origins, directions = photo.camera.rays()
        hit = np.isfinite(depth).ravel()
        along = directions.numpy() @ photo.camera.pose[:, 2].float().numpy()
        points = (origins + directions * torch.from_numpy(depth.ravel() / along)[:, None])[hit]
        gap = np.linalg.norm(points.numpy() - CENTER, axis=1) - RADIUS
        assert hit.any() and np.abs(gap).max() < 0.01 * RADIUS
        mask = photo.pixels()[..., 3].numpy().ravel()
        assert (mask[hit] > 0).all() and (mask[~hit] < 1).all()
        sine = RADIUS / np.linalg.norm(origins[0].numpy() - CENTER)
        focal = photo.camera.intrinsics[0, 0].item()
        area = np.pi * (focal * sine) ** 2 / (1 - sine**2)  # the axis goes through the centre
        assert mask.sum() == pytest.approx(area, rel=0.02)


def test_the_surface_is_kept_in_the_mesh_s_units(made, ball_file):
    for layout in ("synthetic", "dtu"):
        mesh = trimesh.load(made / layout / "mesh.ply")
        assert np.abs(np.linalg.norm(mesh.vertices - CENTER, axis=1) - RADIUS).max() < 1e-5


def test_the_same_arguments_make_the_same_files(made, ball_file, tmp_path):
    make_scene(str(ball_file), tmp_path, views=6, size=32)
    names = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
    assert len(names) == 2 * 6 + 2 * 2 + 3 * 6 + 2 + 3  # photos, depths and masks, meshes, cameras
    for name in names:
        if name.suffix != ".npz":  # an archive has the time in it
            assert (made / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_room_has_no_masks(ball_file, tmp_path):
    make_scene(str(ball_file), tmp_path, views=3, size=16, texture="checker", background="room")
    scene = load_scene(SceneSettings(path=str(tmp_path / "dtu")), "train")
    assert not scene.masked and (scene.load()[..., 3] == 1).all()
    other = load_scene(SceneSettings(path=str(tmp_path / "synthetic")), "train")
    assert not other.masked and other.similarity.scale == pytest.approx(scene.similarity.scale)
    true = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("dtu/true_mask/*"))]
    assert len(true) == 3 and all(mask.min() == 0 and mask.max() == 255 for mask in true)


@pytest.mark.parametrize("ball", [[1, 2, 3], [1, 2, 3, 0], "a ball", [1, 2, 3, float("nan")], 4])
def test_a_broken_ball_is_named_in_one_line(made, tmp_path, ball):
    about = json.loads((made / "synthetic/transforms_train.json").read_text())
    (tmp_path / "transforms_train.json").write_text(json.dumps(about | {"ball": ball}))
    with pytest.raises(InputError, match="its `ball` is not x, y, z and a radius"):
        read_ball(tmp_path / "transforms_train.json")
    (tmp_path / "transforms_train.json").write_text(json.dumps({}))
    assert read_ball(tmp_path / "transforms_train.json") is None


def test_what_things_look_like():
    points = torch.rand(500, 3) * 2 - 1
    for texture in ("noise", "checker", "none"):
        colour = albedo(points, texture)
        assert colour.shape == (500, 3) and colour.min() >= 0 and colour.max() <= 1
    assert albedo(points, "noise").std(0).min() > 0.1
    assert len(albedo(points, "checker").unique(dim=0)) == 2
    normals = torch.nn.functional.normalize(points, dim=1)
    assert light(normals).min() >= made_scene.AMBIENT and light(normals).max() <= 1
    origins = torch.zeros(500, 3)
    same = room(origins, normals), room(origins + normals, normals)  # points of the same wall
    torch.testing.assert_close(*same, atol=1e-4, rtol=0)


def test_light_does_not_depend_on_the_camera():
    """Two cameras see the same colour at the same point: a face's middle."""
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.9)
    distance = MeshDistance(mesh.vertices, mesh.faces)
    cameras = made_scene.turntable(8, 200)[:2]
    seen = [made_scene.photograph(distance, camera, "none", "none") for camera in cameras]
    point = torch.tensor(mesh.triangles_center)
    rows = []
    for camera, each in zip(cameras, seen, strict=True):
        pixels, depth = camera.project(point)
        column, row = pixels.long().T
        free = np.abs(each.depth[row, column] - depth.numpy()) < 5e-3
        rows.append(np.where(free[:, None], each.colour[row, column, :3].astype(float), np.nan))
    both = np.isfinite(rows).all((0, 2))
    assert both.sum() > 20 and np.median(np.abs(rows[0] - rows[1])[both]) <= 1


def test_the_demo_scene_is_made_once(cache, monkeypatch, ball_file):
    asked = []

    def small(mesh: str, out: Path, **_: object) -> None:
        asked.append(mesh)
        make_scene(str(ball_file), out, views=4, size=16)

    monkeypatch.setattr(made_scene, "make_scene", small)
    assert demo_scene() == demo_scene() and asked == ["demo"]
    assert len(load_scene(SceneSettings(), "train").photos) == 4
    about = json.loads((demo_scene() / "transforms_train.json").read_text())
    assert len(about["frames"]) == 4


def test_the_script(ball_file, tmp_path, script):
    out = tmp_path / "out"
    few = ("--views", 3, "--size", 16)
    code, output, error = script("scripts.make_scene", ball_file, "--out", out, *few)
    assert code == 0, error
    assert output.splitlines()[-1].startswith("next: python train.py --config neus_shell_tiny")
    assert load_scene(SceneSettings(path=str(out / "synthetic")), "train").masked
    code, _, error = script("scripts.make_scene", ball_file, "--out", out, *few)
    assert code == 2 and "not empty" in error
    code, _, error = script("scripts.make_scene", ball_file, "--out", tmp_path / "a", "--views", 1)
    assert code == 2 and "--views 1" in error
