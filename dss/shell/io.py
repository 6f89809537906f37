"""The DSS authors' files of a dual shell: two HDF5 files, one of inner and one of outer spheres."""

from pathlib import Path

import h5py
import numpy as np
import torch

from dss.errors import InputError
from dss.files import is_file, replacing
from dss.shell.dual_shell import DualShell

MAX_SPHERES = 1 << 20  # of a file, a thousand times the authors'
MAX_VALUE = 1e6  # of a centre or a radius, in units in which the shape has the size 1
SAME_CENTER = 1e-6  # inner centres are stored as float64, outer ones as float32


def read_h5(inner_path: Path | str, outer_path: Path | str) -> DualShell:
    """The shell of a pair of files.

    Each has one dataset `data` (S, 4), with rows [x y z -r] of inner and [x y z R] of outer
    spheres. Raises InputError on a missing or damaged file, and on files that do not belong
    together.
    """
    inner, outer = _read(inner_path), _read(outer_path)
    radii = np.abs(inner[:, 3])
    if inner.shape != outer.shape or np.abs(inner[:, :3] - outer[:, :3]).max() > SAME_CENTER:
        reason = f"its centres are not those of {inner_path}"
        raise InputError(f"{outer_path}: {reason}; give the two files of one shell")
    if (outer[:, 3] <= radii).any():
        reason = f"an outer sphere is no larger than the inner one of {inner_path}"
        raise InputError(f"{outer_path}: {reason}; give the files in that order")
    return DualShell(inner[:, :3], radii, outer[:, 3])


def read_inner(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Centres (S, 3) and radii (S,), float64, of a file of inner spheres. Raises InputError as
    `read_h5`."""
    rows = _read(path)
    return rows[:, :3], np.abs(rows[:, 3])


def write_h5(shell: DualShell, inner_path: Path | str, outer_path: Path | str) -> None:
    """Write the pair of files that `read_h5` reads back to an equal shell."""
    spheres = [
        (inner_path, -shell.inner_radii, np.float64),
        (outer_path, shell.outer_radii, np.float32),
    ]
    for path, radii, kind in spheres:
        rows = torch.cat([shell.centers, radii[:, None]], 1).cpu().numpy().astype(kind)
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file["data"] = rows


def stored_values(dataset: h5py.Dataset, file: h5py.File) -> np.ndarray:
    """A dataset's real numbers as float64. Raises ValueError where they are something else, or lie
    in another file, which HDF5 would read just as well."""
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"a {type(dataset).__name__} where numbers are expected")
    if dataset.external or dataset.is_virtual or dataset.file != file:
        raise ValueError("its numbers lie in another file")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"numbers of the type {dataset.dtype}")
    return dataset.astype(np.float64)[()]


def _read(path: Path | str) -> np.ndarray:
    """Rows (S, 4) float64 of one file."""
    remedy = "give a dss authors' shell file, with one dataset `data` of S rows of 4 finite numbers"
    if not is_file(path):
        raise InputError(f"{path}: no such file; {remedy}")
    try:
        with h5py.File(path) as file:
            shape = file["data"].shape
            usable = len(shape) == 2 and 0 < shape[0] <= MAX_SPHERES and shape[1] == 4
            rows = stored_values(file["data"], file) if usable else np.empty((0, 4))
    except Exception as error:  # h5py raises OSError, KeyError, TypeError, ... on damaged files
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: not a readable HDF5 file ({reason}); {remedy}") from error
    if not usable or not (np.abs(rows) < MAX_VALUE).all():
        raise InputError(f"{path}: its dataset is damaged, shape {shape}; {remedy}")
    return rows
