"""Greedy voxels (after NSVF, Liu et al. 2020): the rival of the sphere cloud that only ever loses
space.

The cells of a grid that the surface cannot reach are dropped now and then, for good, and the others
are split into eight until the grid is fine. Emptiness is decided as the sphere cloud's, so that the
two differ in what moves only.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from dss import ops
from dss.config import Count, CountOrZero, Positive
from dss.errors import InputError
from dss.reconstruction.models.base import Model
from dss.reconstruction.samplers.guided import Guided, GuidedSettings

STEEP = 1.1  # slope that a distance may have, as in the sphere cloud


class VoxelsSettings(GuidedSettings):
    method: Literal["voxels"] = "voxels"
    grid: Annotated[Count, Field(le=256)] = 6  # cells per axis of [-1, 1]^3 at first
    grid_final: Annotated[Count, Field(le=256)] = 48  # up to which they are split
    start_step: CountOrZero = 5000  # training step of the first pruning
    prune_every: Count = 5000  # steps between prunings
    split_every: Count = 25_000  # steps from one split to the next, after the first pruning
    eps: Annotated[Positive, Field(le=0.5)] = 1e-3  # opacity that may be lost outside the voxels

    def least_bytes(self, rays: int) -> int:
        return super().least_bytes(rays) + 60 * rays * self.grid_final + self.grid_final**3


class Voxels(Guided):
    """The cells that are left guide rays and samples."""

    Settings = VoxelsSettings
    settings: VoxelsSettings

    def __init__(self, settings: VoxelsSettings):
        super().__init__(settings)
        self.register_buffer("occupied", torch.ones((settings.grid,) * 3, dtype=torch.bool))

    @property
    def edge(self) -> float:
        """Of a cell, in unit coordinates."""
        return 2 / len(self.occupied)

    @property
    def centers(self) -> Tensor:
        """Of the cells that are left, (k, 3)."""
        return (self.occupied.nonzero() + 0.5) * self.edge - 1

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Prune and split on time. Raises InputError where no cell is left."""
        since = step - self.settings.start_step
        self.aims = since >= 0
        if not self.aims:
            return
        if since % self.settings.prune_every == 0:
            self.prune(model)
        fits = 2 * len(self.occupied) <= self.settings.grid_final
        if since and since % self.settings.split_every == 0 and fits:
            for axis in range(3):
                self.occupied = self.occupied.repeat_interleave(2, axis)
            self.prune(model)

    def finish(self, model: Model, step: int, generator: torch.Generator) -> None:
        self.prune(model)

    def prune(self, model: Model) -> None:
        """Drop the cells that neither the surface nor the band about it can reach."""
        reach = max(STEEP * 3**0.5 / 2 * self.edge, model.band(self.settings.eps))
        kept = model.sdf(self.centers).abs() <= reach
        if not kept.any():
            raise InputError(
                "the voxels are all pruned: none of them is near the surface; raise "
                "sampler.start_step, or lower train.lr"
            )
        cells = self.occupied.nonzero()[~kept]
        self.occupied[tuple(cells.T)] = False

    def points(self, count: int, generator: torch.Generator) -> Tensor:
        centers = self.centers
        cell = torch.arange(max(len(centers), count), device=centers.device) % len(centers)
        offset = torch.rand(len(cell), 3, generator=generator, device=centers.device) - 0.5
        return centers[cell] + self.edge * offset

    def intervals(self, origins: Tensor, directions: Tensor, moving: bool = False) -> ops.Intervals:
        size, count = len(self.occupied), len(origins)
        planes = torch.linspace(-1, 1, size + 1, device=origins.device)
        middle = -(origins * directions).sum(1, keepdim=True)
        near, far = middle - 1, middle + 1
        crossings = (planes - origins[..., None]) / directions[..., None]
        crossings = crossings.flatten(1).nan_to_num(0.0)  # along a plane: anywhere will do
        t = torch.cat([near, far, crossings], 1).maximum(near).minimum(far).sort(1).values
        start, end = t[:, :-1], t[:, 1:]
        points = origins[:, None] + ((start + end) / 2)[..., None] * directions[:, None]
        cell = ((points + 1) / self.edge).floor().long()
        inside = ((cell >= 0) & (cell < size)).all(2)
        i, j, k = cell.clamp(0, size - 1).unbind(2)
        kept = inside & self.occupied[i, j, k] & (end > start)
        offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))
        none = torch.zeros(int(kept.sum()), dtype=torch.int64, device=origins.device)
        stop = origins.new_full((count,), torch.inf)
        return ops.Intervals(offsets, start[kept], end[kept], none, stop).merged()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state dict, whose grid may have been split. Raises ValueError where it is none of
        this one's."""
        occupied = tensors["occupied"]
        size = len(occupied)
        whole = occupied.shape == (size,) * 3 and size % self.settings.grid == 0
        if not (whole and size <= max(self.settings.grid, self.settings.grid_final)):
            raise ValueError(f"a grid of the shape {tuple(occupied.shape)} is none of its own")
        self.occupied = occupied.clone()
