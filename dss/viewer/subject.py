"""What the viewer shows: a run, the field in a file, or a mesh; and the truth, if it is there."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dss import ops
from dss.errors import InputError
from dss.evaluation.photos import scene_of
from dss.fields import Field
from dss.fields.mesh import MeshField
from dss.files import is_file
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.reconstruction.model_shell import ModelField
from dss.reconstruction.scene import Photo
from dss.rendering.mesh_buffers import corner_normals
from dss.rendering.spheres import pack_spheres
from dss.run import MeshRun, PhotoRun, open_run
from dss.shell.dual_shell import DualShell


@dataclass(frozen=True)
class Subject:
    """One thing to look at. At least one of `field` and `truth` is there."""

    name: str
    about: str  # facts for the user, and why something is missing
    field: Field | None = None
    truth: MeshDistance | None = None  # of the mesh that the field was fitted to
    run: PhotoRun | None = None  # of a surface from photos: what has colours
    photos: tuple[Photo, ...] = ()

    @property
    def device(self) -> torch.device:
        return (self.truth if self.field is None else self.field).device

    @property
    def shell(self) -> DualShell | None:
        return None if self.field is None else self.field.shell

    @cached_property
    def corner_normals(self) -> np.ndarray:
        """Of the truth, (f, 3, 3)."""
        return corner_normals(self.truth.vertices, self.truth.faces)

    @cached_property
    def truth_field(self) -> MeshField:
        """The exact distance to the truth."""
        return MeshField(self.truth)

    @cached_property
    def inner(self) -> ops.Shell:
        """The inner spheres of the shell, packed for tracing; those of radius 0 are left out."""
        some = self.shell.inner_radii > 0
        return pack_spheres(self.shell.centers[some], self.shell.inner_radii[some])

    @cached_property
    def outer(self) -> ops.Shell:
        """The outer spheres of the shell, packed for tracing."""
        return pack_spheres(self.shell.centers, self.shell.outer_radii)


def open_subject(
    path: Path | str, data: str | None = None, device: torch.device | str = "cpu"
) -> Subject:
    """What lies at `path`: a run folder or a file that `open_run` knows, else a mesh (or `demo`).

    `data` is where the mesh or the scene of a run is now, if it has moved; without it there is no
    truth, and the subject says so. Raises InputError where nothing of the kind is there.
    """
    path = Path(path)
    if path.suffix.lower() != ".dss" and (is_file(path) or str(path) == "demo"):
        mesh = load_mesh(path)
        truth = MeshDistance(mesh.vertices, mesh.faces, device)
        return Subject(path.name, f"mesh: {mesh.report}", truth=truth)
    run, name = open_run(path, device), path.resolve().name
    if isinstance(run, PhotoRun):
        surface = ModelField(run.model, run.sampler.shell)
        try:
            scene = scene_of(run, "train", data)
        except InputError as error:
            return Subject(name, f"no photos: {error}", surface, run=run)
        return Subject(name, f"{len(scene.photos)} photos", surface, None, run, tuple(scene.photos))
    about, truth = _facts(run), None
    try:
        mesh = run.load_mesh(data)
        truth = MeshDistance(mesh.vertices, mesh.faces, device)
    except InputError as error:
        about += f"; no mesh: {error}"
    return Subject(name, about, run.field, truth)


def _facts(run: MeshRun) -> str:
    facts = [run.config.field.method, f"{sum(run.field.storage().values()) / 1024:.1f} KiB"]
    facts += [f"{len(run.field.shell)} spheres"] if run.field.shell else []
    return ", ".join(facts)
