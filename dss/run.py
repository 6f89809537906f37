"""Run folders: everything that one fit needs, makes and remembers, the same for meshes and for
photos.

config.yaml                            the resolved configuration samples.npz
of meshes: enough to fit the field without the mesh field.safetensors, model.safetensors   the
fitted field or the trained model; the metadata rebuilds it training.safetensors
the resumable state of an unfinished fit log/                                   TensorBoard
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dss import config as configuration
from dss.checkpoint import load_tensors, part, save_tensors, with_prefix
from dss.config import Config, MeshConfig, PhotoConfig
from dss.errors import InputError
from dss.fields import METHODS, Field, build
from dss.fields.base import Geometry, Samples
from dss.files import is_file, is_folder, replacing
from dss.geometry.similarity import Similarity
from dss.progress import Event, Progress
from dss.reconstruction.models import MODELS, Model, build_model
from dss.reconstruction.samplers import SAMPLERS, Sampler, build_sampler
from dss.reconstruction.volume_rendering import background_colour

if TYPE_CHECKING:
    import trimesh

    from dss.geometry.mesh import Mesh
    from dss.geometry.points import PointCloud

VERSION = "2"  # of field and model files
GEOMETRY = "geometry."  # prefix in samples.npz of the tensors that the field is built on
CONFIGS = Path(__file__).parents[1] / "configs"  # that ship with the project
PLUGINS = {
    section: {name: kind.Settings for name, kind in found.items()}
    for section, found in (("field", METHODS), ("model", MODELS), ("sampler", SAMPLERS))
}


@dataclass(frozen=True)
class Source:
    """What a run was made from, and the similarity from its normalised frame to the input's."""

    path: str  # of the mesh, the point cloud or the scene
    sha256: str  # of the file's bytes; of a scene: of its cameras
    similarity: Similarity


@dataclass(frozen=True)
class MeshRun:
    """A field fitted to a mesh or to a point cloud."""

    folder: Path
    config: MeshConfig
    source: Source
    field: Field

    @property
    def file(self) -> Path:
        """What is stored of the field."""
        return self.folder / "field.safetensors"

    def surface(self, resolution: int = 256) -> "trimesh.Trimesh":
        """The field's zero set in the normalised frame, as `isosurface.extract`."""
        from dss.rendering.isosurface import extract

        return extract(self.field, resolution, str(self.folder))

    def load_truth(self, path: str | None = None) -> "Mesh | PointCloud":
        """What the field was fitted to, normalised, and found at `path` where it has moved.

        After a fit to a point cloud, `path` may name a mesh in the cloud's units instead: the true
        surface. Raises InputError where nothing is there, or something else.
        """
        from dss.geometry.mesh import load_mesh
        from dss.geometry.points import is_cloud, load_points

        radius, fitted_to_cloud = self.config.mesh.radius, is_cloud(self.source.path)
        if path and fitted_to_cloud and not is_cloud(path):
            mesh, similarity = load_mesh(path), self.source.similarity
            vertices = similarity.inverse(mesh.similarity.apply(mesh.vertices))
            return dataclasses.replace(mesh, vertices=vertices, similarity=similarity)
        path = path or self.source.path
        if path != "demo" and not is_file(path):
            raise InputError(
                f"{self.folder}: was fitted to {path}, which is not there; name its place with "
                "--data"
            )
        if fitted_to_cloud:
            return load_points(path, radius, self.config.samples.normals)
        mesh = load_mesh(path, radius)
        if mesh.sha256 != self.source.sha256:
            raise InputError(
                f"{path}: not the mesh that {self.folder} was fitted to (its contents differ); "
                "name that one with --data"
            )
        return mesh

    def load_mesh(self, path: str | None = None) -> "Mesh":
        """`load_truth` where only a mesh will do. Raises InputError after a fit to a point cloud,
        unless `path` is a mesh."""
        from dss.geometry.mesh import Mesh

        truth = self.load_truth(path)
        if not isinstance(truth, Mesh):
            raise InputError(
                f"{self.folder}: was fitted to a point cloud; name the true mesh with --data"
            )
        return truth


@dataclass(frozen=True)
class PhotoRun:
    """A model of a surface, trained on the photos of a scene."""

    folder: Path
    config: PhotoConfig
    source: Source
    model: Model
    sampler: Sampler

    @property
    def similarity(self) -> Similarity:
        """From the unit ball to the scene's units."""
        return self.source.similarity

    @property
    def background(self) -> Tensor:
        """The colour (3,) behind the object in pictures."""
        return background_colour(self.config.scene, self.model.device)

    def surface(self, resolution: int = 256) -> "trimesh.Trimesh":
        """The model's zero set in the unit ball, as `isosurface.extract`."""
        from dss.reconstruction.model_shell import ModelField
        from dss.rendering.isosurface import extract

        return extract(ModelField(self.model, self.sampler.shell), resolution, str(self.folder))


Run = MeshRun | PhotoRun


def load_config(
    path: Path | str | None, overrides: list[str] = (), data: str | None = None
) -> Config:
    """The configuration in a file, or of that name in configs/ (None: all defaults), with
    overrides; see `dss.config`.

    `data` is what to fit: a mesh, a point cloud or the folder of a scene.
    """
    if path is not None and not is_file(path) and is_file(CONFIGS / f"{path}.yaml"):
        path = CONFIGS / f"{path}.yaml"
    if data:
        photos = path is not None and "scene" in configuration.read_yaml(Path(path))
        overrides = [*overrides, f"{'scene' if photos else 'mesh'}.path={data}"]
    return configuration.load_config(path, list(overrides), PLUGINS)


