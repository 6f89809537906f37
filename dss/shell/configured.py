"""The key spheres and the dual shell that a configuration asks for."""

import numpy as np

from dss.config import SpheresSettings
from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh
from dss.shell.certify import build_shell, certify, solid
from dss.shell.cover import cover
from dss.shell.dual_shell import DualShell
from dss.shell.farthest import farthest
from dss.shell.io import read_h5, read_inner
from dss.shell.lattice import Lattice


def key_spheres(
    distance: MeshDistance, settings: SpheresSettings, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (S, 3) and radii (S,) of the inner spheres, float64. Raises InputError."""
    match settings.method:
        case "farthest":
            return farthest(distance, settings.count, settings.resolution)
        case "cover":
            return cover(distance, settings.count, seed)[:2]
        case "file":
            return read_inner(_named(settings, "inner"))


def dual_shell(
    mesh: Mesh,
    distance: MeshDistance,
    settings: SpheresSettings,
    seed: int,
    lattice: Lattice | None = None,
) -> DualShell:
    """The dual shell, its enclosure certified for every triangle; one that is given must be of this
    mesh. With a lattice it is of that, and certified as it is decoded. Raises InputError."""
    if settings.method == "file":
        shell = _given(mesh, distance, settings)
    else:
        spheres = _placed(distance, settings, seed, lattice)
        shell = build_shell(mesh.vertices, mesh.faces, *spheres, seed=seed)
    if lattice:
        shell = lattice.enclosing(shell)
        if leak := certify(mesh.vertices, mesh.faces, shell):
            raise RuntimeError(f"the coded shell leaks by {leak:.1e}")
    return shell


def _placed(
    distance: MeshDistance, settings: SpheresSettings, seed: int, lattice: Lattice | None
) -> tuple[np.ndarray, ...]:
    """Centres, inner radii and, of a cover, outer radii; with a lattice, of that."""
    if settings.method == "cover":
        return cover(distance, settings.count, seed, lattice)
    centers, radii = key_spheres(distance, settings, seed)
    if lattice is None:
        return centers, radii
    balls = lattice.balls(distance, centers)
    return balls[:, :3], balls[:, 3]


def _given(mesh: Mesh, distance: MeshDistance, settings: SpheresSettings) -> DualShell:
    """The shell in the files, as it stands where it is certified."""
    inner, outer = _named(settings, "inner"), _named(settings, "outer")
    shell = read_h5(inner, outer)
    if wrong := int((~solid(distance, shell)).sum()):
        raise InputError(
            f"{inner}: {wrong} of its {len(shell)} spheres do not lie inside the mesh; give those "
            "of this mesh, in its normalised frame (docs/conventions.md)"
        )
    leak = certify(mesh.vertices, mesh.faces, shell)
    if not leak:
        return shell
    if settings.leaks == "refuse":
        raise InputError(
            f"{outer}: its spheres do not enclose the surface: one must grow by {leak:.1e}; give "
            "larger ones, or let them grow with spheres.leaks=enlarge"
        )
    arrays = (buffer.numpy().astype(np.float64) for buffer in shell.buffers())
    return build_shell(mesh.vertices, mesh.faces, *arrays)


def _named(settings: SpheresSettings, key: str) -> str:
    """The path of a file. Raises InputError where none is named."""
    if path := getattr(settings, key):
        return path
    raise InputError(f"spheres.method=file: name the file of the {key} spheres with spheres.{key}")
