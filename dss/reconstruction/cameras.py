"""Pinhole cameras of photographs, and the frame that puts a scene into the unit ball.

Axes are OpenCV's: x right, y down, looking along +z. Pixel coordinates are continuous, (0, 0) being the top left corner of
the picture: pixel (row, column) has its centre at (column + 0.5, row + 0.5).
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dss.rendering.cameras import Camera


@dataclass(frozen=True)
class Frame:
    """Scene coordinates = unit * scale + center."""

    center: tuple[float, float, float]
    scale: float


@dataclass(frozen=True)
class Pinhole:
    """One camera. pose (3, 4): camera to world; intrinsics (3, 3): camera to pixels; float64."""

    pose: Tensor
    intrinsics: Tensor
    width: int  # pixels
    height: int

    @staticmethod
    def of(camera: Camera) -> "Pinhole":
        """From a camera with OpenGL's axes and its principal point in the middle."""
        focal = camera.width / 2 / math.tan(math.radians(camera.fov) / 2)
        intrinsics = torch.tensor([[focal, 0, camera.width / 2], [0, focal, camera.height / 2], [0, 0, 1]], dtype=torch.float64)
        return Pinhole(camera.pose * torch.tensor([1.0, -1, -1, 1], dtype=torch.float64), intrinsics, camera.width, camera.height)

    def centers(self) -> Tensor:
        """The centres (height * width, 2) float64 of all pixels, row by row."""
        y, x = torch.meshgrid(torch.arange(self.height).double() + 0.5, torch.arange(self.width).double() + 0.5, indexing="ij")
        return torch.stack([x, y], -1).reshape(-1, 2)

    def rays(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (n, 3) float32 each, through pixel coordinates (n, 2), on their device."""
        return Cameras.of([self], pixels.device).rays(torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device), pixels)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel coordinates (n, 2) and depths (n,) of points (n, 3); where the depth is not positive, the pixels mean nothing."""
        local = (points - self.pose[:, 3].to(points)) @ self.pose[:, :3].to(points)
        image = local @ self.intrinsics.to(points).T
        return image[:, :2] / image[:, 2:], local[:, 2]

    def sees(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """(n,) bool: what `project` returned lies in front of the camera and in the picture."""
        inside = (pixels >= 0) & (pixels < torch.tensor([self.width, self.height], device=pixels.device))
        return inside.all(1) & (depth > 0)

    def moved(self, frame: Frame) -> "Pinhole":
        """The camera in the frame's unit coordinates."""
        position = (self.pose[:, 3] - torch.tensor(frame.center, dtype=torch.float64)) / frame.scale
        return replace(self, pose=torch.cat([self.pose[:, :3], position[:, None]], 1))

    def downscaled(self, factor: int) -> "Pinhole":
        """The camera of the picture whose pixels are blocks of factor x factor; what is left over at the edges is cropped."""
        scale = torch.tensor([1 / factor, 1 / factor, 1], dtype=torch.float64)
        return Pinhole(self.pose, scale[:, None] * self.intrinsics, self.width // factor, self.height // factor)


class Cameras(NamedTuple):
    """Several cameras, for rays of many at once."""

    eyes: Tensor  # (k, 3) float32
    matrices: Tensor  # (k, 3, 3) float32: homogeneous pixel coordinates to directions

    @staticmethod
    def of(cameras: list[Pinhole], device: torch.device) -> "Cameras":
        """Of one or more cameras."""
        matrices = torch.stack([camera.pose[:, :3] @ camera.intrinsics.inverse() for camera in cameras])
        return Cameras(torch.stack([camera.pose[:, 3] for camera in cameras]).float().to(device), matrices.float().to(device))

    def rays(self, index: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (n, 3) float32 each, of the cameras `index` (n,) through pixel coordinates (n, 2)."""
        homogeneous = torch.nn.functional.pad(pixels.float(), (0, 1), value=1)
        directions = (self.matrices[index] @ homogeneous[..., None])[..., 0]
        return self.eyes[index], torch.nn.functional.normalize(directions, dim=1)
