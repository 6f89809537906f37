"""The steps of kernels/trace.h in a field that is known exactly."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dss import ops

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    built = tmp_path_factory.mktemp("trace") / "trace.so"
    source = ROOT / "tests" / "kernels" / "traced_distance.cpp"
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Werror"]
    subprocess.run(["g++", *flags, str(source), "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))


def first_hits(boxes: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Where rays (n, 3) enter the ball or a box (m, 6) first, in float64; inf: nowhere."""
    with np.errstate(divide="ignore"):
        sides = (boxes.reshape(-1, 1, 2, 3) - origins[:, None]) / directions[:, None]
    near, far = sides.min(2).max(-1), sides.max(2).min(-1)
    hit = np.where((near < far) & (near > 0), near, np.inf).min(0)
    along = (origins * directions).sum(1)
    square = along**2 - (origins**2).sum(1) + 0.1**2
    return np.minimum(hit, np.where(square > 0, -along - np.sqrt(square.clip(0)), np.inf))


def test_steps_pass_no_solid_and_hits_are_exact(library):
    """Plates, 4e-3 thin, at the edges of which distances change their slope abruptly."""
    random = np.random.default_rng(0)
    center = random.uniform(-0.6, 0.6, (60, 3))
    half = random.uniform(0.05, 0.3, (60, 3))
    half[np.arange(60), random.integers(0, 3, 60)] = 2e-3
    boxes = np.concatenate([center - half, center + half], 1).astype(np.float32)
    shell = ops.pack(torch.zeros(1, 3), torch.tensor([1e-3]), torch.tensor([1.5]))
    count = 20_000
    origins = random.normal(size=(count, 3))
    origins *= 3 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = random.uniform(-0.7, 0.7, (count, 3)) - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    origins, directions = origins.astype(np.float32), directions.astype(np.float32)
    t, steps = np.empty(count, np.float32), np.empty(count, np.int32)
    arrays = (shell.spheres.numpy(), shell.tree.numpy(), boxes)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    rest = [array.ctypes.data_as(ctypes.c_void_p) for array in (origins, directions, t, steps)]
    library.trace_boxes(*pointers, len(boxes), count, *rest)
    exact = (array.astype(np.float64) for array in (boxes, origins, directions))
    expected = first_hits(*exact)
    both = np.isfinite(expected) & np.isfinite(t)
    wrong = np.isfinite(expected) != np.isfinite(t)
    wrong[both] = np.abs(t[both] - expected[both]) > 1e-5
    assert both.mean() > 0.5
    assert wrong.sum() <= 10  # corners thinner than the least step, which plain steps miss too
    assert steps.mean() < 15.2  # plain steps take 15.8
