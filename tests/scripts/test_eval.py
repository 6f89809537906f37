"""eval.py as a user calls it, on runs whose fields are known."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dss.config import Config, MeshConfig
from dss.errors import InputError
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.geometry.mesh import load_mesh
from dss.run import Source, open_folder, save_field
from dss.shell.dual_shell import DualShell
from tests.evaluation.test_geometry import KEYS, fewer_points  # noqa: F401, a fixture for all tests here

ROOT = Path(__file__).resolve().parents[2]
CENTER, SIZE = np.array([500.0, -20.0, 3.0]), 40.0


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("eval_script", ROOT / "eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mesh_path(tmp_path, ball):
    """A ball of radius SIZE about CENTER."""
    ball = ball.copy()
    ball.apply_transform(trimesh.transformations.scale_and_translate(SIZE / 0.9, CENTER))
    ball.export(tmp_path / "ball.obj")
    return tmp_path / "ball.obj"


@pytest.fixture
def run(tmp_path, mesh_path):
    """A function that makes the run of a field whose surface is the sphere of a given radius in normalised units."""

    def make(name, radius):
        config = Config(mesh=MeshConfig(str(mesh_path)), field=DualShellSettings(width=8, latent=2, output="radial"))
        field = build(config.field, DualShell(torch.zeros(1, 3), torch.tensor([radius - 0.06]), torch.tensor([radius + 0.06])).geometry)
        for parameter in field.mlp.parameters():
            torch.nn.init.zeros_(parameter)  # a radial field then answers with its middle sphere
        mesh = load_mesh(mesh_path)
        open_folder(tmp_path / name, config)
        save_field(tmp_path / name, field, config, Source(str(mesh_path), mesh.sha256, tuple(mesh.center), mesh.scale))
        return tmp_path / name

    return make


def call(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval.py", "--device", "cpu", *map(str, arguments)])
    script.main()


def test_one_run(script, run, tmp_path, monkeypatch, capsys):
    folder = run("exact", 0.9)
    call(script, monkeypatch, folder, "--resolution", 64, "--export", tmp_path / "out.ply")
    result = json.loads((folder / "eval.json").read_text())
    assert result.keys() >= KEYS
    assert result["surface_max"] < 2e-3 and result["iou_uniform"] > 0.99 and result["watertight"] is True and result["bodies"] == 1
    assert result["bytes"] == sum(result["bytes_parts"].values()) < result["file_bytes"] == (folder / "field.safetensors").stat().st_size
    assert result["thickness_mean"] == pytest.approx(0.12)
    exported = trimesh.load(tmp_path / "out.ply")
    assert exported.is_watertight and exported.volume > 0
    assert np.abs(np.linalg.norm(exported.vertices - CENTER, axis=1) - SIZE).max() < 1e-3 * SIZE
    assert capsys.readouterr().out.splitlines()[-1] == f"next: look at {tmp_path / 'out.ply'}"


def test_several_runs_and_their_mean(script, run, tmp_path, monkeypatch, capsys):
    folders = [run("exact", 0.9), run("small", 0.8)]
    call(script, monkeypatch, *folders, "--resolution", 64, "--json", tmp_path / "all.json")
    together = json.loads((tmp_path / "all.json").read_text())
    single = [json.loads((folder / "eval.json").read_text()) for folder in folders]
    assert list(together["runs"].values()) == single
    assert single[1]["surface_mean"] == pytest.approx(0.1, rel=0.01)
    for key in KEYS:
        assert together[key] == pytest.approx((single[0][key] + single[1][key]) / 2)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 + 3 + 1 and out[4].startswith("| mean ") and out[-1].endswith("all.json")


def test_a_mesh_against_a_mesh(script, mesh_path, tmp_path, monkeypatch):
    call(script, monkeypatch, mesh_path, "--mesh", mesh_path, "--json", tmp_path / "self.json")
    result = json.loads((tmp_path / "self.json").read_text())
    assert result["surface_max"] < 1e-6 and result["iou_uniform"] == 1
    assert not (tmp_path / "eval.json").exists()


def test_bad_input(script, run, mesh_path, tmp_path, monkeypatch):
    folder, other = run("exact", 0.9), tmp_path / "other.ply"
    trimesh.creation.box().export(other)
    for arguments, message in (
        ([tmp_path], "not a run folder"),
        ([tmp_path / "nowhere"], "not a run folder"),
        ([mesh_path], "name the true one with --mesh"),
        ([mesh_path, "--mesh", tmp_path / "gone.ply"], "gone.ply"),
        ([folder, "--mesh", other], "not the mesh"),
        ([folder, "--resolution", 3], "resolution"),
        ([folder, "--export", "out.png"], "use one of"),
        ([folder, folder, "--export", "out.ply"], "takes one run"),
        ([folder, folder, "--weights", "out.h5"], "takes one run"),
        ([folder, "--weights", "out.h5"], "dual_shell has no weight files"),
        ([mesh_path, "--mesh", mesh_path, "--weights", "out.h5"], "is a mesh"),
    ):
        with pytest.raises(InputError, match=message):
            call(script, monkeypatch, *arguments)
        assert not (folder / "eval.json").exists()


def test_a_field_without_a_surface(script, run, monkeypatch):
    folder = run("outside", 3.0)
    with pytest.raises(InputError, match="outside: no surface"):
        call(script, monkeypatch, folder)


def test_exit_code(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "eval.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr
