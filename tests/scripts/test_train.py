"""The main job as a user runs it, some of it in processes of their own."""

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

from dss.fields.neural_implicit import NeuralImplicitField, NeuralImplicitSettings
from dss.run import open_run

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "spheres.method=farthest",
    "spheres.count=48",
    "spheres.resolution=64",
    "samples.count=40000",
    "field.width=48",
    "field.latent=8",
    "fit.epochs=24",
    "fit.resample=12",
    "fit.batch_size=2048",
    "fit.checkpoint=2",
]


def process(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def torus(tmp_path_factory) -> Path:
    """A torus far from the origin, in units of its own."""
    path = tmp_path_factory.mktemp("torus") / "torus.obj"
    sections = {"major_sections": 96, "minor_sections": 48}
    mesh = trimesh.creation.torus(major_radius=60.0, minor_radius=25.0, **sections)
    mesh.apply_translation([1000.0, -200.0, 35.0])
    mesh.export(path)
    return path


@pytest.fixture(scope="module")
def run(torus) -> Path:
    """A finished small run of the torus."""
    folder = torus.parent / "run"
    done = process("train.py", "--mesh", torus, "--out", folder, *SMALL)
    stages = [line.split()[0] for line in done.stdout.splitlines()]
    assert stages == ["mesh", "shell", "samples", "field", "next:"] and not done.stderr
    return folder


def test_the_main_job_end_to_end(run, script):
    exported = run / "decoded.ply"
    code, out, error = script("eval", run, "--resolution", 96, "--export", exported)
    assert code == 0, error
    assert "surface mean" in out and out.splitlines()[-1].startswith("next: ")
    metrics = json.loads((run / "eval.json").read_text())
    assert metrics["surface_mean"] < 3e-3 and metrics["iou_uniform"] > 0.98
    assert metrics["chamfer"] > metrics["chamfer_floor"] / 2

    decoded = trimesh.load(exported)
    assert decoded.is_watertight and decoded.body_count == 1
    assert decoded.euler_number == 0  # one body with one handle
    center = np.array([1000.0, -200.0, 35.0])
    ring = np.linalg.norm((decoded.vertices - center)[:, :2], axis=1)
    tube = np.hypot(ring - 60, decoded.vertices[:, 2] - 35)
    assert abs(tube - 25).mean() < 0.5  # millimetres, say: the input's units

    pictures = run / "pictures"
    code, _, error = script("render", run, "--views", 2, "--size", 64, "--out", pictures)
    assert code == 0, error
    assert len(list(pictures.rglob("*.png"))) == 3  # two views and the contact sheet


def test_a_killed_run_resumes_to_the_same_field(run, torus, script):
    folder = torus.parent / "killed"
    arguments = ["--mesh", str(torus), "--out", str(folder), *SMALL]
    killed = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (folder / "training.safetensors").exists() and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(random.random())  # any moment will do
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    code, _, error = script("train", *arguments)
    assert code == 0, error
    first, second = (path / "field.safetensors" for path in (run, folder))
    assert first.read_bytes() == second.read_bytes()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_finished_run_is_not_fitted_again(run, torus, script):
    before = (run / "field.safetensors").stat().st_mtime_ns
    code, out, _ = script("train", "--mesh", torus, "--out", run, *SMALL)
    assert code == 0 and "already fitted" in out
    assert (run / "field.safetensors").stat().st_mtime_ns == before


def test_another_configuration_needs_another_folder(run, torus, script):
    code, _, error = script("train", "--mesh", torus, "--out", run, *SMALL, "seed=1")
    assert code == 2 and "another configuration" in error


def test_the_run_folder_is_named_after_configuration_and_data(monkeypatch, script, tmp_path):
    """Nothing is fitted here; the pipeline only says what it was asked."""
    asked = []
    monkeypatch.setattr("dss.pipeline.fit_run", lambda config, folder, *_: asked.append(folder))
    for arguments in ([], ["--config", "fast", "--mesh", "a/bunny.ply"], ["--data", "a/bunny.ply"]):
        assert script("train", *arguments).code == 0
    names = ("quickstart", "fast_bunny", "quickstart_bunny")
    assert asked == [Path("runs", name) for name in names]


def test_weights_of_other_programs_become_a_run(tmp_path, box, script):
    torch.manual_seed(0)
    field = NeuralImplicitField(NeuralImplicitSettings(), {})
    field.to_weights(tmp_path / "net.h5")
    box.export(tmp_path / "box.ply")
    arguments = ["--config", "neural_implicit_8x32", "--mesh", tmp_path / "box.ply"]
    arguments += ["--weights", tmp_path / "net.h5", "--out", tmp_path / "run"]
    code, out, error = script("train", *arguments)
    assert code == 0, error
    assert f"field     {tmp_path / 'net.h5'}, 29.5 KiB" in out
    points = torch.rand(100, 3) * 2 - 1
    assert torch.equal(open_run(tmp_path / "run").field.sdf(points), field.sdf(points))


def test_weights_of_a_method_without_any_are_refused_before_any_work(tmp_path, torus, script):
    arguments = ["--mesh", torus, "--weights", "net.h5", "--out", tmp_path / "run", *SMALL]
    code, out, error = script("train", *arguments)
    assert code == 2 and not out and error.count("\n") == 1
    assert "dual_shell has no weight files of other programs to import; leave out" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--mesh", "nowhere.obj"], "nowhere.obj"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "fit.epoch=3"], "did you mean fit.epochs"),
        (["train", "fit.epochs=many"], "fit.epochs must be int"),
        (["train", "--device", "cuda"], "--device cuda"),
        (["train", "--config", "neus_tiny", "--weights", "x"], "--weights: does not apply"),
        (["train", "--config", "neus_tiny", "--data", "nowhere"], "no such folder as 'nowhere'"),
        (["train", "--config", "neural_implicit_8x32", "--weights", "nowhere.h5"], "nowhere.h5"),
        (["eval", "configs"], "not a run folder"),
        (["render", "configs"], "not a run folder"),
        (["render", "--mesh", "demo", "--views", "0"], "--views 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, torus, script, arguments, message):
    if "--weights" in arguments and "neus_tiny" not in arguments:
        arguments = [*arguments, "--mesh", torus]
    if arguments[0] == "train":
        arguments = [*arguments, "--out", tmp_path / "run"]
    if "--device" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, _, error = script(*arguments)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run" / "samples.npz").exists()


def test_exit_code_of_the_process(tmp_path):
    done = process("train.py", "fit.epoch=3", "--out", tmp_path / "run", expect=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "did you mean fit.epochs" in done.stderr


def test_more_spheres_than_the_solid_holds(tmp_path, torus, script):
    more = ["spheres.resolution=16", "spheres.count=4000"]
    code, _, error = script("train", "--mesh", torus, "--out", tmp_path / "run", *SMALL, *more)
    assert code == 2 and "4000" in error and error.count("\n") == 1