def open_folder(folder: Path, config: Config) -> None:
    """Make the run folder and save the configuration; a folder of the same configuration is
    resumed.

    Raises InputError where the folder holds something else.
    """
    saved = folder / "config.yaml"
    if is_file(saved):
        if load_config(saved) != config:
            raise InputError(
                f"{folder}: holds a run with another configuration; choose another --out, or "
                "delete the folder"
            )
    elif is_file(folder) or (is_folder(folder) and any(folder.iterdir())):
        raise InputError(f"{folder}: not a run folder, and not empty; choose another --out")
    else:
        configuration.save_config(config, saved)


def open_run(folder: Path | str, device: torch.device | str = "cpu") -> Run:
    """Load a finished run. Raises InputError where the folder holds none, or its file is damaged,
    foreign or old."""
    folder = Path(folder)
    files = {folder / "field.safetensors": _mesh_run, folder / "model.safetensors": _photo_run}
    path = next(filter(is_file, files), None)
    if path is None:
        if is_file(folder / "config.yaml"):
            raise InputError(
                f"{folder}: its fit has not finished; the train.py command that began it resumes it"
            )
        raise InputError(f"{folder}: not a run folder; make one with train.py")
    tensors, about = load_tensors(path)
    if about.get("version") != VERSION:
        found = about.get("version", "none")
        raise InputError(
            f"{path}: written by another version of dss ({found}, not {VERSION}); fit it again"
        )
    try:
        config = configuration.config_from_dict(about["config"], str(path), PLUGINS)
        return files[path](folder, config, _source(about["source"]), tensors, device)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a run of dss, or damaged ({reason}); fit it again"
        ) from error


def _mesh_run(
    folder: Path, config: MeshConfig, source: Source, tensors: dict[str, Tensor], device: Any
) -> MeshRun:
    keys = METHODS[config.field.method].geometry_keys
    field = build(config.field, {name: tensors[name] for name in keys})
    field.load_state_dict(tensors)
    return MeshRun(folder, config, source, field.to(device).eval())


def _photo_run(
    folder: Path, config: PhotoConfig, source: Source, tensors: dict[str, Tensor], device: Any
) -> PhotoRun:
    model, sampler = build_model(config.model), build_sampler(config.sampler)
    model.load_state_dict(part(tensors, "model"))
    sampler.restore(part(tensors, "sampler"))
    return PhotoRun(folder, config, source, model.to(device).eval(), sampler.to(device))


def save_field(folder: Path, field: Field, config: MeshConfig, source: Source) -> MeshRun:
    """Write field.safetensors: the state dict, with all that rebuilds the field in the metadata."""
    save_tensors(folder / "field.safetensors", field.state_dict(), _about(config, source))
    return MeshRun(folder, config, source, field.eval())


def save_model(
    folder: Path, model: Model, sampler: Sampler, config: PhotoConfig, source: Source
) -> PhotoRun:
    """Write model.safetensors: the state dicts of model and sampler, with all that rebuilds them in
    the metadata."""
    tensors = with_prefix("model", model.state_dict()) | with_prefix(
        "sampler", sampler.state_dict()
    )
    save_tensors(folder / "model.safetensors", tensors, _about(config, source))
    return PhotoRun(folder, config, source, model.eval(), sampler)


def _about(config: Config, source: Source) -> dict[str, Any]:
    return {"version": VERSION, "config": config.model_dump(), "source": dataclasses.asdict(source)}


def save_samples(folder: Path, source: Source, geometry: Geometry, rounds: list[Samples]) -> None:
    """Write samples.npz."""
    arrays = {GEOMETRY + name: value.numpy() for name, value in geometry.items()}
    for index, samples in enumerate(rounds):
        arrays |= {
            f"{item.name}_{index}": getattr(samples, item.name).numpy()
            for item in dataclasses.fields(Samples)
        }
    with replacing(folder / "samples.npz") as temporary:
        np.savez(temporary, source=np.array(json.dumps(dataclasses.asdict(source))), **arrays)


def load_samples(folder: Path) -> tuple[Source, Geometry, list[Samples]]:
    """Read samples.npz. Raises InputError where it is damaged."""
    path = folder / "samples.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            source = _source(json.loads(str(arrays["source"])))
            tensors = {
                name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "source"
            }
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
        raise InputError(
            f"{path}: damaged ({error}); delete it, and train.py makes it again"
        ) from error
    geometry = {
        name.removeprefix(GEOMETRY): value
        for name, value in tensors.items()
        if name.startswith(GEOMETRY)
    }
    names = [item.name for item in dataclasses.fields(Samples)]
    count = sum(name.startswith("points_") for name in tensors)
    return (
        source,
        geometry,
        [Samples(*(tensors[f"{name}_{index}"] for name in names)) for index in range(count)],
    )


def _source(values: dict[str, Any]) -> Source:
    similarity = values["similarity"]
    return Source(
        values["path"],
        values["sha256"],
        Similarity(tuple(similarity["center"]), similarity["scale"]),
    )


class Log:
    """A fit's progress: events for the caller, and TensorBoard's scalars and pictures in log/."""

    def __init__(self, folder: Path, stage: str, total: int, progress: Progress):
        self.stage, self.total, self.progress = stage, total, progress
        self.writer = SummaryWriter(folder / "log")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Show numbers after `step` of `total` steps."""
        text = ", ".join(f"{name} {float(value):.3g}" for name, value in values.items())
        self.progress(Event(self.stage, step, self.total, text))
        for name, value in values.items():
            self.writer.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, make: Callable[[], np.ndarray]) -> None:
        """Add the picture (h, w, 3) uint8 that `make` draws."""
        self.writer.add_image(name, make(), step, dataformats="HWC")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()
