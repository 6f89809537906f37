"""The cover by medial balls: closed forms of the medial axis, the guarantees, and the paper's
thickness."""

import numpy as np
import pytest
import trimesh

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.shell.certify import build_shell, certify, solid
from dss.shell.cover import cover
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
