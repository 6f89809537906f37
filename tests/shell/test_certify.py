"""The dual shell around real and simple meshes: proofs against brute force, dense samples and the
authors' files."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.distance import cdist

from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.shell.certify import build_shell, certify, nearest_sphere, solid
from dss.shell.dual_shell import DualShell
from dss.shell.io import read_h5

# Thin, solid, with holes; scripts/compare_shells.py does all
SHELLS = [("252119", 512), ("53159", 128), ("96481", 512)]


def arrays(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)


def test_one_sphere_in_a_ball(ball):
    vertices, faces = arrays(ball)
    shell = build_shell(vertices, faces, np.zeros((1, 3)), np.array([0.5]))
    assert shell.inner_radii.item() == 0.5
    # The farthest sample, the paper's margin, the rounding
    assert 0.9 <= shell.outer_radii.item() < 0.9 + 1.1e-4
    assert certify(vertices, faces, shell) == 0


def test_large_triangles_are_split(box):
    """The box has 12 triangles, each much larger than any ball."""
    vertices, faces = arrays(box)
    nodes = np.linspace(-1, 1, 7)[1:-1]
    centers = np.stack(np.meshgrid(nodes, nodes, nodes), -1).reshape(-1, 3) * (
        vertices.max(0) - 0.01
    )
    radii = (vertices.max(0) - np.abs(centers)).min(1)
    shell = build_shell(vertices, faces, centers, radii)
    assert certify(vertices, faces, shell) == 0
    points, _ = surface_samples(vertices, faces, 200_000, seed=5)
    assert (cdist(points, centers) - shell.outer_radii.numpy()).min(1).max() < 0


@pytest.mark.parametrize("corners", [1, 3])
def test_nearest_sphere_equals_brute_force(corners):
    generator = np.random.default_rng(0)
    centers, radii = generator.uniform(-1, 1, (40, 3)), generator.uniform(0, 0.3, 40)
    groups = generator.uniform(-1, 1, (500, 1, 3)) + generator.normal(
        scale=0.05, size=(500, corners, 3)
    )
    every = (np.linalg.norm(groups[:, :, None] - centers, axis=3).max(1) - radii).T
    gap, index = nearest_sphere(groups, centers, radii)
    np.testing.assert_allclose(gap, every.min(0), atol=1e-15)
    np.testing.assert_array_equal(index, every.argmin(0))
    gap, index = nearest_sphere(groups, centers, radii, 0.1)
    within = every.min(0) <= 0.1
    np.testing.assert_array_equal(index, np.where(within, every.argmin(0), -1))
    np.testing.assert_array_equal(gap < np.inf, within)
    gap, index = nearest_sphere(groups[:0], centers, radii)
    assert len(gap) == len(index) == 0


def test_certificate_finds_the_leak(box):
    vertices, faces = arrays(box)
    shell = build_shell(
        vertices, faces, np.array([[-0.3, 0, 0], [0.3, 0, 0]]), np.array([0.1, 0.1])
    )
    leaky = DualShell(shell.centers, shell.inner_radii, shell.outer_radii - torch.tensor([0.01, 0]))
    # The margin of the radius is 1e-4
    assert certify(vertices, faces, leaky) == pytest.approx(0.01, abs=2e-4)


def test_given_outer_radii_are_kept_where_they_enclose(ball):
    vertices, faces = arrays(ball)
    shell = build_shell(
        vertices,
        faces,
        np.array([[0.0, 0, 0], [0.1, 0, 0]]),
        np.array([0.4, 0.8]),
        np.array([0.95, 0.8]),
    )
    # No sphere is thinner than 1e-4
    np.testing.assert_allclose(shell.outer_radii, [0.95, 0.8001], atol=3e-6)


def test_centers_that_float32_moves_keep_their_spheres_inside(ball):
    vertices, faces = arrays(ball)
    distance = MeshDistance(vertices, faces)
    centers = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    radii = distance.exact(centers)
    shell = build_shell(vertices, faces, centers, radii)
    assert (
        distance.exact(shell.centers.double().numpy()) >= shell.inner_radii.double().numpy()
    ).all()
    assert solid(distance, shell).all()
    assert not solid(
        distance, DualShell(shell.centers, shell.inner_radii + 1e-5, shell.outer_radii)
    ).any()
    assert not solid(
        distance, DualShell(shell.centers + 2, shell.inner_radii, shell.outer_radii)
    ).any()


@pytest.mark.parametrize(("name", "count"), SHELLS)
def test_authors_spheres(data, name, count):
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    theirs = read_h5(
        *(data / "shells" / f"thingi32_{kind}{count}" / f"{name}.h5" for kind in ("inner", "safe"))
    )
    shell = build_shell(
        mesh.vertices,
        mesh.faces,
        theirs.centers.double().numpy(),
        theirs.inner_radii.double().numpy(),
    )
    assert certify(mesh.vertices, mesh.faces, shell) == 0
    # The sampled radii of the authors leak
    assert certify(mesh.vertices, mesh.faces, theirs) > 5e-4
    assert solid(MeshDistance(mesh.vertices, mesh.faces), shell).all()
    assert shell.thickness.mean().item() == pytest.approx(theirs.thickness.mean().item(), rel=0.01)
    assert (shell.thickness >= 0.99e-4).all()
    centers, radii = shell.centers.double().numpy(), shell.outer_radii.double().numpy()
    points, _ = surface_samples(mesh.vertices, mesh.faces, 1_000_000, seed=77)
    assert (nearest_sphere(points[:, None], centers, radii, 0.0)[1] >= 0).all()
    gap = nearest_sphere(points[:100_000, None], centers, radii)[0]
    # Those nearest to leaking
    closest = torch.tensor(points[np.argsort(-gap)[:20_000]], dtype=torch.float32)
    assert (shell.outer_gap(closest)[0] < 0).all()
