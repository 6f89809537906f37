"""Run folders: everything that one fit needs, makes and remembers, for meshes and for photos.

config.yaml                            the resolved configuration
samples.npz                            of meshes: enough to fit the field without the mesh
field.dss                              the field in few bytes, where it was fitted to be coded
field.safetensors, model.safetensors   the field or model; the metadata rebuilds it
training.safetensors                   the resumable state of an unfinished fit
log/                                   TensorBoard
"""

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dss import config as configuration
from dss.checkpoint import (
    MISFITS,
    REMEDY,
    check_tensors,
    load_tensors,
    part,
    save_tensors,
    with_prefix,
)
from dss.codec.container import MAX_BYTES
from dss.codec.pack import decode_field, encode_field
from dss.codec.quantise import restored_steps
from dss.config import Config, MeshConfig, PhotoConfig
from dss.errors import InputError
from dss.fields import METHODS, Field, build
from dss.fields.base import Geometry, Samples
from dss.files import is_file, is_folder, is_temporary, remove_stale, replacing
from dss.geometry.similarity import Similarity
from dss.reconstruction.models import Model, build_model
from dss.reconstruction.samplers import Sampler, build_sampler
from dss.reconstruction.volume_rendering import background_colour
from dss.registry import PLUGINS
from dss.shell.lattice import Lattice

if TYPE_CHECKING:
    import trimesh

    from dss.geometry.mesh import Mesh
    from dss.geometry.points import PointCloud

VERSION = "2"  # of field and model files
GEOMETRY = "geometry."  # prefix in samples.npz of the tensors that the field is built on
CHECKSUM_BYTES = 64  # at the end of samples.npz


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
        """What is stored of the field: the coded file where it holds this very field."""
        coded = self.folder / "field.dss"
        if self.field.code_steps is not None and is_file(coded):
            return coded
        return self.folder / "field.safetensors"

    def packed(self) -> bytes:
        """The field as a .dss file. Raises InputError where it cannot be coded."""
        sha256 = "" if self.config.samples.method == "oriented" else self.source.sha256
        inputs = self.field, self.config.field, self.source.similarity, sha256
        try:
            return encode_field(
                *inputs, None if self.field.code_steps is None else Lattice.of(self.config)
            )
        except ValueError as error:
            raise InputError(f"{self.folder}: cannot be coded ({error}); fit it anew") from error

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
            truth = load_points(path, radius, self.config.samples.normals)
        else:
            truth = load_mesh(path, radius, self.config.mesh.repair)
        if truth.sha256 != self.source.sha256:
            kind = "points" if fitted_to_cloud else "mesh"
            raise InputError(
                f"{path}: not the {kind} that {self.folder} was fitted to (its contents differ); "
                "name that one with --data"
            )
        return truth

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
class CodedRun(MeshRun):
    """The field in a .dss file, which is its `folder`."""

    @property
    def file(self) -> Path:
        return self.folder

    def packed(self) -> bytes:
        return self.folder.read_bytes()

    def load_truth(self, path: str | None = None) -> "Mesh | PointCloud":
        """What is at `path`, in the field's frame. Raises InputError where none is named, or the
        file says that the field was fitted to another mesh."""
        from dss.geometry.mesh import load_mesh
        from dss.geometry.points import is_cloud, load_points

        if path is None:
            raise InputError(f"{self.folder}: does not hold the truth; name it with --data")
        if is_cloud(path):
            cloud = load_points(path, self.config.mesh.radius, self.config.samples.normals)
            points = self._normalised(cloud.points, cloud.similarity)
            return dataclasses.replace(cloud, points=points, similarity=self.source.similarity)
        mesh = load_mesh(path)
        if not mesh.sha256.startswith(self.source.sha256):
            raise InputError(
                f"{path}: not the mesh that {self.folder} was fitted to (its contents differ); "
                "name that one with --data"
            )
        vertices = self._normalised(mesh.vertices, mesh.similarity)
        return dataclasses.replace(mesh, vertices=vertices, similarity=self.source.similarity)

    def _normalised(self, points: np.ndarray, similarity: Similarity) -> np.ndarray:
        """Points of a frame in the field's own; the same where the frames are."""
        if similarity == self.source.similarity:
            return points
        return self.source.similarity.inverse(similarity.apply(points))


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


