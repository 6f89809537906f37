"""The mesh itself as a field: what every other field is compared with."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dss.fields.base import Field
from dss.shell.dual_shell import DualShell

if TYPE_CHECKING:
    from dss.geometry.distance import MeshDistance

NEAR = 1e-4  # closer to the surface than this, the offset from it is too short to give a direction


class MeshField(Field):
    """The exact signed distance of a mesh, everywhere, with or without a shell around it. Not
    differentiable by autograd."""

    def __init__(self, distance: "MeshDistance", shell: DualShell | None = None):
        super().__init__(shell)
        self.distance = distance

    @property
    def device(self) -> torch.device:
        return self.distance.device

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        return self.distance.sdf(points)

    def gradient(self, points: Tensor) -> Tensor:
        """Gradient (n, 3) of the distance: away from the closest surface point, on the surface the
        face's normal."""
        closest, face = self.distance.closest(points)
        offset = points - closest
        away = (
            torch.nn.functional.normalize(offset, dim=1) * self.distance.sdf(points).sign()[:, None]
        )
        return torch.where((offset.norm(dim=1) > NEAR)[:, None], away, self.distance.normals[face])
