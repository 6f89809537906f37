"""The truth is the boundary of the solid: faces inside it count for nothing."""

import numpy as np
import pytest
import trimesh

from dss.evaluation import geometry as metrics
from dss.evaluation.geometry import COLUMNS, boundary_samples, evaluate
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.tables import table

pytestmark = pytest.mark.usefixtures("fewer_points")


@pytest.fixture
def cored(ball, tmp_path):
    """A ball with a smaller one inside, both solid: a fifth of its faces are hidden."""
    inner = ball.copy().apply_scale(0.5)
    trimesh.util.concatenate([ball, inner]).export(tmp_path / "cored.ply")
    return tmp_path / "cored.ply"


def test_faces_inside_the_solid_are_left_out(ball, cored):
    result = evaluate(ball, load_mesh(cored), cored)
    assert result["interior_share"] == pytest.approx(0.2, abs=0.01)
    assert result["surface_max"] < 1e-6 and result["normal_error_deg"] < 0.01
    floor = 2 * ball.area / (np.pi * metrics.SAMPLES)
    assert result["chamfer"] == pytest.approx(floor, rel=0.03)
    assert result["chamfer_floor"] == pytest.approx(floor, rel=0.03)
    assert result["iou_uniform"] == result["iou_near"] == 1
    assert (result["bodies"], result["truth_bodies"]) == (1, 2)
    assert "of the mesh" in table({"cored": result}, COLUMNS).splitlines()[0]


def test_both_directions_are_told_apart(ball, tmp_path):
    """A prediction with a superfluous void, which is far from the truth."""
    ball.export(tmp_path / "ball.ply")
    extra = trimesh.creation.icosphere(3, 0.2)
    extra.invert()
    both = trimesh.util.concatenate([ball, extra])
    result = evaluate(both, load_mesh(tmp_path / "ball.ply"), tmp_path / "ball.ply")
    share = extra.area / both.area
    assert result["surface_mean_from_truth"] < 1e-6
    assert result["surface_mean_to_truth"] == pytest.approx(0.7 * share, rel=0.1)
    mean = (result["surface_mean_to_truth"] + result["surface_mean_from_truth"]) / 2
    assert result["surface_mean"] == pytest.approx(mean, rel=1e-12)


def test_without_such_faces_samples_are_as_ever(ball, box):
    for mesh in (ball, box):
        distance = MeshDistance(mesh.vertices, mesh.faces)
        points, faces, share = boundary_samples(distance, 5)
        plain = surface_samples(mesh.vertices, mesh.faces, metrics.SAMPLES, 5)
        assert share <= metrics.MIN_INTERIOR
        np.testing.assert_array_equal(points, plain[0])
        np.testing.assert_array_equal(faces, plain[1])


@pytest.mark.parametrize("name", ["252119", "53159", "64764", "75656"])
def test_real_meshes_keep_their_samples(data, name):
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    distance = MeshDistance(mesh.vertices, mesh.faces)
    points, _, share = boundary_samples(distance, 1)
    plain, _ = surface_samples(mesh.vertices, mesh.faces, metrics.SAMPLES, 1)
    assert share <= metrics.MIN_INTERIOR
    np.testing.assert_array_equal(points, plain)


def test_hardly_any_boundary():
    """A tenth of the surface is boundary; its samples are as many, and on it alone."""
    ball = trimesh.creation.icosphere(3, 0.9)
    layers, count = np.linspace(0.9, 1, 10), len(ball.faces)
    vertices = np.concatenate([ball.vertices * layer for layer in layers])
    faces = np.concatenate([ball.faces + len(ball.vertices) * k for k in range(10)])
    distance = MeshDistance(vertices, faces)
    points, face, share = boundary_samples(distance, 0)
    assert len(points) == len(face) == metrics.SAMPLES and 0.85 < share < 0.9
    assert face.min() >= 9 * count and len(np.unique(points, axis=0)) == len(points)
    np.testing.assert_array_equal(points, boundary_samples(distance, 0)[0])
