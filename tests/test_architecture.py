"""The layers of dss, scripts that stay thin, and no script that starts another."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAIN_SCRIPTS = [ROOT / f"{name}.py" for name in ("train", "eval", "eval_ssim", "render")]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
MODULES = sorted((ROOT / "dss").rglob("*.py"))
MAX_LINES = 75  # of each main script
STARTERS = {"subprocess", "multiprocessing", "runpy", "pty", "pexpect"}  # modules
CALLS = {"system", "popen", "execv", "execvp", "spawnv", "posix_spawn", "fork"}  # of os
MAY_START = {
    ROOT / "dss" / "experiments" / "commits.py",  # git, for the kernels of another commit
    ROOT / "dss" / "rendering" / "images.py",  # ffmpeg, for animations
    ROOT / "dss" / "experiments" / "mesh_process.py",  # a mesh of a sweep, which may crash
    ROOT / "dss" / "experiments" / "sanitizer.py",  # compute-sanitizer
    ROOT / "dss" / "experiments" / "stages.py",  # what a fault on a GPU must not spoil
}


def test_the_layers_hold():
    """The contracts of import-linter in pyproject.toml."""
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", MAIN_SCRIPTS, ids=lambda path: path.name)
def test_main_scripts_are_thin(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def starts_processes(path: Path) -> bool:
    """Whether a file imports or calls what starts processes."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module.partition(".")[0]]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = ["subprocess"] if node.value.id == "os" and node.attr in CALLS else []
        if STARTERS & set(names):
            return True
    return False


def test_no_script_starts_another():
    paths = {*MODULES, *SCRIPTS, *MAIN_SCRIPTS}
    assert len(paths) > 60
    assert {path for path in paths if starts_processes(path)} == MAY_START


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import subprocess as s", True),
        ("from subprocess import run", True),
        ("import os\nos.system('ls')", True),
        ("import os\nos.replace('a', 'b')", False),
        ("from . import subprocess", False),
    ],
)
def test_what_is_found(tmp_path, text, expected):
    (tmp_path / "module.py").write_text(text)
    assert starts_processes(tmp_path / "module.py") is expected


def test_the_package_is_imported_without_heavy_libraries():
    """`import dss` needs neither a GPU nor a compiler, nor the libraries for meshes."""
    program = (
        "import sys, dss; assert not {'torch', 'warp', 'trimesh', 'pymeshlab'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_runs_are_opened_without_the_libraries_for_meshes():
    """A machine that only renders or fits may lack them."""
    program = "import sys, dss.run; assert not {'warp', 'pymeshlab'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
