"""Surfaces from photos against the truth, in closed form, and only where cameras see them."""

import numpy as np
import pytest
import torch
import trimesh

from dss.errors import InputError
from dss.evaluation import geometry
from dss.evaluation.photo_geometry import compare_seen, fscore, seen_points, visible
from dss.geometry.distance import MeshDistance
from dss.rendering.cameras import Camera, look_at

COUNT = 1 << 13
AROUND = [(0, -3, 0.1), (3, 0, 0.1), (0, 3, 0.1), (-3, 0, 0.1), (0.1, 0, 3), (0.1, 0, -3)]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """So many points on each surface."""
    monkeypatch.setattr(geometry, "SAMPLES", COUNT)


def ball(radius: float, center: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return mesh.apply_translation(center)


def camera(eye: tuple[float, float, float]) -> Camera:
    pose = look_at(torch.tensor(eye).double(), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Camera.from_fov(pose, 45.0, 64, 64)


def test_one_camera_sees_a_cap():
    """From the distance D the share of a ball of radius r is (1 - r / D) / 2."""
    mesh = ball(0.6)
    distance = MeshDistance(mesh.vertices, mesh.faces)
    points, _, share = seen_points(distance, [camera((0, -3, 0))], 0)
    assert share == pytest.approx((1 - 0.6 / 3) / 2, rel=0.03)
    assert points[:, 1].max() < -0.6 * 0.6 / 3 + 0.02  # beyond the horizon there is none


def test_what_is_in_front_hides_and_what_is_out_of_the_picture_does_not_count():
    both = trimesh.util.concatenate([ball(0.3), ball(0.2, (0, 0.7, 0))])
    distance = MeshDistance(both.vertices, both.faces)
    behind = both.vertices[:, 1] > 0.45
    alone = visible(distance, both.vertices, [camera((0, -3, 0))])
    assert not alone[behind].any() and alone[~behind].any()  # it lies in the other's shadow
    assert visible(distance, both.vertices, [camera((0, 3, 0))])[behind].any()
    away = camera((0, -3, 0))
    away = Camera(away.pose * torch.tensor([1, -1, -1, 1]), away.intrinsics, 64, 64)
    assert not visible(distance, both.vertices, [away]).any()  # it looks the other way
    with pytest.raises(InputError, match="no camera sees any"):
        seen_points(distance, [away], 0)


def test_a_larger_ball():
    """Its surface is 0.01 off everywhere: the finer threshold fails it, the coarser does not."""
    row = compare_seen(ball(0.61), ball(0.6), [camera(eye) for eye in AROUND])
    for name in ("surface_mean", "surface_mean_to_truth", "surface_mean_from_truth"):
        assert row[name] == pytest.approx(0.01, rel=0.02)
    assert row["surface_max"] < 0.0105 and row["normal_error_deg"] < 1.5
    assert row["fscore_fine"] == 0 and row["fscore_coarse"] == 1
    assert row["chamfer_mean_floor"] < row["chamfer_mean"] < 0.02
    assert row["seen_share"] > 0.95


def test_the_same_surface():
    row = compare_seen(ball(0.6), ball(0.6), [camera(eye) for eye in AROUND])
    assert row["surface_max"] < 1e-9 and row["fscore_fine"] == 1
    assert row["chamfer_mean"] == pytest.approx(row["chamfer_mean_floor"], rel=0.02)
    area, count = 4 * np.pi * 0.36 * row["seen_share"], COUNT
    assert row["chamfer_mean"] == pytest.approx(0.5 * (area / count) ** 0.5, rel=0.03)


def test_errors_that_nobody_can_see_do_not_count():
    """A bubble inside, and a back that no camera looks at."""
    hollow = trimesh.util.concatenate([ball(0.6), ball(0.3)])
    seen = compare_seen(hollow, ball(0.6), [camera(eye) for eye in AROUND])
    assert seen["surface_max"] < 1e-9 and seen["seen_share"] < 0.85
    dented = ball(0.6)
    back = dented.vertices[:, 1] > 0.2
    dented.vertices[back, 1] = 0.2
    assert compare_seen(dented, ball(0.6), [camera((0, -3, 0))])["surface_max"] < 1e-6
    assert compare_seen(dented, ball(0.6), [camera((0, 3, 0))])["surface_mean"] > 0.05


def test_one_sided_distances_say_what_is_wrong():
    """What the prediction has too much is far from the truth, what it lacks is not."""
    both, cameras = trimesh.util.concatenate([ball(0.3), ball(0.2, (0, 0, 0.7))]), AROUND
    cameras = [camera(eye) for eye in AROUND]
    more = compare_seen(both, ball(0.3), cameras)
    less = compare_seen(ball(0.3), both, cameras)
    assert more["surface_mean_to_truth"] > 0.05 > 1e-3 > more["surface_mean_from_truth"]
    assert less["surface_mean_from_truth"] > 0.05 > 1e-3 > less["surface_mean_to_truth"]
    assert more["chamfer_to_truth"] > 3 * more["chamfer_from_truth"]


def test_scans_may_look_any_way():
    turned = ball(0.6)
    turned.invert()
    row = compare_seen(ball(0.6), turned, [camera(eye) for eye in AROUND])
    assert row["normal_error_deg"] < 0.1


def test_fscore():
    assert fscore(np.array([0.1, 0.3]), np.array([0.1, 0.1]), 0.2) == pytest.approx(2 * 0.5 / 1.5)
    assert fscore(np.ones(2), np.ones(2), 0.5) == 0
