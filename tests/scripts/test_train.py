"""The main job as a user runs it: train.py, eval.py and render.py in processes of their own."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["spheres.method=farthest", "spheres.count=48", "spheres.resolution=64", "samples.count=40000",
         "field.width=48", "field.latent=8", "fit.epochs=24", "fit.resample=12", "fit.batch=2048", "fit.checkpoint=2"]  # fmt: skip


def script(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def torus(tmp_path_factory) -> Path:
    """A torus far from the origin, in units of its own."""
    path = tmp_path_factory.mktemp("torus") / "torus.obj"
    mesh = trimesh.creation.torus(major_radius=60.0, minor_radius=25.0, major_sections=96, minor_sections=48)
    mesh.apply_translation([1000.0, -200.0, 35.0])
    mesh.export(path)
    return path


@pytest.fixture(scope="module")
def run(torus) -> Path:
    """A finished small run of the torus."""
    folder = torus.parent / "run"
    script("train.py", "--mesh", torus, "--out", folder, *SMALL)
    return folder


def test_the_main_job_end_to_end(run, torus):
    exported = run / "decoded.ply"
    done = script("eval.py", run, "--resolution", 96, "--export", exported)
    assert "surface mean" in done.stdout and done.stdout.splitlines()[-1].startswith("next: ")
    metrics = json.loads((run / "eval.json").read_text())
    assert metrics["surface_mean"] < 3e-3 and metrics["iou_uniform"] > 0.98 and metrics["chamfer"] > metrics["chamfer_floor"] / 2

    decoded = trimesh.load(exported)
    assert decoded.is_watertight and decoded.body_count == 1 and decoded.euler_number == 0  # one body with one handle
    center = np.array([1000.0, -200.0, 35.0])
    ring = np.linalg.norm((decoded.vertices - center)[:, :2], axis=1)
    tube = np.hypot(ring - 60, decoded.vertices[:, 2] - 35)
    assert abs(tube - 25).mean() < 0.5  # millimetres, say: the input's units

    pictures = run / "pictures"
    script("render.py", run, "--views", 2, "--size", 64, "--out", pictures)
    assert len(list(pictures.rglob("*.png"))) == 3  # two views and the contact sheet


def test_a_killed_run_resumes_to_the_same_field(run, torus):
    folder = torus.parent / "killed"
    command = [sys.executable, "train.py", "--mesh", str(torus), "--out", str(folder), *SMALL]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (folder / "training.safetensors").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(random.random())  # any moment will do
    process.send_signal(signal.SIGKILL)
    process.wait()
    script(*command[1:])
    assert (folder / "field.safetensors").read_bytes() == (run / "field.safetensors").read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_finished_run_is_not_fitted_again(run, torus):
    before = (run / "field.safetensors").stat().st_mtime_ns
    assert "already fitted" in script("train.py", "--mesh", torus, "--out", run, *SMALL).stdout
    assert (run / "field.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--mesh", "nowhere.obj"], "nowhere.obj"),
        (["train.py", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train.py", "fit.epoch=3"], "did you mean fit.epochs"),
        (["train.py", "fit.epochs=many"], "fit.epochs must be int"),
        (["train.py", "--device", "cuda"], "--device cuda"),
        (["eval.py", "configs"], "not a run folder"),
        (["render.py", "configs"], "not a run folder"),
        (["render.py", "--mesh", "demo", "--views", "0"], "--views 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    if arguments[0] == "train.py":
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    if "--device" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = script(*arguments, expect=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "run" / "samples.npz").exists()


def test_more_spheres_than_the_solid_holds(tmp_path, torus):
    done = script("train.py", "--mesh", torus, "--out", tmp_path / "run", *SMALL, "spheres.resolution=16", "spheres.count=4000", expect=2)
    assert "4000" in done.stderr and done.stderr.count("\n") == 1
