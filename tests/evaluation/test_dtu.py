"""DTU's official protocol on made scans, whose numbers are known in closed form."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import trimesh
from PIL import Image

from dss.config import SceneSettings
from dss.errors import InputError
from dss.evaluation.dtu import cut_by_masks, is_official, measure_dtu, sampled, score, thinned
from dss.reconstruction.made_scene import make_scene
from dss.reconstruction.scene import load_scene

SIZE = 20.0  # mm, of the scanned square


def square(height: float, size: float = SIZE, x: float = 0.0) -> trimesh.Trimesh:
    """A square of two faces at z = height, with its corner at (x, 0)."""
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]]) + [x, 0]
    vertices = np.column_stack([corners, np.full(4, height)])
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], process=False)


def write_official(folder: Path, points: np.ndarray, plane: list[float], mask: np.ndarray) -> Path:
    """Scan 7: points in mm, and a volume from (0, 0, -10) in voxels of 1 mm."""
    (folder / "Points/stl").mkdir(parents=True)
    (folder / "ObsMask").mkdir()
    trimesh.PointCloud(points).export(folder / "Points/stl/stl007_total.ply")
    box = np.array([[0.0, 0, -10], [SIZE, SIZE, 10]], np.float32)
    volume = {"ObsMask": mask, "BB": box, "Res": np.array([[1.0]])}
    scipy.io.savemat(folder / "ObsMask/ObsMask7_10.mat", volume)
    scipy.io.savemat(folder / "ObsMask/Plane7.mat", {"P": np.array(plane)[:, None]})
    return folder


def scan() -> np.ndarray:
    """The square at z = 0, a point every 0.2 mm."""
    axis = np.arange(0, SIZE + 0.1, 0.2)
    x, y = np.meshgrid(axis, axis)
    return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])


ALL = np.ones((21, 21, 21), np.uint8)
ABOVE = [0.0, 0.0, 1.0, 5.0]  # all that has z > -5


def near(gap: float) -> float:
    """The mean distance between two lattices that lie `gap` apart, 0.2 mm from point to point: at
    most half a diagonal aside."""
    return pytest.approx(np.hypot(gap, 0.1), abs=0.06)


def test_a_square_beside_its_scan(tmp_path):
    official = write_official(tmp_path, scan(), ABOVE, ALL)
    assert is_official(official) and not is_official(tmp_path / "Points")
    for gap in (0.0, 1.0, 3.0):
        found = score(square(gap), official, 7)
        assert found["dtu_accuracy"] == near(gap) and found["dtu_completeness"] == near(gap)
        both = found["dtu_accuracy"] + found["dtu_completeness"]
        assert found["dtu_overall"] == pytest.approx(both / 2)


def test_what_was_not_observed_does_not_count_as_wrong(tmp_path):
    """The mask holds the half with x < 10. The other half of the prediction is 3 mm too high: it is
    not inaccurate, and the scan is as far from it all the same."""
    mask = ALL.copy()
    mask[10:] = 0
    official = write_official(tmp_path, scan(), ABOVE, mask)
    halves = [square(0.0), square(3.0)]
    halves[0].vertices[[1, 2], 0] = halves[1].vertices[[0, 3], 0] = SIZE / 2
    found = score(trimesh.util.concatenate(halves), official, 7)
    assert found["dtu_accuracy"] == near(0.0)
    # 3 mm on the far half, but for the strip beside the border, which is nearer to the other half
    assert found["dtu_completeness"] == pytest.approx((7 * 3 + 1.5 * 3) / 20 + 0.04, abs=0.06)


def test_points_below_the_table_are_no_loss(tmp_path):
    below = scan() - [0, 0, 8]
    official = write_official(tmp_path, np.concatenate([scan(), below]), ABOVE, ALL)
    assert score(square(0.0), official, 7)["dtu_completeness"] == near(0.0)


def test_what_is_20_mm_away_is_left_out(tmp_path):
    high = scan()[:500] + [0, 0, 40]  # in the enlarged box of the prediction, and above the table
    official = write_official(tmp_path, np.concatenate([scan(), high]), ABOVE, ALL)
    assert score(square(0.0), official, 7)["dtu_completeness"] == near(0.0)
    with pytest.raises(InputError, match="nothing of the mesh lies in its volume"):
        score(square(0.0, x=500.0), official, 7)


def test_sampling_and_thinning():
    points = sampled(square(0.0), 0.2)
    assert len(points) == pytest.approx((SIZE / 0.2) ** 2, rel=0.05)
    assert (points[:, 2] == 0).all() and points.min() >= 0 and points.max() <= SIZE
    kept = thinned(np.concatenate([points, points + 1e-3]), 0.2)
    distance = np.linalg.norm(kept[:400, None] - kept[None], axis=2)
    assert np.sort(distance, 1)[:, 1].min() > 0.2  # none has another within the radius
    rest = np.linalg.norm(points[:400, None] - kept[None], axis=2).min(1)
    assert rest.max() <= 0.2 + 2e-3  # and every point has one that stayed


def test_the_mesh_is_cut_by_masks(tmp_path):
    """A made scene of a ball: a floater that no mask holds goes, the ball stays; then the
    protocol runs in the scene's units, for the scan that the folder's name tells."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=5.0)
    ball.export(tmp_path / "ball.ply")
    make_scene(str(tmp_path / "ball.ply"), tmp_path / "made", views=6, size=64)
    (tmp_path / "made/dtu").rename(tmp_path / "dtu_scan7")
    scene = load_scene(SceneSettings(path=str(tmp_path / "dtu_scan7")), "train")
    unit = ball.copy()
    unit.vertices = scene.similarity.inverse(ball.vertices)
    floater = trimesh.creation.icosphere(subdivisions=1, radius=0.02).apply_translation([1, 1, 1])
    kept = cut_by_masks(trimesh.util.concatenate([unit, floater]), scene)
    assert len(kept.faces) == len(unit.faces)
    points = trimesh.sample.sample_surface(ball, 20_000, seed=0)[0]
    box = {"BB": np.array([[-6.0] * 3, [6.0] * 3]), "Res": np.array([[0.5]])}
    official = write_official(tmp_path / "official", points, [0, 0, 1, 99], ALL)
    volume = {"ObsMask": np.ones((25, 25, 25), np.uint8), **box}
    scipy.io.savemat(official / "ObsMask/ObsMask7_10.mat", volume)
    found = measure_dtu(kept, scene, official)
    assert found["dtu_overall"] < 0.1
    (tmp_path / "dtu_scan7").rename(tmp_path / "house")
    scene = load_scene(SceneSettings(path=str(tmp_path / "house")), "train")
    with pytest.raises(InputError, match="which scan is it"):
        measure_dtu(kept, scene, official)
    for path in (tmp_path / "house/mask").iterdir():
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    with pytest.raises(InputError, match="nothing of the mesh lies in all its masks"):
        cut_by_masks(unit, scene)


def test_missing_and_damaged_files(tmp_path):
    official = write_official(tmp_path, scan(), ABOVE, ALL)
    with pytest.raises(InputError, match="Plane8|ObsMask8_10.mat: no such file"):
        score(square(0.0), official, 8)
    (official / "ObsMask/Plane7.mat").write_bytes(b"none")
    with pytest.raises(InputError, match="Plane7.mat: cannot be read"):
        score(square(0.0), official, 7)
