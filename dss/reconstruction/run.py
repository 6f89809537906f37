"""Run folders of surfaces from images.

    config.yaml            the resolved configuration
    model.safetensors      the trained model and its sampler; the scene's frame and the configuration in the metadata
    training.safetensors   the resumable state of an unfinished training
    log/                   TensorBoard
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dss.config import config_from_dict, read_yaml
from dss.errors import InputError
from dss.reconstruction.cameras import Frame
from dss.reconstruction.config import ViewsConfig
from dss.reconstruction.models.base import Model, build_model
from dss.reconstruction.samplers.base import Sampler, build_sampler
from dss.reconstruction.scene import Scene
from dss.reconstruction.training import BACKGROUNDS, Training, part
from dss.reconstruction.volume_rendering import Picture, render_picture
from dss.run import load_tensors, save_tensors

VERSION = "views 1"  # of the model file
EVERY = 20  # steps between scalars in the log
THUMBNAIL = 100  # pixels, the most per side, of the pictures in the log


@dataclass(frozen=True)
class ViewsRun:
    """A finished training, loaded."""

    folder: Path
    config: ViewsConfig
    frame: Frame
    model: Model
    sampler: Sampler

    @property
    def background(self) -> Tensor:
        return background(self.config, self.model.device)


def background(config: ViewsConfig, device: torch.device) -> Tensor:
    """The colour (3,) behind the object in pictures."""
    return torch.full((3,), BACKGROUNDS[config.scene.background], device=device)


def is_views(path: Path | str) -> bool:
    """Whether a configuration file, or the one in a run folder, is of surfaces from images: it has a section `scene`."""
    path = Path(path)
    path = path / "config.yaml" if path.is_dir() else path
    return path.suffix in (".yaml", ".yml") and path.is_file() and "scene" in read_yaml(path)


def save_run(folder: Path, training: Training) -> None:
    """Write model.safetensors."""
    tensors = {f"model.{name}": value for name, value in training.model.state_dict().items()}
    tensors |= {f"sampler.{name}": value for name, value in training.sampler.state_dict().items()}
    about = {"version": VERSION, "config": dataclasses.asdict(training.config), "frame": dataclasses.asdict(training.scene.frame)}
    save_tensors(folder / "model.safetensors", tensors, about)


def load_views_run(folder: Path | str, device: torch.device | str = "cpu") -> ViewsRun:
    """Load a finished training. Raises InputError where the folder does not hold one, or its model file is damaged."""
    folder = Path(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{folder}: its training has not finished; the train.py command that began it resumes it")
    tensors, about = load_tensors(path)
    if about.get("version") != VERSION:
        raise InputError(f"{path}: written by another version of dss ({about.get('version', 'none')}); train it again")
    try:
        config = config_from_dict(about["config"], str(path), ViewsConfig)
        frame = Frame(tuple(about["frame"]["center"]), about["frame"]["scale"])
        model, sampler = build_model(config.model), build_sampler(config.sampler)
        model.load_state_dict(part(tensors, "model."))
        sampler.restore(part(tensors, "sampler."))
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: not a model of dss, or damaged ({' '.join(str(error).split())}); train it again") from error
    return ViewsRun(folder, config, frame, model.to(device).eval(), sampler.to(device))


class ViewsLog:
    """A training's progress: a bar on the terminal and TensorBoard scalars and pictures in log/."""

    def __init__(self, folder: Path, config: ViewsConfig, scene: Scene):
        self.config = config
        camera = scene.photos[0].camera
        self.camera = camera.downscaled(max(1, -(-max(camera.width, camera.height) // THUMBNAIL)))
        self.bar = tqdm(total=config.train.steps, desc="train", unit="step", disable=None)
        self.writer = SummaryWriter(folder / "log")

    def report(self, training: Training, scalars: dict[str, Tensor | float]) -> None:
        """Show the state after a step; a `training.Report`."""
        step, model = training.step, training.model
        last = step == self.config.train.steps
        if step % EVERY == 0 or last:
            numbers = {name: float(value) for name, value in scalars.items()}
            numbers |= {name: value.item() for name, value in model.scalars().items()}
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix({name: f"{value:.3g}" for name, value in numbers.items()})
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, step)
        if step % self.config.train.checkpoint == 0 or last:
            picture = render_picture(model, training.sampler, self.camera, background(self.config, model.device), self.config.render)
            self.writer.add_image("colour", picture.colour, step, dataformats="HWC")
            self.writer.add_image("normals", normals_of(picture), step, dataformats="HWC")

    def __enter__(self) -> "ViewsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.writer.close()


def normals_of(picture: Picture) -> np.ndarray:
    """The picture's normals as colours (height, width, 3) uint8, faded to white where it is transparent."""
    share = picture.opacity.clip(0, 1)[..., None]
    return (255 * (share * (picture.normal + 1) / 2 + 1 - share)).round().astype(np.uint8)
