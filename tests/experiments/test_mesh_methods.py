"""The methods of a table, one by one."""

import pytest
import torch

from dss.errors import InputError
from dss.experiments.compare import EvalSettings, measure
from dss.experiments.mesh_methods import Draco, find, frame_row
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


def test_a_frame_takes_time(ball_run, box):
    field, mesh = open_run(ball_run).field, MeshDistance(box.vertices, box.faces)
    assert frame_row(field, 16)["frame_ms"] > 0 and frame_row(mesh, 16)["frame_ms"] > 0


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
