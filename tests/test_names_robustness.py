"""File names that are too long, impossible, or no text in the locale: an answer or one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from dss.errors import InputError
from dss.files import is_file, is_folder, replacing, unicode_name
from dss.geometry.mesh import load_mesh

ROOT = Path(__file__).parents[1]
LONG = "x" * 300
LATIN = os.fsdecode(b"m\xe4\xff")  # no UTF-8


@pytest.mark.parametrize("name", [LONG, f"{LONG}/{LONG}"])
def test_impossible_names(script, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert not is_file(name) and not is_folder(name)
    trimesh.creation.box().export(tmp_path / "box.ply")
    box = tmp_path / "box.ply"
    for arguments in (
        ("train", "--mesh", name, "--out", tmp_path / "out"),
        ("train", "--mesh", name),
        ("train", "--config", name),
        ("train", "--config", "neus_tiny", "--data", name),
        ("train", "--mesh", box, "--out", name),
        ("eval", name),
        ("eval", box, "--mesh", name),
        ("render", name),
        ("render", "--mesh", name),
        ("eval_ssim", "--renders", name, "--truth", name),
    ):
        code, _, error = script(*arguments)
        assert code == 2 and error.count("\n") == 1 and error.startswith("error:"), arguments


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl", ".off", ".glb"])
def test_a_mesh_whose_name_is_no_unicode(tmp_path, suffix):
    plain, named = tmp_path / f"box{suffix}", tmp_path / f"{LATIN}{suffix}"
    trimesh.creation.box().export(plain)
    shutil.copy(plain, named)
    assert (load_mesh(named).vertices == load_mesh(plain).vertices).all()
    assert load_mesh(named).path == str(named)


def test_polygons_in_a_file_whose_name_is_no_unicode(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0.5 0.5 1\nf 4 3 2 1\n"
    text += "".join(f"f {k} {k % 4 + 1} 5\n" for k in range(1, 5))
    (tmp_path / f"{LATIN}.obj").write_text(text)
    assert len(load_mesh(tmp_path / f"{LATIN}.obj").faces) == 6


def test_a_null_in_a_name():
    assert not is_file("a\0b") and not is_folder("a\0b")
    with pytest.raises(InputError, match="no such file"):
        load_mesh("a\0b")


def test_links_are_removed(tmp_path):
    (tmp_path / LATIN).write_text("text")
    with unicode_name(tmp_path / LATIN) as name:
        assert Path(name).read_text() == "text" and name.isascii()
    assert not Path(name).exists()


def test_an_output_whose_name_is_no_unicode(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path / LATIN) as path:
        str(path).encode()  # as native code does


@pytest.mark.parametrize("locale", [{}, {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_names_in_an_ascii_locale(tmp_path, locale):
    name = tmp_path / "mäß.ply"
    trimesh.creation.box().export(name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", **locale}
    environment.pop("PYTHONIOENCODING", None)
    command = [sys.executable, ROOT / "render.py", "--mesh", name, "--views", "1", "--size", "16"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out"], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (tmp_path / "out" / "shaded.png").is_file()
