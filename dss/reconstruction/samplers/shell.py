"""The dual shell of what the model has learnt so far: samples lie between its spheres only."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from dss import ops
from dss.config import Count, CountOrZero, Positive
from dss.reconstruction.models.base import Model, UpsamplingSettings
from dss.reconstruction.ray_samples import RaySamples, divide
from dss.reconstruction.samplers.base import Sampler
from dss.reconstruction.samplers.occupancy import Occupancy, OccupancySettings
from dss.reconstruction.samplers.uniform import Uniform
from dss.shell.dual_shell import DualShell


class ShellSettings(UpsamplingSettings, OccupancySettings):
    """The settings of up-sampling, or those of an occupancy grid, are of the sampler before the
    first shell: `uniform`, or with `grid` above 0 `occupancy`."""

    method: Literal["shell"] = "shell"
    step: Positive = 3.4e-3  # maximum length of a sample, in unit coordinates
    grid: Annotated[CountOrZero, Field(le=1024)] = 0  # cells per axis; 0: no grid
    start_step: CountOrZero = 60_000  # training step at which the first shell is built
    rebuild_every: Count = 60_000  # steps between shells; the finished model gets one of its own
    spheres: Count = 512  # of the shell, before those that repairs add
    # marching-cubes cells per axis of the surface that the shell is for
    resolution: Annotated[Count, Field(le=1024)] = 256
    eps: Annotated[Positive, Field(le=0.5)] = 1e-3  # opacity that may be lost outside the shell

    def least_bytes(self, rays: int) -> int:
        before = OccupancySettings if self.grid else UpsamplingSettings
        return before.least_bytes(self, rays) if self.start_step else 0


class Shell(Sampler):
    """Equal samples that fill the merged intervals of the outer spheres; each ray ends where it
    enters an inner sphere.

    Before `start_step` there is no shell, and another sampler takes its place. See model_shell.py
    for the shell of a model.
    """

    Settings = ShellSettings
    settings: ShellSettings

    def __init__(self, settings: ShellSettings):
        super().__init__(settings)
        self.before: Sampler | None = (Occupancy if settings.grid else Uniform)(settings)

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        since = step - self.settings.start_step
        if since >= 0 and since % self.settings.rebuild_every == 0:
            self.finish(model, step, generator)
        elif self.before is not None:
            self.before.prepare(model, step, generator)

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        # Imports the libraries for meshes, which pictures do not need.
        from dss.reconstruction.model_shell import shell_of_model

        settings = self.settings
        self.shell = shell_of_model(model, settings.spheres, settings.resolution, settings.eps)
        self.before = None

    def sample(
        self, model: Model, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RaySamples:  # fmt: skip
        if self.shell is None:
            return self.before.sample(model, origins, directions, generator)
        intervals = self.intervals(origins, directions)
        shift = None
        if generator is not None:
            count, device = len(intervals.start), origins.device
            shift = torch.rand(count, generator=generator, device=device) - 0.5
        return divide(intervals, self.settings.step, shift)

    def intervals(self, origins: Tensor, directions: Tensor) -> ops.Intervals:
        """The disjoint intervals of rays (n, 3) in which there may be something to see."""
        return ops.shell_intervals(self.shell.packed, origins, directions).merged()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state dict: of a shell, or of the sampler before the first."""
        names = [f"shell.{name}" for name in ("centers", "inner_radii", "outer_radii")]
        if tensors.keys() & set(names):
            self.shell, self.before = DualShell(*(tensors[name] for name in names)), None
        else:
            super().restore(tensors)
