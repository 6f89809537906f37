"""eval.py as a user calls it, on runs whose fields are known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dss.config import MeshConfig, MeshSettings
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.geometry.mesh import load_mesh
from dss.run import Source, open_folder, save_field
from dss.shell.dual_shell import DualShell
from tests.helpers import KEYS

ROOT = Path(__file__).resolve().parents[2]
CENTER, SIZE = np.array([500.0, -20.0, 3.0]), 40.0


pytestmark = pytest.mark.usefixtures("fewer_points")


@pytest.fixture
def mesh_path(tmp_path, ball):
    """A ball of radius SIZE about CENTER."""
    ball = ball.copy()
    ball.apply_transform(trimesh.transformations.scale_and_translate(SIZE / 0.9, CENTER))
    ball.export(tmp_path / "ball.obj")
    return tmp_path / "ball.obj"


@pytest.fixture
def run(tmp_path, mesh_path):
    """A function that makes the run of a field whose surface is a sphere.

    Its argument is the sphere's radius in normalised units.
    """

    def make(name, radius):
        settings = DualShellSettings(width=8, latent=2, output="radial")
        config = MeshConfig(mesh=MeshSettings(path=str(mesh_path)), field=settings)
        radii = torch.tensor([radius - 0.06]), torch.tensor([radius + 0.06])
        field = build(config.field, DualShell(torch.zeros(1, 3), *radii).geometry)
        for parameter in field.mlp.parameters():
            torch.nn.init.zeros_(parameter)  # a radial field then answers with its middle sphere
        mesh = load_mesh(mesh_path)
        open_folder(tmp_path / name, config)
        source = Source(str(mesh_path), mesh.sha256, mesh.similarity)
        save_field(tmp_path / name, field, config, source)
        return tmp_path / name

    return make


def test_one_run(script, run, tmp_path):
    folder = run("exact", 0.9)
    exported = tmp_path / "out.ply"
    code, out, error = script("eval", folder, "--resolution", 64, "--export", exported)
    assert code == 0, error
    result = json.loads((folder / "eval.json").read_text())
    assert result.keys() >= KEYS
    assert result["surface_max"] < 2e-3 and result["iou_uniform"] > 0.99
    assert result["watertight"] is True and result["bodies"] == 1
    stored = (folder / "field.safetensors").stat().st_size
    assert result["bytes"] == sum(result["bytes_parts"].values()) < result["file_bytes"] == stored
    assert result["thickness_mean"] == pytest.approx(0.12)
    mesh = trimesh.load(exported)
    assert mesh.is_watertight and mesh.volume > 0
    assert np.abs(np.linalg.norm(mesh.vertices - CENTER, axis=1) - SIZE).max() < 1e-3 * SIZE
    assert out.splitlines()[-1] == f"next: look at {exported}"


def test_several_runs_and_their_mean(script, run, tmp_path):
    folders = [run("exact", 0.9), run("small", 0.8)]
    code, out, error = script("eval", *folders, "--resolution", 64, "--json", tmp_path / "all.json")
    assert code == 0, error
    together = json.loads((tmp_path / "all.json").read_text())
    single = [json.loads((folder / "eval.json").read_text()) for folder in folders]
    assert list(together["runs"].values()) == single
    assert single[1]["surface_mean"] == pytest.approx(0.1, rel=0.01)
    for key in KEYS:
        assert together[key] == pytest.approx((single[0][key] + single[1][key]) / 2)
    lines = out.splitlines()
    assert len(lines) == 2 + 3 + 1
    assert lines[4].startswith("| mean ") and lines[-1].endswith("all.json")


def test_a_mesh_against_a_mesh(script, mesh_path, tmp_path):
    result = tmp_path / "self.json"
    code, _, error = script("eval", mesh_path, "--mesh", mesh_path, "--json", result)
    assert code == 0, error
    result = json.loads(result.read_text())
    assert result["surface_max"] < 1e-6 and result["iou_uniform"] == 1
    assert not (tmp_path / "eval.json").exists()


def test_bad_input(script, run, mesh_path, tmp_path):
    folder, other = run("exact", 0.9), tmp_path / "other.ply"
    trimesh.creation.box().export(other)
    at_once = "does not apply to 2 runs at once"
    for arguments, message in (
        ([tmp_path], "not a run folder"),
        ([tmp_path / "nowhere"], "not a run folder"),
        ([mesh_path], "name the true one with --mesh"),
        ([mesh_path, "--mesh", tmp_path / "gone.ply"], "gone.ply"),
        ([folder, "--mesh", other], "not the mesh"),
        ([folder, "--resolution", 3], "resolution"),
        ([folder, "--export", "out.png"], "use one of"),
        ([folder, folder, "--export", "out.ply"], f"--export: {at_once}"),
        ([folder, folder, "--weights", "out.h5"], f"--weights: {at_once}"),
        ([mesh_path, "--mesh", mesh_path, "--weights", "out.h5"], "--weights: does not apply"),
        ([mesh_path, "--mesh", mesh_path, "--resolution", 64], "--resolution: does not apply"),
        ([folder, "--resolution", 32, "--weights", "out.h5"], "dual_shell has no weight files"),
    ):
        code, _, error = script("eval", *arguments)
        assert code == 2 and message in error and error.count("\n") == 1
        assert "--weights" in arguments or not (folder / "eval.json").exists()


def test_a_field_without_a_surface(script, run):
    code, _, error = script("eval", run("outside", 3.0))
    assert code == 2 and "outside: no surface" in error


def test_exit_code_of_the_process(tmp_path):
    command = [sys.executable, ROOT / "eval.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr
