"""Many meshes with one configuration."""

import csv
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from dss.experiments.collection import DEFECTS, REFUSED, collection
from dss.experiments.mesh_process import Job, work_on
from dss.experiments.status import FITTED, read_status
from dss.registry import load_config

TINY = {
    "samples": {"method": "near", "count": 5000, "spread": 0.05},
    "field": {"method": "nglod", "lods": 1, "width": 8, "features": 2},
    "fit": {"epochs": 10, "resample": 10, "batch_size": 500, "lr": 1e-2, "band": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, box):
    """A configuration, and two meshes of which bad.ply is none."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    box.export(folder / "one.ply")
    (folder / "bad.ply").write_text("ply\nnothing")
    (folder / "meshes.txt").write_text(f"{folder / 'bad.ply'}\n\n")
    return folder


def job_of(folder, mesh) -> Job:
    config = load_config(folder / "tiny.yaml").model_dump()
    job = Job(mesh.stem, str(mesh), config, str(folder / "out"), str(folder), "cpu", 32)
    job.work.mkdir(parents=True, exist_ok=True)
    return job


def test_the_script(folder, script):
    """Its processes measure as many points as usual, so it has one mesh only."""
    out, config = folder / "swept", folder / "tiny.yaml"
    words = ["scripts.sweep", folder / "one.ply", "--list", folder / "meshes.txt", "--config"]
    words += [config, "--out", out, "--resolution", 32, "--device", "cpu"]
    code, output, error = script(*words)
    assert code == 2 and not error, error
    lines = output.splitlines()
    assert lines[-2] == "ok 1, refused 1" and lines[-1] == f"next: look at {out / 'status.csv'}"
    refused = next(line for line in lines if line.startswith("refused   bad ("))
    assert " of 2, " in refused and "minutes left) " in refused and "bad.ply: not a read" in refused
    assert any(line.startswith("| one ") for line in lines)
    found = {outcome.mesh: outcome for outcome in read_status(out)}
    one = found["one"]
    assert json.loads((out / "one" / "eval.json").read_text()) == one.metrics
    assert one.metrics["surface_mean_to_truth"] > 0 and one.metrics["interior_share"] == 0
    assert {"mesh", "samples", "fit", "field", "measure"} <= one.stages.keys()
    assert one.seconds >= sum(one.stages.values()) - 0.1 > found["bad"].seconds > 0
    assert one.peak_memory > 1e8 and one.host and one.about.startswith("12 faces")
    assert not list((out / ".work").iterdir()) and list((out / "log").iterdir())
    with (out / "status.csv").open() as file:
        table = {row["mesh"]: row for row in csv.DictReader(file)}
    assert float(table["one"]["chamfer"]) == one.metrics["chamfer"]
    assert table["bad"]["status"] == "refused" and table["bad"]["chamfer"] == ""

    before = (out / "one" / "field.safetensors").stat().st_mtime_ns
    code, output, _ = script(*words)
    assert code == 2 and output.splitlines()[-2] == "ok 1, refused 1" and "of 2" not in output
    assert (out / "one" / "field.safetensors").stat().st_mtime_ns == before
    code, _, error = script(*words, "--set", "fit.epochs=3")
    assert code == 2 and "another configuration" in error
    code, _, error = script(*words, "--time-limit", "-1")
    assert code == 2 and "--time-limit: invalid positive float value" in error


def test_what_is_there_is_not_made_again(folder, fewer_points):
    job = job_of(folder, folder / "one.ply")
    first = work_on(job)
    field = folder / "out" / "one" / "field.safetensors"
    before = field.stat().st_mtime_ns
    again = work_on(job, 2)
    assert first.status == "ok" and again.metrics == first.metrics and again.attempts == 2
    assert field.stat().st_mtime_ns == before and again.seconds > first.seconds


def test_memory_that_is_not_there(folder, monkeypatch):
    def fit_run(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr("dss.pipeline.fit_run", fit_run)
    outcome = work_on(job_of(folder, folder / "one.ply"))
    assert outcome.status == "out_of_memory" and "9 TB" in outcome.reason
    full = replace(job_of(folder, folder / "one.ply"), device="cpu")
    monkeypatch.setattr("dss.pipeline.fit_run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work_on(full)


@functools.cache
def items():
    return {item.defect: item for item in collection(1 + len(DEFECTS), 0, True)}


@pytest.mark.parametrize("defect", ["none", *DEFECTS])
def test_every_defect_has_its_status(tmp_path, monkeypatch, defect):
    monkeypatch.setattr("dss.evaluation.geometry.SAMPLES", 1 << 12)
    monkeypatch.setattr("dss.evaluation.geometry.UNIFORM", 1 << 13)
    picture = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr("dss.pipeline._thumbnail", lambda field: picture)
    item = items()[defect]
    mesh = tmp_path / f"{item.name}.{item.suffix}"
    mesh.write_bytes(item.content)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    outcome = work_on(job_of(tmp_path, mesh))
    assert (outcome.status == "refused") == (defect in REFUSED), outcome
    if defect in REFUSED:
        assert mesh.name in outcome.reason and not outcome.metrics
    else:
        assert outcome.status in FITTED and outcome.metrics["surface_mean_from_truth"] > 0
    if defect in ("overlap", "internal"):
        assert outcome.metrics["interior_share"] > 0.02
