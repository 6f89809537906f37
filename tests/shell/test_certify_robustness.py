"""The certificate on slender parts: as much a proof as elsewhere, and as quick."""

import time

import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import cdist

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.shell import certify as certificate
from dss.shell.certify import build_shell, certify, enclose, thick_share
from dss.shell.cover import cover

CUBE = trimesh.creation.box()
SLENDER = {
    "rod of 64 sides": trimesh.creation.cylinder(0.02, 2, sections=64),
    "wire": trimesh.creation.cylinder(0.005, 2),
    "needle": trimesh.creation.box((1, 0.001, 0.001)),
}


def timed_shell(mesh: trimesh.Trimesh, path):
    """The normalised mesh, its shell of 64 spheres, and the seconds of this process for it."""
    mesh.export(path)
    start, mesh = time.process_time(), load_mesh(path)
    spheres = cover(MeshDistance(mesh.vertices, mesh.faces), 64)
    shell = build_shell(mesh.vertices, mesh.faces, *spheres)
    return mesh, shell, time.process_time() - start


@pytest.fixture(scope="module")
def cube_seconds(tmp_path_factory) -> float:
    return timed_shell(CUBE, tmp_path_factory.mktemp("cube") / "cube.ply")[2]


@pytest.mark.parametrize("name", SLENDER)
def test_slender_parts_are_certified_in_the_time_of_a_cube(tmp_path, cube_seconds, name):
    mesh, shell, seconds = timed_shell(SLENDER[name], tmp_path / "mesh.ply")
    assert seconds < 3 * cube_seconds
    assert certify(mesh.vertices, mesh.faces, shell) == 0
    points, _ = surface_samples(mesh.vertices, mesh.faces, 100_000, seed=5)
    gap = cdist(points, shell.centers.double().numpy()) - shell.outer_radii.double().numpy()
    assert gap.min(1).max() < 0


def test_random_triangles_lie_in_the_balls():
    """The proof against dense samples, where pieces cross between many balls of all sizes."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        centers, radii = generator.uniform(-1, 1, (30, 3)), generator.uniform(0, 0.5, 30)
        triangles = generator.uniform(-1, 1, (20, 1, 3)) + generator.normal(size=(20, 3, 3)) * (
            10 ** generator.uniform(-3, 0, (20, 3, 1))
        )
        enclosed = enclose(triangles, centers, radii)
        assert (enclosed >= radii).all() and (enclosed > radii).any()
        vertices, faces = triangles.reshape(-1, 3), np.arange(60).reshape(-1, 3)
        points, _ = surface_samples(vertices, faces, 50_000)
        assert (cdist(points, centers) - enclosed).min(1).max() < 1e-12
        np.testing.assert_array_equal(enclose(triangles, centers, enclosed), enclosed)


def test_a_gap_between_two_balls_is_no_proof():
    """Two balls hold the corners of a triangle, and not the middle of it."""
    triangle = np.array([[[-1.0, 0, 0], [1, 0, 0], [1, 0.01, 0]]])
    centers = np.array([[-1.0, 0, 0], [1, 0, 0]])
    assert enclose(triangle, centers, np.array([0.9, 0.9])).min() > 0.9
    np.testing.assert_array_equal(enclose(triangle, centers, np.array([1.01, 1.01])), [1.01, 1.01])


def test_the_work_has_a_limit(monkeypatch, box):
    monkeypatch.setattr(certificate, "MAX_PIECES", 20)
    vertices, faces = np.asarray(box.vertices), np.asarray(box.faces)
    centers = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3)) * vertices.max(0)
    with pytest.raises(InputError, match="more than 20 pieces: .*; choose another spheres.count"):
        build_shell(vertices, faces, centers, np.full(50, 0.01))


@pytest.mark.parametrize(("height", "expected"), [(0.4, 0), (0.002, 1)])
def test_a_shell_too_thick_for_a_plate(height, expected):
    """Spheres in a row along the middle of a plate, in a shell that holds it all."""
    plate = trimesh.creation.box((1, 1, height))
    vertices, faces = np.asarray(plate.vertices), np.asarray(plate.faces)
    axis = np.linspace(-0.45, 0.45, 10)
    centers = np.stack([*np.meshgrid(axis, axis, [0.0], indexing="ij")], -1).reshape(-1, 3)
    shell = build_shell(vertices, faces, centers, np.full(100, 0.4 * height))
    assert thick_share(MeshDistance(vertices, faces), shell) == pytest.approx(expected, abs=0.02)
