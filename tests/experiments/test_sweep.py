"""Many meshes with one configuration."""

import json
import sys
from functools import partial

import pytest
import yaml

from dss.evaluation.measure import measure_run
from dss.experiments.sweep import sweep
from dss.registry import load_config

TINY = {
    "samples": {"method": "near", "count": 2000, "spread": 0.05},
    "field": {"method": "nglod", "lods": 1, "width": 8, "features": 2},
    "fit": {"epochs": 2, "resample": 2, "batch_size": 500, "lr": 3e-3, "band": 0},
}


@pytest.fixture(autouse=True)
def coarse(monkeypatch, fewer_points):
    """Meshes of few faces, which is faster."""
    module = sys.modules["dss.experiments.sweep"]
    monkeypatch.setattr(module, "measure_run", partial(measure_run, resolution=32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, box):
    """A configuration, and three meshes of which bad.ply is none."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    box.export(folder / "one.ply")
    (folder / "bad.ply").write_text("ply\nnothing")
    box.export(folder / "two.ply")
    return folder


@pytest.fixture(scope="module")
def meshes(folder):
    return [folder / f"{name}.ply" for name in ("one", "bad", "two")]


def test_each_mesh_has_its_run_and_a_bad_one_says_why(folder, meshes):
    out, config = folder / "out", str(folder / "tiny.yaml")
    found = list(sweep(config, meshes, out))
    assert [result.data for result in found] == ["one", "bad", "two"]
    assert {result.method for result in found} == {"tiny"}
    assert found[1].row is None and "bad.ply" in found[1].reason
    for result in (found[0], found[2]):
        assert json.loads((out / result.data / "eval.json").read_text()) == result.row
        assert load_config(out / result.data / "config.yaml").mesh.path.endswith(".ply")
    before = (out / "one" / "field.safetensors").stat().st_mtime_ns
    again = list(sweep(config, meshes[:1], out))
    assert again[0].row == found[0].row
    assert (out / "one" / "field.safetensors").stat().st_mtime_ns == before


def test_the_script(folder, meshes, script):
    out, config = folder / "out", folder / "tiny.yaml"
    code, output, error = script("scripts.sweep", *meshes, "--config", config, "--out", out)
    assert code == 2 and not error, error
    lines = output.splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert names[2:] == ["one", "two", "mean"] and lines[-1] == "not fitted: bad"
    assert next(line for line in lines if line.startswith("refused   bad: ")).count("bad.ply")
    code, output, _ = script("scripts.sweep", meshes[0], "--config", config, "--out", out)
    assert code == 0 and "measured  one" in output and "| mean" not in output
