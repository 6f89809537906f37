"""Models and scenes that the tests of dss/views share."""

import math

import torch
from torch import Tensor, nn

from dss.rays import look_at
from dss.views.cameras import Pinhole
from dss.views.config import ModelConfig
from dss.views.neus import NeuS

SMALL = ModelConfig(layers=2, width=32, skip=0, feature=8, colour_layers=1, colour_width=32)


class Balls(nn.Module):
    """The exact distance to balls (k, 4), x y z r, in the place of a distance network."""

    def __init__(self, balls: Tensor):
        super().__init__()
        self.balls = balls

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        sdf = ((points[:, None] - self.balls[:, :3]).norm(dim=2) - self.balls[:, 3]).amin(1)
        return sdf, points.new_zeros(len(points), 1)


class Normals(nn.Module):
    """Normals as colours."""

    def forward(self, points: Tensor, directions: Tensor, gradients: Tensor, features: Tensor) -> Tensor:
        return (gradients + 1) / 2


def ball_model(sharpness: float, balls: tuple[tuple[float, float, float, float], ...] = ((0, 0, 0, 0.5),)) -> NeuS:
    """A converged NeuS: the exact distance to balls."""
    model = NeuS(SMALL)
    model.distance, model.colour = Balls(torch.tensor(balls)), Normals()
    nn.init.constant_(model.v, math.log(sharpness) / 10)
    return model


def pinhole(eye: tuple[float, float, float] = (0.0, -3.0, 0.5), size: int = 48, fov: float = 40.0) -> Pinhole:
    """A camera at `eye` that looks at the origin."""
    pose = look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    focal = size / 2 / math.tan(math.radians(fov) / 2)
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    return Pinhole(pose * torch.tensor([1.0, -1, -1, 1]).double(), intrinsics, size, size)
