"""The scale and shift between the normalised frame and the units of the input."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Points = TypeVar("Points", np.ndarray, Tensor)


@dataclass(frozen=True)
class Similarity:
    """input = normalised * scale + center."""

    center: tuple[float, float, float]  # in the input's units
    scale: float  # input units per normalised unit

    def apply(self, points: Points) -> Points:
        """Normalised points (..., 3) in the input's units, in their own dtype and on their
        device."""
        return points * self.scale + _like(points, self.center)

    def inverse(self, points: Points) -> Points:
        """Points (..., 3) in the input's units in the normalised frame, in their own dtype and on
        their device."""
        return (points - _like(points, self.center)) / self.scale


def _like(points: Points, center: tuple[float, float, float]) -> Points:
    if isinstance(points, Tensor):
        return torch.tensor(center, dtype=points.dtype, device=points.device)
    return np.asarray(center, points.dtype)
