"""The synthetic collection."""

import csv
from collections import Counter

import numpy as np
import pytest
import trimesh

from dss.experiments.collection import DEFECTS, SHAPES, collection, make_collection
from dss.geometry.mesh import load_mesh


def test_shares_and_files(tmp_path, script):
    out, words = tmp_path / "all", ["--count", 26, "--defects"]
    code, output, error = script("scripts.make_collection", *words, "--out", out)
    assert code == 0 and not error
    with (out / "collection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["defect"] for row in rows) == dict.fromkeys(["none", *DEFECTS], 2)
    assert set(SHAPES) == {row["shape"] for row in rows}
    paths = (out / "meshes.txt").read_text().splitlines()
    assert len(paths) == 26 and f"--list {out / 'meshes.txt'}" in output
    assert {path.rpartition(".")[2] for path in paths} == {"ply", "stl", "obj", "off"}
    again = make_collection(tmp_path / "again", 3, 0, True)
    for path in again:
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert script("scripts.make_collection", "--seed", -1, "--out", out).code == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_solids(tmp_path, shape):
    item = {item.shape: item for item in collection(len(SHAPES), 1, False)}[shape]
    path = tmp_path / f"{item.name}.{item.suffix}"
    path.write_bytes(item.content)
    mesh = load_mesh(path)
    assert mesh.report.watertight and item.defect == "none"
    assert not any("turned" in repair for repair in mesh.report.repairs)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).volume > 0


def loaded(tmp_path, defect):
    item = {item.defect: item for item in collection(1 + len(DEFECTS), 0, True)}[defect]
    path = tmp_path / f"{item.name}.{item.suffix}"
    path.write_bytes(item.content)
    return item, load_mesh(path)


@pytest.mark.parametrize(
    ("defect", "sign"),
    [
        ("holes", lambda report: report.boundary_edges > 2),
        ("bodies", lambda report: report.bodies > 1),
        ("overlap", lambda report: report.bodies > 1),
        ("inverted", lambda report: "inside out, so turned" in report.repairs),
        ("inconsistent", lambda report: "agree with their neighbours" in str(report)),
        ("nonmanifold", lambda report: report.nonmanifold_edges > 0),
    ],
)
def test_defects_are_there(tmp_path, defect, sign):
    assert sign(loaded(tmp_path, defect)[1].report)


def test_slivers_and_scales(tmp_path):
    _, mesh = loaded(tmp_path, "slivers")
    sides = mesh.vertices[mesh.faces] - np.roll(mesh.vertices[mesh.faces], 1, 1)
    lengths = np.linalg.norm(sides, axis=2)
    assert np.mean(lengths.max(1) > 1000 * lengths.min(1)) > 0.05
    box, generator = trimesh.creation.box(), np.random.default_rng(0)
    factors = [DEFECTS["scale"](box, generator)[1] for _ in range(100)]
    assert 1e-6 < min(factors) < 1e-5 and 1e5 < max(factors) < 1e6
