"""Where along rays a model is evaluated.

A sampler plugs in as a subclass of `Sampler`, one line in `build_sampler`, and its name in `SamplerConfig.method`. What it must
remember over a resume is a buffer or a parameter of the module: its state dict is saved beside the model's. Training
calls `prepare` before each step (there, occupancy refreshes its grid and shell builds its shells; trainable spheres would
take a step of their own optimiser), then may ask `aim` for the pixels to learn from, then asks for `sections`. What lies in no
section is transparent: rays without any are background, exactly.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dss import ops
from dss.reconstruction.cameras import Pinhole
from dss.reconstruction.config import SamplerConfig
from dss.reconstruction.intervals import Sections, between, divide, union
from dss.reconstruction.models.base import Model
from dss.shell.dual_shell import DualShell


class Sampler(nn.Module, ABC):
    """Packed sections of rays, for a model whose object lies in the unit ball."""

    def __init__(self, config: SamplerConfig):
        super().__init__()
        self.config = config
        self.shell: DualShell | None = None  # outside of which there is nothing, where the sampler has one

    @abstractmethod
    def sections(self, model: Model, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None) -> Sections:
        """Sections of rays, origins and unit directions (n, 3); with a generator they are jittered, for training."""

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Called before training step `step`, counted from 0."""

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Called after the last step, to suit the finished model."""
        self.prepare(model, step, generator)

    def aim(self, camera: Pinhole, count: int, generator: torch.Generator) -> Tensor | None:
        """Up to `count` sub-pixel positions (k, 2) of the camera's picture to learn from; None: uniform pixels will do."""
        return None

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state dict."""
        self.load_state_dict(tensors)


class Uniform(Sampler):
    """Plain NeuS: evenly spaced in [-1, 1] about the point nearest to the centre, then the model's up-sampling."""

    def sections(self, model: Model, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None) -> Sections:
        count, device = self.config.coarse, origins.device
        if not len(origins):
            return divide(*_no_intervals(device), step=1)
        middle = -(origins * directions).sum(1, keepdim=True)
        t = middle + torch.linspace(-1, 1, count, device=device)
        if generator is not None:
            t = t + (torch.rand(len(t), 1, generator=generator, device=device) - 0.5) * (2 / count)
        t, label = model.refine(origins, directions, t, torch.zeros_like(t, dtype=torch.int64), self.config, generator)
        return between(t, label, torch.arange(len(t), device=device), 2 / count)


class Occupancy(Sampler):
    """The control: equal steps through the cells of a grid over [-1, 1]^3 in which a section can have any opacity.

    The opacity is the model's largest, from any direction, at the least distance that the cell can hold (slope 1), so the
    grid needs no decay and misses nothing that it has seen.
    """

    def __init__(self, config: SamplerConfig):
        super().__init__(config)
        self.register_buffer("occupied", torch.ones((config.grid,) * 3, dtype=torch.bool))

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        if step % self.config.refresh == 0:
            self.refresh(model)

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        self.refresh(model)

    def refresh(self, model: Model) -> None:
        """Evaluate the model at the centres of all cells."""
        axis = (torch.arange(self.config.grid, device=self.occupied.device) + 0.5) * (2 / self.config.grid) - 1
        half = 3**0.5 / self.config.grid  # of a cell's diagonal
        with torch.no_grad():
            for plane, x in zip(self.occupied, axis, strict=True):
                y, z = torch.meshgrid(axis, axis, indexing="ij")
                points = torch.stack([x.expand_as(y), y, z], -1)
                sdf = model.sdf(points.view(-1, 3)).view(y.shape) - half
                plane.copy_((model.opacity(sdf, self.config.step) > self.config.threshold) & (points.norm(dim=2) < 1 + half))

    def sections(self, model: Model, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None) -> Sections:
        step, size = self.config.step, self.config.grid
        middle = -(origins * directions).sum(1)
        half = (1 - (origins + middle[:, None] * directions).square().sum(1)).clamp(min=0).sqrt()
        near, far = (middle - half).clamp(min=0), middle + half
        if generator is not None:
            near = near - step * torch.rand(len(near), generator=generator, device=near.device)
        index = torch.arange(int(2 / step) + 2, device=origins.device)
        start = near[:, None] + step * index
        cell = origins[:, None] + (start[..., None] + step / 2) * directions[:, None]
        i, j, k = ((cell + 1) * (size / 2)).long().clamp(0, size - 1).unbind(-1)
        ray, index = (self.occupied[i, j, k] & (start < far[:, None]) & (half > 0)[:, None]).nonzero(as_tuple=True)
        start = start[ray, index]
        label = torch.ones_like(ray)
        label[1:] = (ray[1:] != ray[:-1]) | (index[1:] != index[:-1] + 1)
        return Sections(ray, start, start + step, label.cumsum(0) - 1)


class Shell(Sampler):
    """The dual shell: equal sections of the union of the outer spheres' intervals, each ray cut where it enters an inner sphere.

    Before `after` steps there is no shell, and sampling is plain. See dss/views/dual.py for the shell of a model.
    """

    def __init__(self, config: SamplerConfig):
        super().__init__(config)
        self.before = Uniform(config)

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        since = step - self.config.after
        if since >= 0 and since % self.config.rebuild == 0:
            self.finish(model, step, generator)

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        from dss.reconstruction.model_shell import shell_of_model  # with the libraries for meshes, which rendering does not need

        self.shell = shell_of_model(model, self.config).to(model.device)

    def sections(self, model: Model, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None) -> Sections:
        if self.shell is None:
            return self.before.sections(model, origins, directions, generator)
        ray, start, end = self.intervals(origins, directions)
        shift = None if generator is None else torch.rand(len(ray), generator=generator, device=ray.device) - 0.5
        return divide(ray, start, end, self.config.step, shift=shift)

    def intervals(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ray, start and end (k,) of the disjoint stretches of rays (n, 3) in which there may be something to see."""
        found = ops.shell_intervals(self.shell.packed, origins, directions)
        return union(found.ray, found.start, found.end)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            self.shell = DualShell(*(tensors[f"shell.{name}"] for name in ("centers", "inner_radii", "outer_radii")))


def _no_intervals(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device)


def build_sampler(config: SamplerConfig) -> Sampler:
    """The sampler that the configuration names."""
    from dss.reconstruction.samplers.sphere_cloud import SphereCloud

    return {"uniform": Uniform, "occupancy": Occupancy, "shell": Shell, "sphere_cloud": SphereCloud}[config.method](config)
