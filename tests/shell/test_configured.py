"""Shells of others: taken as they stand where they are certified, else refused or enlarged."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dss.config import MeshConfig, SpheresSettings
from dss.errors import InputError
from dss.fields.key_spheres import KeySpheresField, KeySpheresSettings
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.run import open_run
from dss.shell.certify import certify
from dss.shell.configured import dual_shell
from dss.shell.dual_shell import DualShell
from dss.shell.io import read_h5, write_h5

FARTHEST = SpheresSettings(method="farthest", count=8, resolution=24)
TINY = [
    "spheres.method=file", "samples.count=2000", "field.width=8", "field.latent=2",
    "fit.epochs=4", "fit.resample=2", "fit.batch_size=512", "fit.checkpoint=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def box_path(tmp_path_factory, box):
    path = tmp_path_factory.mktemp("mesh") / "box.ply"
    box.export(path)
    return path


@pytest.fixture(scope="module")
def mesh(box_path):
    return load_mesh(box_path)


@pytest.fixture(scope="module")
def distance(mesh):
    return MeshDistance(mesh.vertices, mesh.faces)


@pytest.fixture(scope="module")
def shell(mesh, distance):
    return dual_shell(mesh, distance, FARTHEST, 0)


@pytest.fixture
def files(tmp_path, shell) -> SpheresSettings:
    """A pair of files with the shell of the box."""
    inner, outer = str(tmp_path / "inner.h5"), str(tmp_path / "outer.h5")
    write_h5(shell, inner, outer)
    return SpheresSettings(method="file", inner=inner, outer=outer)


def shrink(files: SpheresSettings, shell: DualShell, size: float) -> DualShell:
    outer = shell.outer_radii - size
    smaller = DualShell(shell.centers, shell.inner_radii, outer.maximum(shell.inner_radii + 1e-4))
    write_h5(smaller, files.inner, files.outer)
    return smaller


def equal(one: DualShell, other: DualShell) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.buffers(), other.buffers(), strict=True))


def test_a_certified_shell_is_taken_as_it_stands(mesh, distance, shell, files):
    assert equal(dual_shell(mesh, distance, files, 0), shell)


def test_a_leak_is_refused_with_its_size_or_closed(mesh, distance, shell, files):
    smaller = shrink(files, shell, 0.02)
    leak = certify(mesh.vertices, mesh.faces, smaller)
    assert leak > 0.01
    with pytest.raises(InputError, match=f"outer.h5: .* must grow by {leak:.1e}; .*leaks=enlarge"):
        dual_shell(mesh, distance, files, 0)
    settings = files.model_copy(update={"leaks": "enlarge"})
    closed = dual_shell(mesh, distance, settings, 0)
    assert certify(mesh.vertices, mesh.faces, closed) == 0
    assert torch.equal(closed.centers, shell.centers)
    assert torch.equal(closed.inner_radii, shell.inner_radii)
    assert (closed.outer_radii >= smaller.outer_radii).all()


@pytest.mark.parametrize("leaks", ["refuse", "enlarge"])
def test_spheres_of_another_mesh_are_refused(mesh, distance, shell, files, leaks):
    moved = DualShell(shell.centers + 0.3, shell.inner_radii, shell.outer_radii)
    write_h5(moved, files.inner, files.outer)
    settings = files.model_copy(update={"leaks": leaks})
    with pytest.raises(InputError, match=r"inner\.h5: \d of its 8 spheres do not lie inside the m"):
        dual_shell(mesh, distance, settings, 0)


@pytest.mark.parametrize("missing", ["inner", "outer"])
def test_both_files_are_named(mesh, distance, files, missing):
    with pytest.raises(InputError, match=f"name the file .* with spheres.{missing}"):
        dual_shell(mesh, distance, files.model_copy(update={missing: ""}), 0)


def test_the_authors_shells(data):
    """They leak by little; their inner spheres lie in the solid."""
    mesh = load_mesh(data / "thingi32" / "75656.ply")
    distance, shells = MeshDistance(mesh.vertices, mesh.faces), data / "shells"
    inner, outer = (str(shells / f"thingi32_{kind}128" / "75656.h5") for kind in ("inner", "safe"))
    settings = SpheresSettings(method="file", inner=inner, outer=outer)
    with pytest.raises(InputError, match=r"one must grow by \d\.\de-0[345]; give larger ones"):
        dual_shell(mesh, distance, settings, 0)
    closed = dual_shell(mesh, distance, settings.model_copy(update={"leaks": "enlarge"}), 0)
    theirs = read_h5(inner, outer)
    growth = closed.outer_radii - theirs.outer_radii
    assert certify(mesh.vertices, mesh.faces, closed) == 0 and growth.min() >= 0
    assert growth.max() < 0.01 and torch.equal(closed.centers, theirs.centers)


def test_a_fit_inside_given_spheres(tmp_path, box_path, shell, files, script):
    arguments = ["--mesh", box_path, "--out", tmp_path / "run", *TINY, "fit.rate_weight=0"]
    arguments += [f"spheres.inner={files.inner}", f"spheres.outer={files.outer}"]
    assert script("train", *arguments).code == 0
    assert equal(open_run(tmp_path / "run").field.shell, shell)
    Path(files.outer).unlink()  # what is fitted needs it no more
    assert "already fitted" in script("train", *arguments).out


def test_key_spheres_in_given_spheres(mesh, distance, shell, files):
    config = MeshConfig(field=KeySpheresSettings(), spheres=files)
    spheres = KeySpheresField.build_geometry(mesh, distance, config)["spheres"]
    assert torch.equal(spheres[:, :3], shell.centers) and (spheres[:, 3] < 0).all()


def pickled(file: h5py.File) -> None:
    file.create_dataset("data", data=np.array([["a"] * 4], dtype=object), dtype=h5py.string_dtype())


def elsewhere(file: h5py.File) -> None:
    file["data"] = h5py.ExternalLink("/etc/passwd", "data")


def not_a_number(file: h5py.File) -> None:
    file["data"] = np.full((8, 4), np.nan)


def huge(file: h5py.File) -> None:
    file.create_dataset("data", (1 << 40, 4), "f8", chunks=(1 << 10, 4))


@pytest.mark.parametrize("make", [pickled, elsewhere, not_a_number, huge, None])
@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_hostile_file_ends_in_one_line(tmp_path, box_path, files, script, make, which):
    path = getattr(files, which)
    if make:
        with h5py.File(path, "w") as file:
            make(file)
    else:
        with Path(path).open("r+b") as file:
            file.truncate(700)
    files = [f"spheres.inner={files.inner}", f"spheres.outer={files.outer}"]
    end = script("train", "--mesh", box_path, "--out", tmp_path / "run", *TINY, *files)
    assert end.code != 0 and end.err.strip().count("\n") == 0, end.err
    assert f"{which}.h5" in end.err and "shell file" in end.err
    assert not (tmp_path / "run").exists()
