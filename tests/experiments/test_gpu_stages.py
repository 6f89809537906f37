"""Everything that is measured on a GPU runs, here on a CPU, and ends in docs/results.md."""

import json
import shutil
from pathlib import Path

import pytest

from dss.errors import InputError
from dss.experiments import gpu_report, gpu_stages, stages

DOCS = Path(__file__).parents[2] / "docs"


def test_a_bare_machine_measures_frames_and_a_complete_one_goes_on(inputs, tmp_path, bare, script):
    out = tmp_path / "gpu.json"
    arguments = inputs, "--out", out, "--quick"
    ran = bare("measure_gpu.py", *arguments)
    assert ran.returncode == 0, ran.stderr
    first = json.loads(out.read_text())["stages"]
    assert list(first) == [stage.name for stage in gpu_stages.STAGES]
    assert len(first["parity"]["rows"]) > 60 and len(first["frames"]["rows"]) == 1
    assert "skipped: no pydantic, yaml" in first["fits"]["reason"]
    assert "trimesh" in first["tables"]["reason"]

    code, _, error = script("scripts.measure_gpu", *arguments, "--device", "cpu")
    assert code == 0, error
    measured = stages.known(out)
    second = measured["stages"]
    assert second["frames"]["rows"] == first["frames"]["rows"]
    assert not any(stage["failed"] for stage in second.values()), second
    (frame,), (fit,), (mesh,), (row,) = (
        second[name]["rows"].values() for name in ("frames", "fits", "meshing", "tables")
    )
    assert frame["total"] > 0 and frame["spread"] >= 0 and frame["hits"] > 100
    assert frame["depth_error"] < 0.1 and frame["wrong_hits"] < 0.1
    assert fit["reached"] == 1 and fit["error"] == pytest.approx(fit["cpu_error"], rel=0.05)
    assert fit["seconds"] > 0 and fit["epochs"] == 2 and mesh["faces"] > 500
    assert row["chamfer"] > 0 and row["frame_ms"] > 0
    assert "no photos" in second["photos"]["reason"] and "CUDA" in second["sanitizer"]["reason"]

    text = gpu_report.section(measured)
    parity = len(second["parity"]["rows"])
    assert f"Operators against a CPU's results: {parity} of {parity} right." in text
    assert "Machine: device CPU, quick, torch" in text and "| fast, 32x32, 32 bits |" in text
    assert "compute-sanitizer: not measured (skipped" in text


def test_inputs_that_lack_something(inputs, tmp_path):
    shutil.copy(inputs / "fields.npz", tmp_path)
    found = gpu_stages.Inputs(tmp_path, "cpu")
    with pytest.raises(InputError, match="no samples here"):
        found.run("fast")
    with pytest.raises(InputError, match="holds no mesh"):
        _ = found.mesh
    with pytest.raises(InputError, match=r"fields.npz: no recorded results"):
        gpu_stages.Inputs(tmp_path / "none", "cpu")


def test_nothing_measured_says_so():
    text = gpu_report.section(None)
    assert text.lower().count("not measured") == 3 + len(gpu_report.TABLES)
    faulty = {"parity": {"rows": {"a": {"fault": ""}, "b": {"fault": "wrong"}}, "failed": {}}}
    assert "1 of 2 right; b: wrong." in gpu_report.section({"about": {"d": "e"}, "stages": faulty})


def test_the_document_holds_what_was_measured():
    text = (DOCS.parent / "docs/results.md").read_text("utf-8")
    section = gpu_report.section(stages.known(DOCS / "gpu.json"))
    assert gpu_report.replaced(text, section) == text and section in text
    changed = gpu_report.replaced(text, gpu_report.HEADING + "\n\nnew\n")
    assert changed.replace(gpu_report.HEADING + "\n\nnew\n", section) == text
