"""Compiled code is loaded from no place that others can write to; a read-only disk is no error."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kernels import build, cache
from kernels.cache import cache_folder, is_safe

ROOT = Path(__file__).parents[2]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act for two users")
needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")


@pytest.fixture
def places(monkeypatch, tmp_path):
    """A home and a temporary folder of their own, and no folder that an earlier call found."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    for folder in (home, temporary):
        folder.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(cache, "cache_folder", cache_folder.__wrapped__)
    return home, temporary


def test_the_cache_is_private(places):
    home, _ = places
    folder = cache.cache_folder("cpu")
    assert folder == home / ".cache" / "dss" / "cpu"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700] * 2


def test_a_folder_that_others_can_write_to_is_not_used(places):
    home, temporary = places
    (home / ".cache" / "dss" / "cpu").mkdir(parents=True)
    (home / ".cache" / "dss" / "cpu").chmod(0o777)
    shared = temporary / f"dss-{os.getuid()}"
    assert cache.cache_folder("cpu") == shared / "cpu"
    shared.chmod(0o770)
    assert cache.cache_folder("cpu").parent == temporary
    shutil.rmtree(shared)
    shared.symlink_to(home)  # whose folder may be anyone's
    assert cache.cache_folder("cpu").parent == temporary


def test_a_folder_below_one_that_others_can_write_to_is_not_used(places):
    home, temporary = places
    (home / ".cache").mkdir()
    (home / ".cache").chmod(0o777)
    assert cache.cache_folder("cpu").is_relative_to(temporary)
    (home / ".cache").chmod(0o1777)  # sticky: no one can rename what is ours
    assert cache.cache_folder("cpu").is_relative_to(home)


@needs_root
def test_a_folder_of_someone_else_is_not_used(places):
    home, temporary = places
    (home / ".cache").mkdir()
    os.chown(home / ".cache", NOBODY, NOBODY)
    (temporary / f"dss-{os.getuid()}").mkdir(mode=0o700)
    os.chown(temporary / f"dss-{os.getuid()}", NOBODY, NOBODY)
    folder = cache.cache_folder("cpu")
    assert folder.parent == temporary and folder.name.startswith("dss-")
    assert is_safe(folder) and not is_safe(temporary / f"dss-{os.getuid()}")


def test_a_library_that_others_could_write_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    library = build._folder("cpu") / "dss_cpu.so"
    assert not build._is_ours(library)
    library.write_bytes(b"")
    library.chmod(0o755)
    assert build._is_ours(library)
    for path in (library, library.parent, tmp_path / "_build"):
        path.chmod(0o775)
        assert not build._is_ours(library)
        path.chmod(0o755)


# Imported before the change of user: the interpreter may lie where that user cannot read
BECOME = """
import os, sys, tempfile, numpy, pymeshlab, torch, trimesh, warp, scipy.spatial, miniball
from torch.utils import cpp_extension
import dss.errors, kernels
os.setgroups([]); os.setgid(54321); os.setuid(54321)
"""


def as_nobody(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run code where `folder` has the packages, as a user who owns nothing and has no home."""
    command = [sys.executable, "-c", BECOME + code]
    variables = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "PATH": os.environ["PATH"]}
    return subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=variables | environment
    )


@pytest.fixture
def readable():
    """A folder that all may read and only its owner may write, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    for package in ("dss", "kernels"):
        ignored = shutil.ignore_patterns("_build", "__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    yield folder
    shutil.rmtree(folder)


USE = "from kernels import build; print(build.load()['cpu'])"


@needs_root
def test_load_never_raises_where_nothing_can_be_written(readable):
    done = as_nobody(USE, readable, PATH="/nonexistent", TMPDIR="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "plain torch" in done.stdout and done.stderr.count("\n") == 1
    broken = "import tempfile; tempfile.tempdir = '/proc/none'; " + USE
    done = as_nobody(broken, readable, PATH="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("plain torch (none, for nothing can be written)")


@needs_root
@needs_gcc
def test_a_read_only_checkout_with_a_build(readable):
    """The build of the checkout's owner is used without a home and without writing anything."""
    (readable / "bin").mkdir()
    (readable / "bin" / "c++").write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    (readable / "bin" / "c++").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(readable), "PYTHONSAFEPATH": "1", "CXX": "c++"}
    environment["PATH"] = f"{readable / 'bin'}:{os.environ['PATH']}"
    subprocess.run([sys.executable, "-c", USE], check=True, env=environment, cwd="/")
    (library,) = (readable / "kernels" / "_build").rglob("*.so")
    nothing = "import tempfile; tempfile.tempdir = '/proc/none'; "
    done = as_nobody(nothing + USE, readable, CXX="c++")
    assert done.stdout.strip() == f"compiled ({library})" and not done.stderr
    library.chmod(0o777)  # now it may be anyone's
    done = as_nobody(nothing + USE, readable, PATH="/nonexistent")
    assert "plain torch" in done.stdout


@needs_root
def test_warp_starts_without_a_home(readable):
    code = (
        "import numpy as np, trimesh, torch; torch.set_num_threads(1);"
        "from dss.geometry.distance import MeshDistance;"
        "box = trimesh.creation.box();"
        "print(MeshDistance(np.array(box.vertices), np.array(box.faces)).sdf(np.zeros((1, 3))))"
    )
    done = as_nobody(code, readable)
    assert done.returncode == 0 and done.stdout.strip() == "[-0.5]", done.stderr[-2000:]
