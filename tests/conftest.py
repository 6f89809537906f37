"""Fixtures that every test module may use."""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each worker, and for what it starts
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dss import cli
from dss.config import MeshConfig
from dss.evaluation import geometry as metrics
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.geometry.mesh import load_mesh
from dss.run import Source, save_field
from dss.shell.dual_shell import DualShell

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


class Outcome(NamedTuple):
    """What a script left behind."""

    code: int
    out: str
    err: str


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


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets that DSS_DATA names (layout: data/README.md).

    The test is skipped without it.
    """
    folder = os.environ.get("DSS_DATA")
    if not folder:
        pytest.skip("DSS_DATA is not set, see data/README.md")
    path = Path(folder)
    assert path.is_dir(), f"DSS_DATA={folder} is not a folder"
    return path


@pytest.fixture(scope="session")
def ball() -> trimesh.Trimesh:
    """A sphere of radius 0.9 about the origin, already normalised.

    It has 20,480 faces, at most 2e-4 inside the true sphere.
    """
    return trimesh.creation.icosphere(subdivisions=5, radius=0.9)


@pytest.fixture(scope="session")
def box() -> trimesh.Trimesh:
    """A box of edges 3 : 2 : 1 about the origin, normalised: its corners lie at radius 0.9."""
    edges = np.array([3.0, 2.0, 1.0])
    return trimesh.creation.box(extents=edges * (1.8 / np.linalg.norm(edges)))


@pytest.fixture
def fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of meshes from fewer points than usual, which is faster."""
    monkeypatch.setattr(metrics, "SAMPLES", 1 << 15)
    monkeypatch.setattr(metrics, "UNIFORM", 1 << 16)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of pictures, instead of the user's."""
    monkeypatch.setenv("DSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., Outcome]:
    """Run a script in this process: `script("eval", run, "--resolution", 64)`, or "scripts.sweep".

    Exit code, standard output and standard error are what a shell would see of it.
    """

    def call(name: str, *arguments: object) -> Outcome:
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.run(module.main)
        except SystemExit as end:
            code = end.code
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A headless Chromium, driven by selenium, that never asks the network for anything.

    The test is skipped where one of them is not installed.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    paths = shutil.which("chromium"), shutil.which("chromedriver")
    if None in paths:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    flags = (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "enable-unsafe-swiftshader",  # WebGL without a GPU
        "hide-scrollbars", "window-size=900,600",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    )  # fmt: skip
    for flag in flags:
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    yield driver
    driver.quit()


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A NeRF-synthetic scene of three 24 x 16 RGBA test images.

    They are blocks of colour with a transparent border.
    """
    folder = tmp_path / "scene"
    (folder / "test").mkdir(parents=True)
    frames = []
    for index in range(3):
        pixels = np.zeros((16, 24, 4), np.uint8)
        blocks = np.random.default_rng(index).integers(0, 256, (3, 5, 4), np.uint8)
        pixels[2:-2, 2:-2] = blocks.repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(folder / "test" / f"r_{index}.png")
        frames.append({"file_path": f"./test/r_{index}", "transform_matrix": np.eye(4).tolist()})
    about = {"camera_angle_x": 0.7, "frames": frames}
    (folder / "transforms_test.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def ball_run(tmp_path: Path, ball: trimesh.Trimesh) -> Path:
    """A run folder whose field is the exact distance to a ball.

    The ball's mesh is beside the run in ball.ply; it has moved since the fit.
    """
    path = tmp_path / "ball.ply"
    ball.export(path)
    mesh = load_mesh(path)
    config = MeshConfig(field=DualShellSettings(latent=1, width=4, owner="smallest"))
    shell = DualShell(torch.zeros(1, 3), torch.tensor([0.8]), torch.tensor([1.0]))
    field = build(config.field, shell.geometry)
    for parameter in field.mlp[-1].parameters():
        torch.nn.init.zeros_(parameter)  # what is left is the distance to the sphere midway
    folder = tmp_path / "run"
    source = Source(str(tmp_path / "moved.ply"), mesh.sha256, mesh.similarity)
    save_field(folder, field, config, source)
    return folder
