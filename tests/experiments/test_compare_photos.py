import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from dss.experiments.compare_photos import HEAD, factors, photo_row, published, speed, tables
from dss.reconstruction.cameras import Frame
from dss.reconstruction.config import RenderConfig, SamplerConfig, ViewsConfig
from dss.reconstruction.run import ViewsRun
from PIL import Image

from dss.errors import InputError
from dss.experiments import compare_photos as comparison
from dss.reconstruction.samplers.base import Shell, build_sampler
from dss.reconstruction.scene import Photo
from dss.rendering.spheres import draw_spheres
from dss.shell.dual_shell import DualShell
from tests.helpers import SMALL, ball_model, pinhole

PLAIN = {"model": "neus", "sampler": "uniform", "psnr": 26.0, "ssim": 0.9}
PLAIN |= {"seconds": 4.0, "samples": 40.0, "background": 0.0, "uncut": 40.0}
SHELL = PLAIN | {"sampler": "shell", "seconds": 0.25, "samples": 2.0, "background": 0.75, "uncut": 4.0}


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    Image.fromarray(np.full((48, 48, 4), 255, np.uint8)).save(tmp_path / "photo.png")
    return Photo("photo", tmp_path / "photo.png", None, pinhole())


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ball_run(sampler: SamplerConfig, render: RenderConfig) -> ViewsRun:
    """A converged ball of radius 0.5 and, where the sampler is the shell, its shell."""
    config = ViewsConfig(model=SMALL, sampler=sampler, render=render)
    run = ViewsRun(Path("run"), config, Frame((0.0, 0.0, 0.0), 1.0), ball_model(400.0), build_sampler(sampler))
    if isinstance(run.sampler, Shell):
        run.sampler.shell = DualShell(torch.zeros(1, 3), torch.tensor([0.48]), torch.tensor([0.52]))
    return run


def test_factors_multiply_to_the_speed_up():
    found = factors(PLAIN, SHELL)
    assert found == {"empty": 4.0, "ended": 2.0, "fewer": 2.5, "cheaper": pytest.approx(0.8)}
    assert math.prod(found.values()) == pytest.approx(16)
    assert speed(16.0, found) == ["16.0x", "4.0x (50%)", "2.0x (25%)", "2.5x (33%)", "0.8x (-8%)"]


def test_tables():
    text = tables({"chair_400": {"neus": PLAIN, "neus_shell": SHELL, "volsdf": PLAIN | {"model": "volsdf"}}, "lego": {"neus": PLAIN}})
    lines = text.splitlines()
    assert lines[0] == "chair_400" and [cell.strip() for cell in lines[2].split("|")[1:-1]] == HEAD
    assert "16.0x" in lines[5] and "x" not in lines[6].split("|", 2)[2]  # no plain sampler but itself to compare with
    assert "NeuS, published, 800x800" in lines[7] and "31.3" in lines[8] and "8.2x" in lines[8] and "4.8x" in lines[8]
    assert lines[10] == "lego" and "published" not in "".join(lines[10:])
    assert all(len(line) == len(HEAD) for line in published("mic_800") + published("hotdog"))


def test_what_would_have_been_seen_without_inner_spheres(photo):
    """The shell's rays end early; the uncut ones go through the whole ball."""
    row = photo_row(ball_run(SamplerConfig(method="shell", step=0.01), RenderConfig()), photo)
    assert row["uncut"] > 3 * row["samples"] > 0 and 0.5 < row["background"] < 1
    plain = photo_row(ball_run(SamplerConfig(coarse=16, fine=16), RenderConfig()), photo)
    assert plain["uncut"] == plain["samples"] == 32 and plain["background"] == 0
    assert math.prod(factors(plain, row).values()) == pytest.approx(plain["seconds"] / row["seconds"])


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    run = ball_run(SamplerConfig(), RenderConfig())
    run.folder.mkdir()
    (run.folder / "comparison.json").write_text(json.dumps({"asked": {"scene": str(tmp_path / "mic"), "every": 2}, "row": PLAIN}))
    monkeypatch.setattr(comparison, "trained", lambda name, scene, folder, device: run)
    found = comparison.rows(["neus"], [tmp_path / "mic"], tmp_path, 2, torch.device("cpu"))
    comparison.save(tmp_path, found)
    assert json.loads((tmp_path / "views.json").read_text()) == {"mic": {"neus": PLAIN}} and "| neus" in (tmp_path / "views.md").read_text()
    with pytest.raises(InputError, match="no such folder"):  # another request: measure
        comparison.rows(["neus"], [tmp_path / "mic"], tmp_path, 1, torch.device("cpu"))


def test_a_training_that_fails_is_one_line(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "", "a warning\nerror: mic: no such folder; name another\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    with pytest.raises(InputError, match="^neus_tiny, mic: mic: no such folder; name another$"):
        comparison.trained("neus_tiny", tmp_path / "mic", tmp_path / "run", torch.device("cpu"))


def test_spheres_in_front_hide_those_behind():
    shell = DualShell(torch.tensor([[0.0, -0.5, 0], [0.0, 0.5, 0]]), torch.tensor([0.1, 0.1]), torch.tensor([0.2, 0.4]))
    both, front, half = draw_spheres(shell, pinhole()), draw_spheres(DualShell(*(b[:1] for b in shell.buffers())), pinhole()), 0.5
    middle = (front < 255).all(-1)
    assert 0.005 < middle.mean() < 0.3 and (both[middle] == front[middle]).all() and ((both < 255).all(-1) & ~middle).any()
    assert (draw_spheres(shell, pinhole(), half) < 255).all(-1).sum() < (both < 255).all(-1).sum() / 2
