"""The tracer of a commit beside that of the working tree."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from dss.experiments import commits

ROOT = Path(__file__).parents[2]
INF = torch.inf


@pytest.fixture
def unchanged():
    """The last commit has the kernels of the working tree."""
    if shutil.which("git") is None or shutil.which("g++") is None:
        pytest.skip("no git, or no compiler")
    quiet = {"cwd": ROOT, "capture_output": True}
    if subprocess.run(["git", "rev-parse", "--verify", "HEAD"], **quiet).returncode:
        pytest.skip("no git history here")
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "kernels"], **quiet).returncode:
        pytest.skip("kernels/ differs from the last commit")


def test_a_commit_is_as_right_as_itself(unchanged, ball_run, script):
    options = ("--commit", "HEAD", "--size", 32, "--repeats", 2, "--checked", 300)
    code, out, error = script("scripts.compare_commits", ball_run, *options)
    assert code == 0, error
    header, _, row = ([c.strip() for c in line.split("|")] for line in out.splitlines()[-3:])
    cell = dict(zip(header, row, strict=True))
    assert cell["queries before"] == cell["queries now"] != "0"
    assert cell["rays checked"] == "342" and cell["wrong before"] == "0"
    assert cell["hits that differ"] == "0" and float(cell["times faster"]) > 0


def test_no_such_commit(unchanged, ball_run, script):
    code, _, error = script("scripts.compare_commits", ball_run, "--commit", "no-such-commit")
    assert code == 2 and "name a commit of this repository" in error


def test_which_depths_differ():
    got = torch.tensor([INF, INF, 1.0, 1.0, 1.0, torch.nan])
    truth = torch.tensor([INF, 1.0, INF, 1 + 1e-6, 1 + 1e-4, 1.0])
    assert commits._differ(got, truth).tolist() == [False, True, True, False, True, True]
