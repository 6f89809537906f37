"""Models and scenes that the tests of multi-view reconstruction share."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dss.geometry.similarity import Similarity
from dss.reconstruction.models.neus import NeuS, NeuSSettings
from dss.rendering.cameras import Camera, look_at

CENTER, RADIUS = np.array([1.0, -2.0, 0.5]), 0.4  # of the ball in the scenes made here
EYES = [(0, -3, 0.5), (3, 0, 0.2), (-2, 2, 1), (0.5, 2.5, -1.5), (-2.5, -1, -1), (0.3, 0.4, 3)]
NETWORK = {
    "layers": 2, "width": 32, "skip": 0, "feature": 8, "colour_layers": 1, "colour_width": 32,
}  # fmt: skip
SMALL = NeuSSettings(**NETWORK)


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

    def forward(self, points: Tensor, directions: Tensor, gradients: Tensor, _: Tensor) -> Tensor:
        return (gradients + 1) / 2


def ball_model(sharpness: float, balls: tuple[tuple[float, ...], ...] = ((0, 0, 0, 0.5),)) -> NeuS:
    """A converged NeuS: the exact distance to balls, x y z r each."""
    model = NeuS(SMALL)
    model.distance, model.colour = Balls(torch.tensor(balls)), Normals()
    nn.init.constant_(model.v, math.log(sharpness) / 10)
    return model


def pinhole(
    eye: tuple[float, float, float] = (0.0, -3.0, 0.5), size: int = 48, fov: float = 40.0
) -> Camera:
    """A camera at `eye` that looks at the origin."""
    pose = look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Camera.from_fov(pose, fov, size, size)


def cameras(size: int = 40) -> list[Camera]:
    """Around CENTER, in scene units."""
    to_scene = Similarity(tuple(-CENTER), 1.0)
    return [pinhole(eye, size).moved(to_scene) for eye in EYES]


def ball_pixels(camera: Camera) -> np.ndarray:
    """RGBA (h, w, 4) uint8 of a red ball, its mask antialiased over 4 x 4 points per pixel."""
    offsets = torch.cartesian_prod(*[torch.arange(4).double() + 0.5] * 2) / 4 - 0.5
    origins, directions = camera.rays((camera.centers()[:, None] + offsets).reshape(-1, 2))
    across = torch.linalg.cross(origins - torch.tensor(CENTER).float(), directions).norm(dim=1)
    share = (across < RADIUS).float().view(camera.height, camera.width, 16).mean(2).numpy()
    bands = [share * 0 + 200, share * 0, share * 0 + 50, 255 * share]
    return np.stack(bands, -1).round().astype(np.uint8)


def write_synthetic(folder: Path, size: int = 40) -> Path:
    """A scene in the NeRF-synthetic layout: train and test are the same six photos of a ball."""
    for split in ("train", "test"):
        (folder / split).mkdir()
        frames = []
        for index, camera in enumerate(cameras(size)):
            Image.fromarray(ball_pixels(camera)).save(folder / split / f"r_{index}.png")
            pose = np.eye(4)
            pose[:3] = camera.pose.numpy() * [1, -1, -1, 1]
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        about = {"camera_angle_x": float(np.radians(40)), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(about))
    return folder
