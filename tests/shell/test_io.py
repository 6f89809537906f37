"""The authors' pair of files: a round trip, their own files, and damage."""

import h5py
import numpy as np
import pytest
import torch

from dss.errors import InputError
from dss.shell.dual_shell import DualShell
from dss.shell.io import read_h5, write_h5


@pytest.fixture
def files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shell = DualShell(
        torch.rand(9, 3, generator=generator),
        torch.rand(9, generator=generator),
        1 + torch.rand(9, generator=generator),
    )
    paths = tmp_path / "inner.h5", tmp_path / "outer.h5"
    write_h5(shell, *paths)
    return shell, *paths


def rewrite(path, rows, name="data"):
    with h5py.File(path, "w") as file:
        file[name] = rows


def test_round_trip(files):
    shell, inner, outer = files
    again = read_h5(inner, outer)
    for name, buffer in shell.named_buffers():
        assert torch.equal(again.get_buffer(name), buffer)
    with h5py.File(inner) as file:  # the authors' layout
        assert (
            file["data"].shape == (9, 4)
            and file["data"].dtype == np.float64
            and (file["data"][:, 3] < 0).all()
        )
    with h5py.File(outer) as file:
        assert file["data"].dtype == np.float32 and (file["data"][:, 3] > 0).all()


def test_authors_files(data):
    folders = data / "shells" / "thingi32_inner512", data / "shells" / "thingi32_safe512"
    shell = read_h5(*(folder / "53159.h5" for folder in folders))
    assert len(shell) == 512
    # docs/method.md, section 3
    assert shell.thickness.mean().item() == pytest.approx(0.0344, abs=1e-4)


def test_files_of_different_shells(files):
    _, inner, outer = files
    with pytest.raises(InputError, match="an outer sphere is no larger"):
        read_h5(outer, inner)
    rewrite(outer, np.ones((8, 4)))
    with pytest.raises(InputError, match="centres are not those of"):
        read_h5(inner, outer)
    rewrite(outer, np.ones((9, 4)))
    with pytest.raises(InputError, match="centres are not those of"):
        read_h5(inner, outer)


@pytest.mark.parametrize(
    "rows",
    [
        np.ones(4),
        np.ones((3, 5)),
        np.ones((0, 4)),
        np.full((3, 4), np.nan),
        np.full((3, 4), b"text"),
    ],
)
def test_damaged_rows(files, rows):
    _, inner, outer = files
    rewrite(inner, rows)
    with pytest.raises(InputError, match="inner.h5"):
        read_h5(inner, outer)


def test_damaged_files(files, tmp_path):
    _, inner, outer = files
    content = outer.read_bytes()
    for damaged in (b"", b"garbage" * 100, content[: len(content) // 2]):
        outer.write_bytes(damaged)
        with pytest.raises(InputError, match="outer.h5: not a readable HDF5 file"):
            read_h5(inner, outer)
    rewrite(outer, np.ones((9, 4)), name="other")
    with pytest.raises(InputError, match="outer.h5"):
        read_h5(inner, outer)
    with pytest.raises(InputError, match="no such file"):
        read_h5(inner, tmp_path / "missing.h5")
    with pytest.raises(InputError):
        read_h5(tmp_path, outer)
