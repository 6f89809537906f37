"""Recorded results: checked on a bare machine, and a wrong one is found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dss import ops
from dss.errors import InputError
from dss.experiments import parity, sanitizer


@pytest.fixture(scope="module")
def recorded(inputs) -> Path:
    return inputs / "parity.npz"


def faults_of(checks) -> dict[str, str]:
    return {name: fault for name, check in checks if (fault := check())}


def changed(path: Path, to: Path, key: str, change) -> Path:
    arrays = parity.read(path)
    assert key in arrays
    np.savez(to / "changed.npz", **arrays | {key: change(arrays[key])})
    return to / "changed.npz"


def test_a_bare_machine_passes(bare, recorded):
    ran = bare("check_cuda.py", recorded)
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and lines[-1].startswith("all passed"), ran.stdout + ran.stderr
    assert lines[0] == "pass  library" and all(line.startswith("pass  ") for line in lines[:-1])
    tried = {line.split()[1] for line in lines[1:-1]}
    assert tried == set(parity.LIMITS) and sum("16 bits" in line for line in lines) > 10


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("shell_owner relative/owner", lambda owner: np.roll(owner, 1)),
        ("shell_field silu 3x40/gradient", lambda slope: slope * 1.1),
        ("shell_trace silu 4x128, relative, exact/t", lambda t: np.where(t < 9, t + 2e-3, t)),
        ("shell_intervals every/count", lambda count: count[:-1]),
    ],
)
def test_a_changed_result_is_a_failure_of_its_operator(recorded, tmp_path, key, change):
    path, name = changed(recorded, tmp_path, key, change), key.split("/")[0]
    faults = faults_of(parity.checks(path, torch.device("cpu")))
    with_half = {name, name + parity.BITS} if "shell_trace" in key or "field" in key else {name}
    assert set(faults) == with_half and all(key.split("/")[1] in text for text in faults.values())


def test_the_command_fails_with_its_operator(bare, recorded, tmp_path):
    path = changed(recorded, tmp_path, "shell_union_sdf inner/distance", lambda d: d + 0.01)
    ran = bare("check_cuda.py", path)
    failed = [line for line in ran.stdout.splitlines() if line.startswith("FAIL")]
    assert ran.returncode == 1 and len(failed) == 1, ran.stderr
    assert "shell_union_sdf inner: distance: 9" in failed[0]


def test_results_of_another_device_may_differ_by_rounding(recorded, monkeypatch):
    """The reference rounds otherwise, and takes other steps; else it agrees within the limits."""
    traced = {key: parity.LIMITS["shell_trace"][key] for key in ("hit", "t", "sphere", "normal")}
    monkeypatch.setitem(parity.LIMITS, "shell_trace", traced)
    with ops.eager():
        assert not faults_of(parity.checks(recorded, torch.device("cpu")))


def test_hostile_rays_and_points_are_among_the_recorded(recorded):
    stored = parity.read(recorded)
    for key in ("points", "origins", "directions"):
        assert np.isnan(stored[key]).any() and np.isinf(stored[key]).any()
    assert stored["shell_trace silu 4x128, relative, exact/hit"].mean() > 0.1


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    np.savez(tmp_path / "b.npz", points=np.zeros((1, 3)))
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(InputError, match="record"):
            list(parity.checks(tmp_path / name, torch.device("cpu")))


def test_what_the_sanitizer_says_is_passed_on(recorded, tmp_path, monkeypatch):
    program = tmp_path / "compute-sanitizer"
    script = 'case "$*" in *memcheck*) echo "ERROR SUMMARY: 3 errors"; exit 1;; esac'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(list(sanitizer.checks(recorded))) == 3
    assert faults_of(sanitizer.checks(recorded)) == {
        "compute-sanitizer memcheck": "ERROR SUMMARY: 3 errors"
    }
    program.write_text("#!/bin/sh\n/bin/sleep 9")
    assert set(faults_of(sanitizer.checks(recorded, 0.1)).values()) == {"not done after 0 s"}
    program.unlink()
    assert not list(sanitizer.checks(recorded))
