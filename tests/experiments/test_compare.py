"""The comparison engine, and scripts/compare.py end to end on meshes that take seconds."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from dss.errors import InputError
from dss.experiments import mesh_methods, presets
from dss.experiments.compare import (
    EvalSettings,
    Result,
    chosen,
    means,
    measure,
    results,
    save,
    titled,
)
from dss.experiments.mesh_methods import COLUMNS, Draco, Fitted, Published, Truth, with_published
from dss.experiments.presets import PRESETS
from dss.tables import Column, spread_of
from scripts import compare

CPU = torch.device("cpu")
BRIEF = (
    "samples.count=20000",
    "fit.epochs=4",
    "fit.resample=4",
    "fit.batch_size=500",
    "fit.lr=3e-3",
    "fit.checkpoint=100",
    "field.width=16",
    "field.features=4",
)
SETTINGS = EvalSettings(resolution=32, views=1, size=32)


@dataclass(frozen=True)
class Counting:
    """An entry that measures how often it was asked, and fails on meshes that are named so."""

    name: str
    asked: tuple[list, ...] = ([],)

    def measure(self, path, folder, settings, device):
        if path.stem == "bad":
            raise InputError("bad: cannot be fitted")
        self.asked[0].append((path, settings))
        return {"count": len(self.asked[0]), "inf": float("inf")}

    def __repr__(self) -> str:
        return self.name


@pytest.fixture
def path(tmp_path, box, cache):
    path = tmp_path / "box.ply"
    box.export(path)
    return path


def brief_tables(measured: list[Result]) -> dict[str, dict[str, dict[str, float]]]:
    published = {"small": Published("NGLOD-2", 100, 2e-5, 0.9)}
    return {"": with_published(means(measured), published)}


@pytest.fixture
def brief(monkeypatch, fewer_points):
    """A preset of one fit, one code and one published row."""
    preset = replace(
        presets.QUICK,
        data=("box",),
        entries=(Fitted("small", "nglod_2", BRIEF), Draco("Draco, 11 bits", 11)),
        settings=SETTINGS,
        note="A note.",
        tabulate=brief_tables,
    )
    monkeypatch.setitem(PRESETS, "brief", preset)


def test_a_comparison_end_to_end_and_again(brief, path, tmp_path, monkeypatch, script):
    out = tmp_path / "out"
    command = ["scripts.compare", "--preset", "brief", "--meshes", path, "--out", out]
    code, output, error = script(*command)
    assert code == 0, error
    lines = output.splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert names[2:] == ["ground truth", "small", "NGLOD-2, published", "Draco, 11 bits"]
    assert "A note." in lines
    truth, small, draco = (
        json.loads((out / name / "box" / "comparison.json").read_text())["row"]
        for name in ("ground_truth", "small", "Draco,_11_bits")
    )
    assert truth["chamfer_excess"] == 0 and truth["surface_max"] < 1e-9
    assert truth["ssim_paper"] == truth["ssim_surface"] == 1
    assert small["bytes"] < small["file_bytes"] and small["samples"] == 79_200
    assert small["fit_seconds"] > 0 and small["frame_ms"] > 0 and small["parameters"] > 0
    assert draco["bytes"] == draco["file_bytes"]
    assert draco["surface_mean"] < 1e-3 < small["surface_mean"] < 0.1
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["data"] for row in rows] == ["box"] * 3 + ["mean"] * 4
    assert float(rows[1]["bytes"]) == small["bytes"]
    stored = json.loads((out / "table.json").read_text())
    assert {row["method"] for row in stored} == set(names[2:])
    assert (out / "table.md").read_text().splitlines()[0] == lines[0]
    assert (out / "rate_distortion.png").stat().st_size > 10_000
    assert (out / "rate_distortion.svg").read_text().count("Draco, 11 bits") == 2

    monkeypatch.setattr(mesh_methods, "evaluate", None)  # whoever measures again fails
    monkeypatch.setattr(compare, "plot_rate_distortion", lambda *_: "plot")
    code, output, error = script(*command)
    assert code == 0, error
    assert output.splitlines()[:-1] == lines[:-1]


def test_named_methods_make_one_table_without_the_preset_s_note(
    brief, path, tmp_path, script, monkeypatch
):
    monkeypatch.setattr(compare, "plot_rate_distortion", lambda *_: "plot")
    names = ["--methods", "Draco, 11 bits", "--meshes", path, "--out", tmp_path / "out"]
    code, output, error = script("scripts.compare", "--preset", "brief", *names)
    assert code == 0, error
    assert "NGLOD-2" not in output and "A note." not in output and "| ground truth" in output
    assert "Standard deviation" not in output  # there is one mesh


def test_the_spread_over_meshes():
    measured = [
        Result("fast", name, {"chamfer": value}) for name, value in (("a", 1.0), ("b", 3.0))
    ]
    assert means(measured) == {"fast": {"chamfer": 2.0}}
    assert means(measured, spread_of) == {"fast": {"chamfer": pytest.approx(2**0.5)}}


def test_what_was_measured_is_not_measured_again(tmp_path):
    entry = Counting("entry", ([],))
    first = measure(entry, Path("a.ply"), tmp_path, SETTINGS, CPU)
    assert measure(entry, Path("a.ply"), tmp_path, SETTINGS, CPU) == first
    assert first == {"count": 1, "inf": float("inf")}
    for changed in (
        (entry, Path("a.ply"), tmp_path, replace(SETTINGS, size=40), CPU),
        (entry, Path("b.ply"), tmp_path, SETTINGS, CPU),
        (replace(entry, name="changed"), Path("b.ply"), tmp_path, SETTINGS, CPU),
    ):
        before = len(entry.asked[0])
        assert measure(*changed)["count"] == before + 1
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored["cache_key"]["entry"] == "changed" and stored["cache_key"]["size"] == 32


def test_another_question_is_measured_again(path, tmp_path, fewer_points):
    first = measure(Truth(), path, tmp_path, SETTINGS, CPU)
    assert measure(Truth(), path, tmp_path, SETTINGS, CPU) == first
    measure(Truth(), path, tmp_path, replace(SETTINGS, size=40), CPU)
    assert json.loads((tmp_path / "comparison.json").read_text())["cache_key"]["size"] == 40


def test_a_method_that_fails_does_not_stop_the_others(tmp_path):
    entries = [Counting("first one", ([],)), Counting("second", ([],))]
    paths = [Path("bad.ply"), Path("good.ply")]
    found = list(results(entries, paths, tmp_path, SETTINGS, CPU))
    assert [(item.method, item.data, item.row is None) for item in found] == [
        ("first one", "bad", True),
        ("second", "bad", True),
        ("first one", "good", False),
        ("second", "good", False),
    ]
    assert found[0].reason == "bad: cannot be fitted"
    assert (tmp_path / "first_one" / "good" / "comparison.json").is_file()


def test_a_fit_that_fails_is_named_and_the_others_go_on(brief, path, tmp_path, monkeypatch, script):
    entries = (Fitted("small", "nglod_2", (*BRIEF, "field.lods=20")), Draco("Draco, 11 bits", 11))
    monkeypatch.setitem(PRESETS, "brief", replace(PRESETS["brief"], entries=entries))
    monkeypatch.setattr(compare, "plot_rate_distortion", lambda *_: "plot")
    arguments = ["--preset", "brief", "--meshes", path, "--out", tmp_path / "out"]
    code, out, _ = script("scripts.compare", *arguments)
    assert code == 0 and "| Draco, 11 bits" in out and "| small" not in out
    assert "Not measured: small, box: field.lods=20" in out


def test_means_say_how_many_meshes_they_are_of():
    measured = [
        Result("a", "one", {"bytes": 1024, "iou_uniform": 0.5}),
        Result("a", "two", {"bytes": 3072, "iou_uniform": 0.7}),
        Result("b", "one", {"bytes": 1}),
    ]
    rows = with_published(means(measured), {"a": Published("A", 3), "b": Published("B", 4)})
    assert list(rows) == ["a", "A, published", "b (1 of 2 meshes)", "B, published"]
    assert rows["a"] == {"bytes": 2048, "iou_uniform": pytest.approx(0.6)}
    assert rows["A, published"] == {"bytes": 3072} and rows["b (1 of 2 meshes)"] == {"bytes": 1}
    del rows["B, published"]
    lines = titled("", rows, COLUMNS).splitlines()
    assert len(lines) == 5 and "iou" not in lines[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["", "KiB", "IoU"] and cells[2] == ["a", "2.0", "0.6000"]
    assert cells[3] == ["A, published", "3.0", ""]


def test_a_title_stands_above_its_table():
    text = titled("Table I", {"a": {"x": 0.5}}, [Column("x", "X", ".1%")])
    lines = text.splitlines()
    assert lines[:2] == ["**Table I**", ""] and "50.0%" in lines[4]


def test_what_is_saved(tmp_path):
    measured = [Result("a", "one", {"bytes": 1024, "other": 3})]
    save(tmp_path, measured, {"a": {"bytes": 1024}}, COLUMNS[:1], "the text")
    assert (tmp_path / "table.md").read_text() == "the text\n"
    assert json.loads((tmp_path / "table.json").read_text()) == [
        {"method": "a", "data": "one", "bytes": 1024, "other": 3},
        {"method": "a", "data": "mean", "bytes": 1024},
    ]
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["method"] == "a" and rows[1]["data"] == "mean" and rows[1]["bytes"] == "1024"


def test_methods_by_name():
    known = {entry.name: entry for entry in presets.QUICK.entries}
    known = presets.QUICK.others() | known
    names = [entry.name for entry in chosen(["nglod_2", "Draco, 11 bits"], known)]
    assert names == ["nglod_2", "Draco, 11 bits"]
    assert chosen(["nglod_5"], known) == [Fitted("nglod_5")]  # of configs/, at full length
    with pytest.raises(InputError, match="no such method; did you mean nglod_2"):
        chosen(["ngold_2"], known)
    with pytest.raises(InputError, match="--methods neus: no such method"):  # it is not of meshes
        chosen(["neus"], known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "fst"], "--methods fst: no such method; did you mean fast"),
        ([], "53159: no such file, and no folder of data sets"),
        (["--data", "."], "53159.ply: not there"),
        (["--views", "0"], "--views 0"),
        (["--preset", "photos", "--views", "3"], "--views: does not apply to the preset photos"),
        (["--preset", "photos", "--size", "64"], "--size: does not apply to the preset photos"),
        (["--preset", "photos", "--data", "."], "chair_400: not there"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, script, arguments, message):
    monkeypatch.delenv("DSS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, error = script("scripts.compare", *arguments, "--out", tmp_path / "out")
    assert code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_preset_is_refused(script):
    code, _, error = script("scripts.compare", "--preset", "quik")
    assert code == 2 and "invalid choice: 'quik'" in error and "quick" in error