def enter_folder(folder: Path, config: Config) -> bool:
    """Whether the folder holds a run of this configuration. What killed processes left half written
    there is removed.

    A configuration and a log alone are no run yet, and may be replaced. Raises InputError where the
    folder holds something else.
    """
    if not (is_folder(folder) or is_file(folder)):
        return False
    entries = folder.iterdir() if is_folder(folder) else [folder]
    names = {path.name for path in entries if not is_temporary(path)}
    saved, begun = folder / "config.yaml", not names <= {"config.yaml", "log"}
    if not saved.is_file() and begun:
        raise InputError(f"{folder}: not a run folder, and not empty; choose another --out")
    same = saved.is_file() and configuration.load_config(saved, [], PLUGINS) == config
    if begun and not same:
        raise InputError(
            f"{folder}: holds a run with another configuration; choose another --out, or delete "
            "the folder"
        )
    remove_stale(folder)
    return same


def open_folder(folder: Path, config: Config) -> None:
    """Make the run folder and save the configuration; a folder of the same configuration is
    resumed.

    Raises InputError where the folder holds something else.
    """
    if not enter_folder(folder, config):
        configuration.save_config(config, folder / "config.yaml")


def is_coded(path: Path | str) -> bool:
    """Whether a .dss file is there, by its name."""
    return Path(path).suffix.lower() == ".dss" and is_file(path)


def open_run(folder: Path | str, device: torch.device | str = "cpu") -> Run:
    """Load a finished run, or the field in a .dss file. Raises InputError where the folder holds
    none, or its file is damaged, foreign or old."""
    folder = Path(folder)
    if is_coded(folder):
        return _coded_run(folder, device)
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
        found = " ".join(str(about.get("version", "none")).split())[:20]
        raise InputError(
            f"{path}: written by another version of dss ({found}, not {VERSION}); {REMEDY}"
        )
    try:
        config = configuration.config_from_dict(about["config"], "its configuration", PLUGINS)
        source, steps = _source(about["source"]), about.get("steps")
        return files[path](folder, config, source, tensors, steps, device)
    except MISFITS as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a run of dss, or damaged ({reason}); {REMEDY}") from error


def _coded_run(path: Path, device: torch.device | str) -> CodedRun:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    coded = decode_field(data, str(path))
    config = MeshConfig(field=coded.settings)
    return CodedRun(path, config, Source("", coded.mesh, coded.similarity), coded.field.to(device))


def _mesh_run(
    folder: Path,
    config: MeshConfig,
    source: Source,
    tensors: dict[str, Tensor],
    steps: Any,
    device: Any,
) -> MeshRun:
    _check_size(config.field, tensors)
    keys = METHODS[config.field.method].geometry_keys
    field = build(config.field, {name: tensors[name] for name in keys})
    check_tensors(field, tensors)
    field.load_state_dict(tensors)
    field.code_steps = restored_steps(field, steps)
    field.sdf(torch.zeros(2, 3))  # what a field is built on has shapes of its own
    return MeshRun(folder, config, source, field.to(device).eval())


def _photo_run(
    folder: Path,
    config: PhotoConfig,
    source: Source,
    tensors: dict[str, Tensor],
    _steps: Any,
    device: Any,
) -> PhotoRun:
    _check_size(config.model, tensors)
    model, sampler = build_model(config.model), build_sampler(config.sampler)
    for name, module in (("model", model), ("sampler", sampler)):
        check_tensors(module, part(tensors, name))
    model.load_state_dict(part(tensors, "model"))
    sampler.restore(part(tensors, "sampler"))
    return PhotoRun(folder, config, source, model.to(device).eval(), sampler.to(device))


