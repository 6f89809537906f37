"""The occupancy grid (Müller et al. 2022): the control for the shell, equal steps through the cells
that may hold something."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from dss.config import Count, Positive, Settings, Share
from dss.reconstruction.models.base import Model
from dss.reconstruction.ray_samples import RaySamples
from dss.reconstruction.samplers.base import Sampler


class OccupancySettings(Settings):
    method: Literal["occupancy"] = "occupancy"
    step: Positive = 3.4e-3  # length of a sample, in unit coordinates
    grid: Annotated[Count, Field(le=1024)] = 128  # cells per axis
    refresh_every: Count = 16  # steps between updates of the grid
    threshold: Share = 1e-3  # a cell is occupied where a sample's opacity may be above this

    def least_bytes(self, rays: int) -> int:
        return rays * math.ceil(40 * (2 / self.step)) + self.grid**3  # a time, a point, its cell


class Occupancy(Sampler):
    """Equal steps through the cells of a grid over [-1, 1]^3 that can have any opacity.

    The opacity is the model's largest, from any direction, at the smallest distance that the cell
    can hold (slope 1), so the grid needs no decay and misses nothing that it has seen.
    """

    Settings = OccupancySettings
    settings: OccupancySettings

    def __init__(self, settings: OccupancySettings):
        super().__init__(settings)
        self.register_buffer("occupied", torch.ones((settings.grid,) * 3, dtype=torch.bool))

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        if step % self.settings.refresh_every == 0:
            self.refresh(model)

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        self.refresh(model)

    @torch.no_grad()
    def refresh(self, model: Model) -> None:
        """Evaluate the model at the centres of all cells."""
        step, size = self.settings.step, self.settings.grid
        axis = (torch.arange(size, device=self.occupied.device) + 0.5) * (2 / size) - 1
        half = 3**0.5 / size  # of a cell's diagonal
        y, z = torch.meshgrid(axis, axis, indexing="ij")
        for plane, x in zip(self.occupied, axis, strict=True):
            points = torch.stack([x.expand_as(y), y, z], -1)
            sdf = model.sdf(points.view(-1, 3)).view(y.shape) - half
            opaque = model.opacity(sdf, step) > self.settings.threshold
            plane.copy_(opaque & (points.norm(dim=2) < 1 + half))

    def sample(
        self, model: Model, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RaySamples:  # fmt: skip
        step, size = self.settings.step, self.settings.grid
        middle = -(origins * directions).sum(1)
        across = (origins + middle[:, None] * directions).square().sum(1)
        half = (1 - across).clamp(min=0).sqrt()
        near, far = (middle - half).clamp(min=0), middle + half
        if generator is not None:
            near = near - step * torch.rand(len(near), generator=generator, device=near.device)
        index = torch.arange(int(2 / step) + 2, device=origins.device)
        start = near[:, None] + step * index
        cell = origins[:, None] + (start[..., None] + step / 2) * directions[:, None]
        i, j, k = ((cell + 1) * (size / 2)).long().clamp(0, size - 1).unbind(-1)
        kept = self.occupied[i, j, k] & (start < far[:, None]) & (half > 0)[:, None]
        ray, index = kept.nonzero(as_tuple=True)
        start = start[ray, index]
        first = torch.ones_like(ray)
        first[1:] = (ray[1:] != ray[:-1]) | (index[1:] != index[:-1] + 1)
        return RaySamples(ray, start, start + step, first.cumsum(0) - 1)
