"""Mending meshes where the configuration asks for it."""

import numpy as np
import pytest
import trimesh
import yaml

from dss.config import config_from_dict
from dss.errors import InputError
from dss.geometry.mesh import load_mesh
from dss.pipeline import fit_run
from dss.registry import PLUGINS
from dss.run import open_run

TINY = {
    "samples": {"method": "near", "count": 2000, "spread": 0.05},
    "field": {"method": "nglod", "lods": 1, "width": 8, "features": 2},
    "fit": {"epochs": 2, "resample": 2, "batch_size": 500, "lr": 3e-3, "band": 0},
}


@pytest.fixture
def sphere():
    return trimesh.creation.icosphere(3)


def volume(path, repair):
    """The enclosed volume in the file's units, of a mesh that is mended; and its report."""
    mesh = load_mesh(path, 0.9, repair)
    return trimesh.Trimesh(
        mesh.similarity.apply(mesh.vertices), mesh.faces, process=False
    ).volume, mesh.report


def written(tmp_path, *meshes):
    trimesh.util.concatenate(meshes).export(tmp_path / "mesh.ply")
    return tmp_path / "mesh.ply"


def test_holes_are_closed_only_where_asked_for(tmp_path, sphere):
    part = trimesh.Trimesh(sphere.vertices, sphere.faces[9:], process=False)
    path = written(tmp_path, part)
    assert load_mesh(path).report.boundary_edges > 0
    for repair in ("holes", "solid"):
        found, report = volume(path, repair)
        assert report.watertight and "holes closed" in str(report)
        assert found == pytest.approx(sphere.volume, rel=0.01)


def test_fins_are_removed_where_asked_for(tmp_path, sphere):
    a, b, _ = sphere.faces[0]
    vertices = np.vstack([sphere.vertices, 1.2 * sphere.vertices[a]])
    fin = [[b, a, len(sphere.vertices)]]
    path = written(tmp_path, trimesh.Trimesh(vertices, np.vstack([sphere.faces, fin])))
    assert load_mesh(path).report.nonmanifold_edges == 1
    found, report = volume(path, "holes")
    assert report.watertight and "fins removed" in str(report)
    assert found == pytest.approx(sphere.volume, rel=1e-6)


def test_bodies_are_united_with_their_voids(tmp_path, sphere):
    beside = sphere.copy().apply_translation([1, 0, 0])
    void = sphere.copy().apply_scale(0.5)
    void.invert()
    core = sphere.copy().apply_scale(0.25)
    path = written(tmp_path, sphere, beside, void, core)
    found, report = volume(path, "solid")
    assert report.watertight and "3 bodies with 1 voids united" in str(report)
    cap = np.pi * 0.5**2 * (3 - 0.5) / 3  # half of what the two balls share
    # The other ball fills a part of the void: what lies in any of the solids stays
    hidden = trimesh.boolean.difference([sphere.copy().apply_scale(0.5), beside]).volume
    expected = 2 * sphere.volume - 2 * cap - hidden + core.volume
    assert found == pytest.approx(expected, rel=0.01)
    assert volume(path, "holes")[0] > found  # which leaves the overlap


def test_what_does_not_close_is_named(tmp_path):
    ring = trimesh.creation.annulus(0.5, 1, 0.3)
    path = written(tmp_path, trimesh.Trimesh(ring.vertices, ring.faces[::3], process=False))
    for repair in ("holes", "solid"):
        try:
            report = load_mesh(path, 0.9, repair).report
        except InputError as error:
            assert "mesh.ply" in str(error)
        else:
            assert report.faces


def test_the_run_says_so_and_the_default_leaves_no_trace(tmp_path, sphere):
    part = trimesh.Trimesh(sphere.vertices, sphere.faces[9:], process=False)
    path = written(tmp_path, part)
    for repair in ("none", "holes"):
        tree = TINY | {"mesh": {"path": str(path), "repair": repair}}
        folder = tmp_path / repair
        fit_run(config_from_dict(tree, "test", PLUGINS), folder)
        run = open_run(folder)
        assert run.config.mesh.repair == repair
        assert run.load_mesh().report.watertight == (repair == "holes")
        saved = yaml.safe_load((folder / "config.yaml").read_text())["mesh"]
        assert saved.get("repair", "absent") == ("holes" if repair == "holes" else "absent")
        assert (b"repair" in (folder / "field.safetensors").read_bytes()) == (repair == "holes")


def test_clouds_are_not_repaired(tmp_path):
    points = np.random.default_rng(0).normal(size=(100, 3))
    np.savetxt(tmp_path / "cloud.xyz", np.hstack([points, points]))
    tree = {
        "mesh": {"path": str(tmp_path / "cloud.xyz"), "repair": "holes"},
        "samples": {"method": "oriented", "count": 4},
        "field": {"method": "deepsdf"},
    }
    with pytest.raises(InputError, match=r"mesh\.repair=holes: .*point cloud"):
        fit_run(config_from_dict(tree, "test", PLUGINS), tmp_path / "run")
