"""The cover by medial balls: closed forms of the medial axis, the guarantees, and the paper's
thickness."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.shell.certify import build_shell, certify, solid
from dss.shell.cover import ERROR, ROUNDING, _Lloyd, _medial_balls, _Region, cover
from dss.shell.io import read_h5


@pytest.fixture(scope="module")
def box() -> MeshDistance:
    mesh = trimesh.creation.box([1.6, 0.6, 0.3])
    return MeshDistance(mesh.vertices, mesh.faces)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("dss.shell.cover.DENSE", 50_000)
    monkeypatch.setattr("dss.shell.cover.ROUNDS", 4)


@pytest.mark.parametrize("count", [1, 5, 60])
def test_guarantees(quick, box, count):
    centers, inner, outer = cover(box, count, seed=3)
    assert centers.shape == (count, 3) and inner.shape == outer.shape == (count,)
    np.testing.assert_array_equal(centers, centers.astype(np.float32))
    margin = ([0.8, 0.3, 0.15] - np.abs(centers)).min(1)
    np.testing.assert_allclose(inner, margin, atol=1e-12)
    assert (inner > 0).all() and (outer >= inner).all()
    shell = build_shell(box.vertices, box.faces, centers, inner, outer)
    assert certify(box.vertices, box.faces, shell) == 0 and solid(box, shell).all()


def test_the_same_for_the_same_seed(quick, box):
    first, second, other = (cover(box, 20, seed) for seed in (1, 1, 2))
    for one, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(first[0] - other[0]).max() > 1e-3


def test_too_thin():
    sheet = trimesh.creation.box([1.8, 0.01, 1.5e-5])
    with pytest.raises(InputError, match="spheres.count=4: only 0 spheres fit"):
        cover(MeshDistance(sheet.vertices, sheet.faces), 4)


def test_thinner_than_the_paper_s(data):
    mesh = load_mesh(data / "thingi32" / "53159.ply")
    theirs = read_h5(
        *(data / "shells" / f"thingi32_{kind}128" / "53159.h5" for kind in ("inner", "safe"))
    ).statistics()
    distance = MeshDistance(mesh.vertices, mesh.faces)
    shell = build_shell(mesh.vertices, mesh.faces, *cover(distance, 128))
    ours = shell.statistics()
    assert certify(mesh.vertices, mesh.faces, shell) == 0 and solid(distance, shell).all()
    assert (
        ours["mean"] < 0.6 * theirs["mean"]
        and ours["max"] < 0.65 * theirs["max"]
        and ours["volume"] < 0.5 * theirs["volume"]
    )


def test_cells_of_moved_balls_equal_brute_force(box):
    """Balls that stayed are not looked for again; those that moved, grew or were exchanged are."""
    generator = np.random.default_rng(0)
    samples, face = surface_samples(box.vertices, box.faces, 2000)
    lloyd = _Lloyd(box, samples, _medial_balls(box, samples, face), generator)
    balls = lloyd.insert(30)
    for _ in range(6):
        cells, reach = lloyd.cells(balls), lloyd.reach
        distances = np.linalg.norm(samples[:, None] - balls[:, :3], axis=2)
        gaps = distances - balls[:, 3]
        np.testing.assert_array_equal(cells.ball[0], gaps.argmin(1))
        np.testing.assert_allclose(cells.gap[0], gaps.min(1), atol=1e-12)
        second = np.sort(gaps, 1)[:, 1]
        known = cells.ball[1] >= 0
        np.testing.assert_allclose(cells.gap[1, known], second[known], atol=1e-12)
        assert (second[~known] > reach / 1.5).all()
        moved = generator.choice(30, 5)
        balls[moved] = lloyd.medial[generator.choice(len(samples), 5)]
        balls[generator.integers(30), 3] *= 0.9


def test_no_ball_that_is_left_out_would_be_better(box, monkeypatch):
    samples, face = surface_samples(box.vertices, box.faces, 2000)
    medial = _medial_balls(box, samples, face)
    original, counts, results = box.sdf, [], []

    def counted(points):
        counts[-1] += len(points)
        return original(points)

    monkeypatch.setattr(box, "sdf", counted)
    for error in (ERROR, np.inf):  # with inf, the radius of every place is asked for
        monkeypatch.setattr("dss.shell.cover.ERROR", error)
        counts.append(0)
        lloyd = _Lloyd(box, samples, medial, np.random.default_rng(0))
        results.append(lloyd.settle(lloyd.insert(20), 4))
    np.testing.assert_array_equal(*results)
    assert counts[0] < 0.7 * counts[1]


def test_a_region_knows_what_it_holds(box):
    samples, _ = surface_samples(box.vertices, box.faces, 5000)
    tree, ball = cKDTree(samples), np.array([0.1, 0.0, 0.0, 0.14])
    region, generator = _Region(tree, ball, 0.2), np.random.default_rng(0)
    within = []
    for step in np.linspace(0, 0.1, 20):
        ball[:3] = [0.1, 0.0, 0.0] + step * generator.standard_normal(3)  # in place, as balls move
        within.append(region.hold(ball, 0.19))
        if within[-1]:
            expected = np.linalg.norm(samples - ball[:3], axis=1) <= 0.19 + ROUNDING
            np.testing.assert_array_equal(np.sort(region.held), np.flatnonzero(expected))
            np.testing.assert_array_equal(region.held_points, samples[region.held])
    assert within[0] and not within[-1]
