"""The methods of a table, one by one."""

import json

import pytest
import torch

from dss.errors import InputError
from dss.experiments.compare import EvalSettings, measure
from dss.experiments.mesh_methods import (
    Draco,
    Fitted,
    TunedDraco,
    find,
    frame_times,
    query_us,
)
from dss.fields import build
from dss.fields.neural_implicit import NeuralImplicitSettings
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.run import open_run

CPU = torch.device("cpu")


def test_simplified_draco_keeps_its_share(tmp_path, ball, fewer_points, cache):
    ball.export(tmp_path / "ball.ply")
    settings = EvalSettings(resolution=32, views=1, size=32)
    entry, folder = Draco("quarter", 11, 0.25), tmp_path / "quarter"
    row = measure(entry, tmp_path / "ball.ply", folder, settings, CPU)
    assert row["faces"] == len(load_mesh(tmp_path / "ball.ply").faces) // 4
    assert row["file_bytes"] == (folder / "mesh.drc").stat().st_size
    assert row["fit_seconds"] > 0 and 0.9 < row["mask_iou_paper"] <= 1


def test_a_frame_is_timed_like_with_like(ball_run, box):
    """Compiled times only where all is compiled, eager ones of every field, queries beside each."""
    shelled, mesh = open_run(ball_run).field, MeshDistance(box.vertices, box.faces)
    plain = build(NeuralImplicitSettings(layers=1, width=8), {})
    compiled, eager = {"frame_ms", "queries"}, {"eager_ms", "eager_queries"}
    row = frame_times(shelled, 16)
    assert row.keys() == compiled | eager and min(row.values()) > 0
    assert frame_times(plain, 16).keys() == eager and frame_times(mesh, 16).keys() == {"frame_ms"}


@pytest.mark.parametrize("refined", [False, True])
def test_the_tuned_control(tmp_path, ball, fewer_points, cache, monkeypatch, refined):
    monkeypatch.setattr("dss.geometry.mesh_codecs.SAMPLES", 2000)
    monkeypatch.setattr("dss.geometry.mesh_codecs.TUNED_BITS", (10,))
    ball.export(tmp_path / "ball.ply")
    settings = EvalSettings(resolution=32, views=1, size=32)
    entry = TunedDraco("tuned", 800, refined)
    row = measure(entry, tmp_path / "ball.ply", tmp_path / "tuned", settings, CPU)
    assert row["bytes"] == row["file_bytes"] == pytest.approx(800, rel=0.1)
    faces = row["faces"]
    assert row["resident_bytes"] == 12 * (faces / 2 + 2) + 12 * faces + 24 * (2 * faces - 1)
    assert row["query_us"] > 0


def test_a_coded_field_has_the_bytes_of_its_file(tmp_path, ball, fewer_points, cache):
    ball.export(tmp_path / "ball.ply")
    small = ("spheres.method=farthest", "spheres.resolution=32", "spheres.count=8")
    small += ("samples.count=4000", "fit.epochs=10", "fit.resample=10")
    entry, folder = Fitted("small", "compact_shell_4k", small), tmp_path / "small"
    settings = EvalSettings(resolution=32, views=1, size=32)
    row = measure(entry, tmp_path / "ball.ply", folder, settings, CPU)
    stored = (folder / "field.dss").stat().st_size
    assert row["bytes"] == row["file_bytes"] == stored
    field = open_run(folder).field
    assert row["resident_bytes"] == field.resident_bytes() > 4 * row["parameters"] > stored
    assert query_us(field, load_mesh(tmp_path / "ball.ply")) > 0


def test_data_is_a_file_or_a_name_in_the_folder_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thingi32").mkdir()
    known = tmp_path / "thingi32" / "53159.ply"
    known.touch()
    assert find(str(known), None, "nowhere/{}") == known
    assert find("53159", tmp_path, "thingi32/{}.ply") == known
    with pytest.raises(InputError, match=r"thingi32/1\.ply: not there; name others"):
        find("1", tmp_path, "thingi32/{}.ply")
    with pytest.raises(InputError, match="1: no such file, and no folder of data sets; name it"):
        find("1", None, "thingi32/{}.ply")


def test_samples_held_out_do_not_count_whatever_an_old_file_says(tmp_path, ball):
    ball.export(tmp_path / "ball.ply")
    tiny = "samples.count=1000 field.width=4 field.layers=1 fit.epochs=2 fit.resample=1"
    entry = Fitted("tiny", "neural_implicit_8x32", (*tiny.split(), "fit.holdout=0.25"))
    folder = tmp_path / "run"
    for known in (None, {"samples": 2000}):
        if known:
            (folder / "fit.json").write_text(json.dumps(known))
        made = entry.make(tmp_path / "ball.ply", None, folder, CPU)
        assert made.facts["samples"] == 2 * 750 and made.facts["parameters"] == 3 * 4 + 4 + 4 + 1
