"""The scripts on a scene of photos, from training to metrics."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh

import eval
import eval_ssim
import render
import train as train_script
from dss import cli
from dss.config import PhotoConfig, SceneSettings, TrainSettings, save_config
from dss.reconstruction.samplers.shell import ShellSettings
from dss.shell.dual_shell import DualShell
from tests.helpers import SMALL, write_synthetic

Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script(monkeypatch, capsys) -> Script:
    """Runs a script's module with arguments: exit code, last line of output, standard error."""

    def run(module: ModuleType, *arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        code = 0
        try:
            cli.run(module.main)
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        return code, output.out.strip().split("\n")[-1], output.err

    return run


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic"), 20)


@pytest.fixture
def small(tmp_path) -> Path:
    """A configuration that trains in seconds."""
    settings = {"coarse": 12, "fine": 8, "rounds": 2, "step": 0.1, "start_step": 4}
    config = PhotoConfig(
        scene=SceneSettings(bounds="1 -2 0.5 0.5"),
        model=SMALL,
        sampler=ShellSettings(**settings, rebuild_every=100),
        train=TrainSettings(
            steps=8, rays=64, pixels="scene", lr=5e-3, warm_up_steps=2, anneal_steps=4,
            mask_weight=0.1, checkpoint=4,
        ),
    )  # fmt: skip
    save_config(config, tmp_path / "small.yaml")
    return tmp_path / "small.yaml"


@pytest.fixture(autouse=True)
def quick_shell(monkeypatch):
    """Building the shell of a model takes seconds; tests of model_shell.py do it."""
    shell = DualShell(torch.zeros(1, 3), torch.tensor([0.2]), torch.tensor([0.9]))
    monkeypatch.setattr("dss.reconstruction.model_shell.shell_of_model", lambda *_: shell)


def test_the_four_scripts(small, synthetic, tmp_path, script):
    run = tmp_path / "run"
    train = (train_script, "--config", small, "--data", synthetic, "--out", run)
    code, last, _ = script(*train, "train.steps=20")
    following = f"python eval_ssim.py {run} --split test; python render.py {run} --split test"
    assert code == 0 and last == f"next: {following}"
    assert script(*train, "train.steps=20")[0] == 0  # already trained
    assert script(*train, "train.steps=9")[0] == 2  # another configuration

    code, last, _ = script(render, run, "--split", "test")
    assert code == 0 and last.startswith(f"next: look at {run / 'test.png'}")
    assert len(list((run / "test").glob("*.png"))) == 6
    assert len(list((run / "test/normals").glob("*.png"))) == 6

    code, last, _ = script(eval_ssim, run, "--split", "test", "--every", 2)
    result = json.loads((run / "views.json").read_text())
    mean = result["mean"]
    assert code == 0 and list(result["photos"]) == ["r_0", "r_2", "r_4"]
    assert mean["psnr"] > 5 and 0 < mean["background"] < 1 and mean["samples"] > 0

    out = tmp_path / "ball.ply"
    code, last, _ = script(eval, run, "--export", out, "--resolution", 32)
    mesh = trimesh.load(out)
    # In the scene's units.
    assert code == 0 and np.linalg.norm(mesh.vertices - [1, -2, 0.5], axis=1).max() < 0.5


def test_bad_requests_end_in_one_line(small, synthetic, tmp_path, script):
    out = ("--out", tmp_path / "run")
    for data, override, message in (
        (tmp_path / "none", "seed=0", "no such folder"),
        (synthetic, "sampler.method=shel", "did you mean shell?"),
        (synthetic, "train.ray=1", "did you mean train.rays?"),
        (synthetic, "scene.bounds=0 0 0", "expected a ball"),
    ):
        code, _, error = script(train_script, "--config", small, "--data", data, override, *out)
        assert code == 2 and message in error and error.count("\n") == 1
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text(small.read_text())
    export = ["--export", tmp_path / "a.ply"]
    for module, arguments in ((render, []), (eval_ssim, []), (eval, export)):
        code, _, error = script(module, unfinished, *arguments)
        assert code == 2 and "its training has not finished" in error
