"""What the tests of measurements on a GPU share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dss.experiments import gpu_inputs

ROOT = Path(__file__).parents[2]
ABSENT = (
    "DracoPy", "PIL", "embreex", "h5py", "igl", "lxml", "mapbox_earcut", "matplotlib", "miniball",
    "networkx", "plyfile", "pydantic", "pymeshlab", "safetensors", "scipy", "skimage",
    "tensorboard", "tqdm", "trimesh", "warp", "yaml",
)  # fmt: skip
BARE = """
import runpy, sys
sys.modules |= dict.fromkeys(sys.argv[1].split(","))  # importing one of them fails
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, box) -> Path:
    """The inputs of measurements, tiny ones."""
    folder = tmp_path_factory.mktemp("inputs")
    box.export(folder / "box.ply")
    gpu_inputs.prepare(folder / "in", str(folder / "box.ply"), quick=True, size=32)
    return folder / "in"


@pytest.fixture
def bare() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script on the CPU where there are torch and numpy alone."""

    def call(script: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", BARE, ",".join(ABSENT), str(ROOT / "scripts" / script)]
        return subprocess.run(
            [*command, *map(str, arguments), "--device", "cpu"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return call
