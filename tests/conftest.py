"""Fixtures that every test module may use."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dss.config import Config
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.geometry.mesh import load_mesh
from dss.run import Source, save_field
from dss.shell.dual_shell import DualShell


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets that DSS_DATA names (layout: data/README.md); the test is skipped without it."""
    folder = os.environ.get("DSS_DATA")
    if not folder:
        pytest.skip("DSS_DATA is not set, see data/README.md")
    path = Path(folder)
    assert path.is_dir(), f"DSS_DATA={folder} is not a folder"
    return path


@pytest.fixture(scope="session")
def ball() -> trimesh.Trimesh:
    """A sphere of radius 0.9 about the origin, already normalised: 20,480 faces, at most 2e-4 inside the true one."""
    return trimesh.creation.icosphere(subdivisions=5, radius=0.9)


@pytest.fixture(scope="session")
def box() -> trimesh.Trimesh:
    """A box of edges 3 : 2 : 1 about the origin, already normalised: its corners lie at radius 0.9."""
    edges = np.array([3.0, 2.0, 1.0])
    return trimesh.creation.box(extents=edges * (1.8 / np.linalg.norm(edges)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """So that "passed" is never mistaken for "ran on a GPU"."""
    skipped = sum("cuda" in report.keywords for report in terminalreporter.getreports("skipped"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    terminalreporter.write_line(f"CUDA: {device}, {skipped} CUDA tests skipped")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A NeRF-synthetic scene of three 24 x 16 RGBA test images: blocks of colour, and a transparent border."""
    folder = tmp_path / "scene"
    (folder / "test").mkdir(parents=True)
    frames = []
    for index in range(3):
        pixels = np.zeros((16, 24, 4), np.uint8)
        pixels[2:-2, 2:-2] = np.random.default_rng(index).integers(0, 256, (3, 5, 4), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(folder / "test" / f"r_{index}.png")
        frames.append({"file_path": f"./test/r_{index}", "transform_matrix": np.eye(4).tolist()})
    (folder / "transforms_test.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    return folder


@pytest.fixture
def ball_run(tmp_path: Path, ball: trimesh.Trimesh) -> Path:
    """A run folder whose field is the exact distance to the ball that is beside it in ball.ply, which has moved since the fit."""
    path = tmp_path / "ball.ply"
    ball.export(path)
    mesh = load_mesh(path)
    config = Config(field=DualShellSettings(latent=1, width=4, owner="smallest"))
    field = build(config.field, DualShell(torch.zeros(1, 3), torch.tensor([0.8]), torch.tensor([1.0])).geometry)
    for parameter in field.mlp[-1].parameters():
        torch.nn.init.zeros_(parameter)  # what is left is the distance to the sphere midway
    folder = tmp_path / "run"
    save_field(folder, field, config, Source(str(tmp_path / "moved.ply"), mesh.sha256, tuple(mesh.center), mesh.scale))
    return folder
