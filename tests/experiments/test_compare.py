"""compare.py: the table of a comparison, resuming, and what it refuses; on meshes that take seconds."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dss.config import load_config
from dss.errors import InputError
from dss.experiments import compare as comparison
from dss.experiments import presets
from dss.experiments.compare import Draco, Fitted, Request, Truth, chosen, measure, summary, table
from dss.geometry.mesh import load_mesh
from scripts import compare
from tests.evaluation.test_geometry import fewer_points  # noqa: F401, a fixture

CPU = torch.device("cpu")
BRIEF = ("samples.count=20000", "fit.epochs=4", "fit.resample=4", "fit.batch=500", "fit.rate=3e-3", "fit.checkpoint=100",
         "field.width=16", "field.features=4")  # fmt: skip
REQUEST = Request(resolution=32, views=1, size=32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory, box, cache):
    path = tmp_path_factory.mktemp("meshes") / "box.ply"
    box.export(path)
    return path


@pytest.fixture
def brief(monkeypatch, fewer_points):  # noqa: F811
    """A preset of one fit, one code and one published row."""
    preset = presets.Preset(
        ("box",), (Fitted("small", "nglod_2", BRIEF), Draco("Draco, 11 bits", 11)), REQUEST, "A note.",
        published={"small": comparison.Published("NGLOD-2", 100, 2e-5, 0.9)},
    )  # fmt: skip
    monkeypatch.setitem(presets.PRESETS, "brief", preset)


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--device", "cpu", *map(str, arguments)])
    compare.main()


def test_a_comparison_end_to_end_and_again(brief, path, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    call(monkeypatch, "--preset", "brief", "--meshes", path, "--out", out)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert names[2:] == ["ground truth", "small", "NGLOD-2, published", "Draco, 11 bits"] and "A note." in lines
    truth, small, draco = (json.loads((out / name / "box" / "comparison.json").read_text())["row"]
                           for name in ("ground_truth", "small", "Draco,_11_bits"))  # fmt: skip
    assert truth["chamfer_excess"] == 0 and truth["surface_max"] < 1e-9 and truth["ssim_paper"] == truth["ssim_surface"] == 1
    assert small["bytes"] < small["file_bytes"] and small["samples"] == 80_000 and small["fit_seconds"] > 0 and small["frame_ms"] > 0
    assert draco["bytes"] == draco["file_bytes"] and draco["surface_mean"] < 1e-3 < small["surface_mean"] < 0.1
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mesh"] for row in rows] == ["box"] * 3 + ["mean"] * 4 and float(rows[1]["bytes"]) == small["bytes"]
    assert {row["method"] for row in json.loads((out / "table.json").read_text())} == set(names[2:])
    assert (out / "table.md").read_text().splitlines()[0] == lines[0]
    assert (out / "rate_distortion.png").stat().st_size > 10_000 and (out / "rate_distortion.svg").read_text().count("Draco, 11 bits") == 2

    monkeypatch.setattr(comparison, "evaluate", None)  # whoever measures again fails
    monkeypatch.setattr(compare, "plot", lambda *_: None)
    call(monkeypatch, "--preset", "brief", "--meshes", path, "--out", out)
    assert capsys.readouterr().out.splitlines() == lines


def test_another_question_is_measured_again(path, tmp_path, fewer_points):  # noqa: F811
    first = measure(Truth(), path, tmp_path, REQUEST, CPU)
    assert measure(Truth(), path, tmp_path, REQUEST, CPU) == first
    measure(Truth(), path, tmp_path, replace(REQUEST, size=40), CPU)
    assert json.loads((tmp_path / "comparison.json").read_text())["asked"]["size"] == 40


def test_a_fit_that_fails_is_named_and_the_others_go_on(brief, path, tmp_path, monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 2, "", "a warning\nerror: field.lods=20: too many\n")
    monkeypatch.setattr(comparison.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(compare, "plot", lambda *_: None)
    call(monkeypatch, "--preset", "brief", "--meshes", path, "--out", tmp_path / "out")
    out = capsys.readouterr().out
    assert "| Draco, 11 bits" in out and "| small" not in out and "Not measured: small, box.ply: field.lods=20: too many" in out


def test_means_say_how_many_meshes_they_are_of():
    done = [("a", "one", {"bytes": 1024, "iou_uniform": 0.5}), ("a", "two", {"bytes": 3072, "iou_uniform": 0.7})]
    done += [("b", "one", {"bytes": 1})]
    means = summary(done, {"a": comparison.Published("A", 3)})
    assert means == {"a": {"bytes": 2048, "iou_uniform": 0.6}, "A, published": {"bytes": 3072}, "b (1 of 2 meshes)": {"bytes": 1}}
    lines = table(means).splitlines()
    assert len(lines) == 5 and lines[2].split("|")[2:4] == [" 2.0 ", " 0.6000 "] and lines[3].split("|")[3].strip() == ""


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_presets_name_what_is_there(preset):
    preset = presets.PRESETS[preset]
    for entry in preset.entries:
        if isinstance(entry, Fitted):
            load_config(comparison.ROOT / "configs" / f"{entry.config or entry.name}.yaml", list(entry.overrides))
    names = {entry.name for entry in preset.entries}
    assert len(names) == len(preset.entries)
    assert set(preset.published or {}) <= names and {name for part in (preset.tables or {}).values() for name in part} <= names


def test_the_paper_s_tables_are_beside_ours():
    published = presets.PAPER.published
    assert published["dss_2x128"].row() == {"bytes": 189 * 1024, "chamfer": 2.53e-5, "ssim_paper": 0.978, "thickness_mean": 0.0344}
    assert published["nglod_5"].row() == {"bytes": 2446 * 1024, "chamfer": 2.71e-5, "ssim_paper": 0.988}
    assert len(published) == 10


def test_methods_by_name():
    entries = presets.QUICK.entries
    assert [entry.name for entry in chosen(["nglod_2", "Draco, 11 bits"], entries)] == ["nglod_2", "Draco, 11 bits"]
    assert chosen(["nglod_5"], entries) == [Fitted("nglod_5")]  # of configs/, at full length
    with pytest.raises(InputError, match="no such method; did you mean nglod_2"):
        chosen(["ngold_2"], entries)
    with pytest.raises(InputError, match="--methods neus: no such method"):  # it is not of meshes
        chosen(["neus"], entries)


def test_simplified_draco_keeps_its_share(path, tmp_path, ball, fewer_points):  # noqa: F811
    ball.export(tmp_path / "ball.ply")
    row = measure(Draco("quarter", 11, 0.25), tmp_path / "ball.ply", tmp_path / "quarter", REQUEST, CPU)
    assert row["faces"] == len(load_mesh(tmp_path / "ball.ply").faces) // 4
    assert row["file_bytes"] == (tmp_path / "quarter" / "mesh.drc").stat().st_size


def test_bad_input(tmp_path, monkeypatch):
    monkeypatch.delenv("DSS_DATA", raising=False)
    for arguments, message in (
        (["--preset", "quik"], "--preset quik: no such preset; did you mean quick"),
        (["--methods", "fst"], "--methods fst: no such method; did you mean fast"),
        ([], "53159: no such file, and no folder of data sets"),
        (["--data", tmp_path], "53159.ply: not there"),
        (["--views", "0"], "--views 0"),
    ):
        with pytest.raises(InputError, match=message):
            call(monkeypatch, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
