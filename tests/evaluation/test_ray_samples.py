"""The paper's way to take points of a surface."""

import numpy as np
import pytest
import trimesh

from dss.evaluation.geometry import SAMPLES, boundary_samples, chamfer
from dss.evaluation.ray_samples import ray_samples
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.shell.io import read_h5


def test_a_ball_is_hit_evenly(ball):
    """A convex surface far from the cube's sides; uniform by area, so half of it in each half."""
    small = MeshDistance(0.3 * ball.vertices, ball.faces)
    points = ray_samples(small, small, 1 << 12)
    assert points.shape == (1 << 12, 3)
    assert np.linalg.norm(points, axis=1) == pytest.approx(0.27, abs=3e-4)
    assert np.abs(points.mean(0)).max() < 0.02
    assert np.array_equal(points, ray_samples(small, small, 1 << 12))


def test_a_deep_pit_is_hit_less_than_its_area_says():
    tube = trimesh.creation.annulus(0.1, 0.5, 1.0)
    distance = MeshDistance(tube.vertices, tube.faces)
    by_rays = ray_samples(distance, distance, 1 << 12)
    by_area = boundary_samples(distance, 0)[0]
    shares = [(np.hypot(*points[:, :2].T) < 0.11).mean() for points in (by_rays, by_area)]
    assert 0 < shares[0] < 0.6 * shares[1]


def test_rays_start_outside_the_true_solid(ball):
    """A prediction that is smaller is seen from outside only, and one within reach of no ray is not
    seen at all."""
    truth, inner = MeshDistance(ball.vertices, ball.faces), 0.5 * ball.vertices
    points = ray_samples(MeshDistance(inner, ball.faces), truth, 1 << 12)
    assert len(points) and np.linalg.norm(points, axis=1) == pytest.approx(0.45, abs=3e-4)
    far = MeshDistance(1e-6 * ball.vertices + 50, ball.faces)
    assert chamfer(ray_samples(far, truth, 1 << 8), points) == np.inf


@pytest.mark.parametrize(("name", "floor"), [("252119", 1.46e-5), ("96481", 1.11e-5)])
def test_the_floor_of_the_paper_s_definition(data, name, floor):
    """As measured with the rays of the authors' code on the true meshes, outside their spheres."""
    mesh, shells = load_mesh(data / "thingi32" / f"{name}.ply"), data / "shells"
    shell = read_h5(*(shells / f"thingi32_{kind}512" / f"{name}.h5" for kind in ("inner", "safe")))
    distance = MeshDistance(mesh.vertices, mesh.faces)
    points = ray_samples(distance, distance, SAMPLES, 0, shell)
    found = chamfer(points, surface_samples(mesh.vertices, mesh.faces, SAMPLES, 1)[0])
    assert found == pytest.approx(floor, rel=0.03)
