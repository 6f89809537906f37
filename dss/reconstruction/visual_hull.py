"""Where the object is: the visual hull of masks, or the common focus of cameras."""

import numpy as np
import torch
from torch import Tensor

from dss.errors import InputError
from dss.geometry.mesh import enclosing_ball
from dss.geometry.similarity import Similarity
from dss.rendering.cameras import Camera

GRID = 64  # nodes per axis of the lattice that masks carve
PASSES = 3  # of carving, each in the box that the last one left
MIN_SEEN = 0.5  # share of the cameras that must see a point


def visual_hull(cameras: list[Camera], masks: list[Tensor], name: str) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the ball around the points that lie in every mask (height, width)
    whose camera sees them, in the cameras' units.

    Raises InputError, naming the scene `name`, where the masks have no point in common.
    """
    center, reach = focus(cameras)
    low, high = center - reach, center + reach
    for _ in range(PASSES):
        axes = [
            torch.linspace(float(a), float(b), GRID, dtype=torch.float64)
            for a, b in zip(low, high, strict=True)
        ]
        lattice = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        points = _carved(lattice.reshape(-1, 3), cameras, masks)
        if not len(points):
            raise InputError(
                f"{name}: no point lies in all masks; check masks and cameras, or give scene.bounds"
            )
        spacing = (high - low) / (GRID - 1)
        low, high = points.numpy().min(0) - spacing, points.numpy().max(0) + spacing
    center, radius = enclosing_ball(points.numpy())
    return center, radius + float(np.linalg.norm(spacing)) / 2


def focus(cameras: list[Camera]) -> tuple[np.ndarray, float]:
    """The point (3,) nearest to all optical axes, and the largest distance of a camera from it."""
    axes, eyes = (
        np.stack([camera.pose[:, column].numpy() for camera in cameras]) for column in (2, 3)
    )
    across = np.eye(3) - axes[:, :, None] * axes[:, None]
    point = np.linalg.lstsq(across.sum(0), (across @ eyes[..., None]).sum(0)[:, 0], rcond=None)[0]
    return point, float(np.linalg.norm(eyes - point, axis=1).max())


def any_camera_sees(cameras: list[Camera], similarity: Similarity) -> bool:
    """Whether any camera sees any part of the frame's ball: its centre, or points on it."""
    index = torch.arange(256).double() + 0.5
    height, angle = 1 - index / 128, index * (np.pi * (3 - 5**0.5))
    ring = (1 - height**2).sqrt()
    ball = torch.stack([ring * angle.cos(), ring * angle.sin(), height], 1)
    ball = torch.cat([ball, torch.zeros(1, 3).double()])
    points = ball * similarity.scale + torch.tensor(similarity.center, dtype=torch.float64)
    return any(bool(camera.sees(*camera.project(points)).any()) for camera in cameras)


def _carved(points: Tensor, cameras: list[Camera], masks: list[Tensor]) -> Tensor:
    """The points (n, 3) that no mask excludes and that enough cameras see."""
    seen = torch.zeros(len(points))
    for camera, mask in zip(cameras, masks, strict=True):
        pixels, depth = camera.project(points)
        visible = camera.sees(pixels, depth)
        column, row = torch.where(visible[:, None], pixels, 0).long().T
        kept = ~visible | (mask[row, column] > 0)
        points, seen = points[kept], seen[kept] + visible[kept]
    return points[seen >= MIN_SEEN * len(cameras)]
