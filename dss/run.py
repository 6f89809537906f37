"""Run folders: everything that one fit needs, makes and remembers.

    config.yaml            the resolved configuration
    samples.npz            what the field stands on, the mesh's frame and all rounds of samples: enough to fit without the mesh
    field.safetensors      the fitted field; its metadata rebuilds it
    training.safetensors   the resumable state of an unfinished fit
    log/                   TensorBoard
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dss.config import Config, config_from_dict, load_config, save_config
from dss.errors import InputError
from dss.fields import METHODS, Field, build
from dss.fields.base import Geometry
from dss.files import replacing
from dss.fitting.samples import Samples

if TYPE_CHECKING:
    from dss.geometry.mesh import Mesh

VERSION = "1"  # of the field file
GEOMETRY = "geometry."  # prefix of what the field stands on, in samples.npz


@dataclass(frozen=True)
class Source:
    """The mesh that a field was fitted to, and its frame: input = normalised * scale + center."""

    path: str
    sha256: str
    center: tuple[float, float, float]
    scale: float  # input units per normalised unit


@dataclass(frozen=True)
class Run:
    """A finished fit, loaded."""

    folder: Path
    config: Config
    source: Source
    field: Field

    @property
    def field_path(self) -> Path:
        return self.folder / "field.safetensors"

    def load_mesh(self, path: str | None = None) -> "Mesh":
        """The mesh that the field was fitted to, normalised; `path` where it has moved. After a fit to a point cloud: any mesh
        in the cloud's units, in its frame.

        Raises InputError where it is not there, or is another one.
        """
        from dss.geometry.mesh import load_mesh
        from dss.geometry.points import is_cloud

        if path and is_cloud(self.source.path):
            mesh = load_mesh(path)
            center, scale = np.array(self.source.center), self.source.scale
            return dataclasses.replace(mesh, vertices=(mesh.to_input(mesh.vertices) - center) / scale, center=center, scale=scale)

        path = path or self.source.path
        if path != "demo" and not Path(path).is_file():
            raise InputError(f"{self.folder}: its mesh was {path}, which is not there; name it with --mesh")
        mesh = load_mesh(path, self.config.mesh.radius)
        if mesh.sha256 != self.source.sha256:
            raise InputError(f"{path}: not the mesh that {self.folder} was fitted to (its contents differ); name that one with --mesh")
        return mesh


class Log:
    """A fit's progress: a bar on the terminal (quiet where there is none) and TensorBoard scalars and pictures in log/."""

    def __init__(self, folder: Path, epochs: int, picture: Callable[[Field], np.ndarray], every: int):
        """`picture` makes an (h, w, 3) uint8 image of the field, every `every` epochs and at the end."""
        self.picture, self.every, self.epochs = picture, every, epochs
        self.bar = tqdm(total=epochs, desc="fit", unit="epoch", disable=None)
        self.writer = SummaryWriter(folder / "log")

    def report(self, epoch: int, field: Field, scalars: dict[str, float]) -> None:
        """Show the state after `epoch` epochs; a `fit.Report`."""
        self.bar.update(epoch - self.bar.n)
        self.bar.set_postfix({name: f"{value:.2e}" for name, value in scalars.items()})
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, epoch)
        if epoch % self.every == 0 or epoch == self.epochs:
            self.writer.add_image("normals", self.picture(field), epoch, dataformats="HWC")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.writer.close()


def open_folder(folder: Path, config: Any) -> None:
    """Make the run folder and save the configuration; a folder of the same configuration is resumed.

    Raises InputError where the folder holds something else.
    """
    saved = folder / "config.yaml"
    if saved.is_file():
        if load_config(saved, kind=type(config)) != config:
            raise InputError(f"{folder}: holds a run with another configuration; choose another --out, or delete the folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not a run folder, and not empty; choose another --out")
    else:
        save_config(config, saved)


def save_samples(folder: Path, source: Source, geometry: Geometry, rounds: list[Samples]) -> None:
    """Write samples.npz."""
    arrays = {GEOMETRY + name: value.numpy() for name, value in geometry.items()}
    for index, samples in enumerate(rounds):
        arrays |= {f"{item.name}_{index}": getattr(samples, item.name).numpy() for item in dataclasses.fields(Samples)}
    with replacing(folder / "samples.npz") as temporary:
        np.savez(temporary, source=np.array(json.dumps(dataclasses.asdict(source))), **arrays)


def load_samples(folder: Path) -> tuple[Source, Geometry, list[Samples]]:
    """Read samples.npz. Raises InputError where it is damaged."""
    path = folder / "samples.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            source = _source(json.loads(str(arrays["source"])))
            geometry = {name.removeprefix(GEOMETRY): torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(GEOMETRY)}
            count = sum(name.startswith("points_") for name in arrays.files)
            names = [item.name for item in dataclasses.fields(Samples)]
            rounds = [Samples(*(torch.from_numpy(arrays[f"{name}_{index}"]) for name in names)) for index in range(count)]
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
        raise InputError(f"{path}: damaged ({error}); delete it, and train.py makes it again") from error
    return source, geometry, rounds


def save_field(folder: Path, field: Field, config: Config, source: Source) -> None:
    """Write field.safetensors: the state dict, with all that rebuilds the field in the metadata."""
    about = {"version": VERSION, "config": dataclasses.asdict(config), "source": dataclasses.asdict(source)}
    save_tensors(folder / "field.safetensors", field.state_dict(), about)


def load_run(folder: Path | str, device: torch.device | str = "cpu") -> Run:
    """Load a finished run. Raises InputError where the folder is not one, or its field file is damaged or foreign."""
    folder = Path(folder)
    path = folder / "field.safetensors"
    if not path.is_file():
        if (folder / "config.yaml").is_file():
            raise InputError(f"{folder}: its fit has not finished; the train.py command that began it resumes it")
        raise InputError(f"{folder}: not a run folder; make one with train.py")
    tensors, about = load_tensors(path)
    if about.get("version") != VERSION:
        raise InputError(f"{path}: written by another version of dss ({about.get('version', 'none')}); fit it again")
    try:
        config, source = config_from_dict(about["config"], str(path)), _source(about["source"])
        field = build(config.field, {name: tensors[name] for name in METHODS[config.field.method].stands_on})
        field.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: not a field of dss, or damaged ({' '.join(str(error).split())}); fit it again") from error
    return Run(folder, config, source, field.to(device).eval())


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON-able dictionary as one safetensors file."""
    with replacing(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, {"dss": json.dumps(about)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Raises InputError where it is damaged or foreign."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads((file.metadata() or {})["dss"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a file of dss, or damaged ({error}); fit it again") from error


def _source(values: dict[str, Any]) -> Source:
    return Source(values["path"], values["sha256"], tuple(values["center"]), values["scale"])
