"""The contract of a sampler: where along rays a model is evaluated."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from dss.config import Settings
from dss.reconstruction.models.base import Model
from dss.reconstruction.ray_samples import RaySamples
from dss.rendering.cameras import Camera
from dss.shell.dual_shell import DualShell


class Sampler(nn.Module, ABC):
    """Packed samples of rays, for a model whose object lies in the unit ball.

    A sampler is one file: its settings, and a subclass made from them alone. What it must remember
    over a resume is a buffer or a parameter: its state dict is saved beside the model's. Training
    calls `prepare` before each step, where a sampler may change itself (refresh a grid, build a
    shell, move spheres by an optimiser of its own), then `aim`, then `sample`. What lies in no
    sample is transparent: a ray without samples is background, exactly.
    """

    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.shell: DualShell | None = None  # beyond it there is nothing, where the sampler has one

    @abstractmethod
    def sample(
        self, model: Model, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RaySamples:  # fmt: skip
        """Samples of rays, origins and unit directions (n, 3) float32. With a generator they are
        jittered, for training."""

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Called before training step `step`, counted from 0."""

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Called after the last step, to suit the finished model."""
        self.prepare(model, step, generator)

    def aim(self, camera: Camera, count: int, generator: torch.Generator) -> Tensor | None:
        """Up to `count` sub-pixel positions (k, 2) of the camera's picture to learn from.

        None where uniformly drawn pixels will do.
        """
        return None

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state dict."""
        self.load_state_dict(tensors)