def _check_size(settings: configuration.Settings, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError where the settings are of more than the tensors of their file, before that
    much is built."""
    found = sum(value.numel() for value in tensors.values())
    if settings.least_parameters() > found:
        raise ValueError(f"{found} numbers are too few for its configuration")


def save_field(folder: Path, field: Field, config: MeshConfig, source: Source) -> MeshRun:
    """Write field.safetensors: the state dict, with all that rebuilds the field in the metadata.
    Before it, where the field was fitted to be coded, field.dss."""
    run, about = MeshRun(folder, config, source, field.eval()), _about(config, source)
    if field.code_steps is not None:
        save_packed(run, folder / "field.dss")
        about["steps"] = {name: steps.tolist() for name, steps in field.code_steps.items()}
    save_tensors(folder / "field.safetensors", field.state_dict(), about)
    return run


def save_packed(run: MeshRun, path: Path) -> None:
    """Write the run's field as a .dss file. Raises InputError where `path` has another suffix."""
    if path.suffix.lower() != ".dss":
        raise InputError(f"{path}: coded fields are .dss files; choose such a name")
    with replacing(path) as temporary:
        temporary.write_bytes(run.packed())


def pack_run(run: MeshRun, path: Path, device: torch.device | str = "cpu") -> CodedRun:
    """Write the run's field as a .dss file, and open that."""
    save_packed(run, path)
    return _coded_run(path, device)


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
    """Write samples.npz. Its archive comment is the SHA-256 of all that is before it."""
    arrays = {GEOMETRY + name: value.numpy() for name, value in geometry.items()}
    for index, samples in enumerate(rounds):
        arrays |= {
            f"{item.name}_{index}": getattr(samples, item.name).numpy()
            for item in dataclasses.fields(Samples)
        }
    with replacing(folder / "samples.npz") as temporary:
        np.savez(temporary, source=np.array(json.dumps(dataclasses.asdict(source))), **arrays)
        with temporary.open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(CHECKSUM_BYTES.to_bytes(2, "little"))  # the length of the comment
            file.write(_sha256(file, file.tell()))


def load_samples(folder: Path) -> tuple[Source, Geometry, list[Samples]]:
    """Read samples.npz. Raises InputError where it is damaged."""
    path = folder / "samples.npz"
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 22))
            if file.read(4) != b"PK\5\6":  # of an archive without a comment: an earlier version's
                checksum = _sha256(file, max(0, end - CHECKSUM_BYTES))
                if file.read() != checksum:
                    raise ValueError("its checksum is not that of its contents")
        with np.load(path, allow_pickle=False) as arrays:
            source = _source(json.loads(str(arrays["source"])))
            tensors = {
                name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "source"
            }
        geometry = {
            name.removeprefix(GEOMETRY): value
            for name, value in tensors.items()
            if name.startswith(GEOMETRY)
        }
        names = [item.name for item in dataclasses.fields(Samples)]
        count = sum(name.startswith("points_") for name in tensors)
        rounds = [
            _samples(*(tensors[f"{name}_{index}"] for name in names)) for index in range(count)
        ]
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({reason}); {REMEDY}") from error
    return source, geometry, rounds


def _sha256(file: BinaryIO, size: int) -> bytes:
    """The SHA-256, in hexadecimal, of the first bytes of a file; the file is left behind them."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(min(size - file.tell(), 1 << 20)):
        digest.update(block)
    return digest.hexdigest().encode()


def _samples(points: Tensor, owner: Tensor, sdf: Tensor) -> Samples:
    """Samples of a file. Raises ValueError where they are none."""
    kinds = (points.dtype, owner.dtype, sdf.dtype) == (torch.float32, torch.int64, torch.float32)
    count = len(points)
    shapes = (points.shape, owner.shape, sdf.shape) == ((count, 3), (count,), (count,))
    if not (kinds and shapes and points.isfinite().all() and sdf.isfinite().all()):
        raise ValueError("its arrays are no samples")
    return Samples(points, owner, sdf)


def _source(values: dict[str, Any]) -> Source:
    """The source in a file. Raises ValueError, KeyError or TypeError where it is none."""
    path, sha256, similarity = values["path"], values["sha256"], values["similarity"]
    center, scale = tuple(similarity["center"]), similarity["scale"]
    numbers = [*center, scale]
    if not (
        isinstance(path, str)
        and isinstance(sha256, str)
        and len(center) == 3
        and all(type(number) is float and math.isfinite(number) for number in numbers)
        and scale > 0
    ):
        raise ValueError("its source is no file with a scale and a shift")
    return Source(path, sha256, Similarity(center, scale))
