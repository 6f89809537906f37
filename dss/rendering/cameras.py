"""Cameras and their rays.

A camera's axes are OpenCV's: x right, y down, looking along +z. Pixel coordinates are continuous
and begin at the top left corner of the picture: pixel (row, column) is sampled at its centre,
(column + 0.5, row + 0.5).
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dss.geometry.similarity import Similarity

FOV = 30.0  # degrees, of the cameras made here
PAPER_EYE = (-2.8, 2.8, -2.8)
PAPER_VIEWS = 30
PAPER_SIZE = 512  # pixels per side
RADIUS = 0.9  # of the ball that an orbit keeps in view: a normalised mesh's


@dataclass(frozen=True)
class Camera:
    """A pinhole camera."""

    pose: Tensor  # (3, 4) float64, camera to world: rotation and position
    intrinsics: Tensor  # (3, 3) float64, camera to homogeneous pixel coordinates
    width: int  # pixels
    height: int

    @staticmethod
    def from_fov(pose: Tensor, fov: float, width: int, height: int) -> "Camera":
        """A camera with square pixels and the principal point in the middle.

        `fov` is the full angle across the width, in degrees.
        """
        focal = width / 2 / math.tan(math.radians(fov) / 2)
        return Camera(pose, _intrinsics(focal, width, height), width, height)

    def centers(self) -> Tensor:
        """The centres (height * width, 2) float64 of all pixels, row by row from the top left."""
        rows, columns = (torch.arange(count).double() + 0.5 for count in (self.height, self.width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack([x, y], -1).reshape(-1, 2)

    def rays(
        self, pixels: Tensor | None = None, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, each (n, 3) float32, computed in float64.

        They go through pixel coordinates (n, 2), or through the centres of all pixels, row by row.
        They come on `device`, by default on that of the pixels.
        """
        pixels = self.centers() if pixels is None else pixels.double()
        matrix = (self.pose[:, :3] @ self.intrinsics.inverse()).to(pixels.device)
        directions = torch.nn.functional.pad(pixels, (0, 1), value=1) @ matrix.T
        directions = torch.nn.functional.normalize(directions, dim=1).float()
        origins = self.pose[:, 3].float().repeat(len(pixels), 1)
        device = device or pixels.device
        return origins.to(device), directions.to(device)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel coordinates (n, 2) and depths (n,) of points (n, 3).

        Where the depth is not positive, the pixels mean nothing.
        """
        local = (points - self.pose[:, 3].to(points)) @ self.pose[:, :3].to(points)
        image = local @ self.intrinsics.to(points).T
        return image[:, :2] / image[:, 2:], local[:, 2]

    def sees(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """(n,) bool: what `project` returned lies in front of the camera and in the picture."""
        size = torch.tensor([self.width, self.height], device=pixels.device)
        return ((pixels >= 0) & (pixels < size)).all(1) & (depth > 0)

    def moved(self, similarity: Similarity) -> "Camera":
        """The camera in the normalised frame, where this one is in the input's units."""
        position = similarity.inverse(self.pose[:, 3])
        return replace(self, pose=torch.cat([self.pose[:, :3], position[:, None]], 1))

    def downscaled(self, factor: int) -> "Camera":
        """The camera of the picture whose pixels are blocks of factor x factor.

        What is left over at the edges is cropped.
        """
        scale = torch.tensor([1 / factor, 1 / factor, 1], dtype=torch.float64)
        size = self.width // factor, self.height // factor
        return Camera(self.pose, scale[:, None] * self.intrinsics, *size)


class Cameras(NamedTuple):
    """Many cameras in single precision, for rays of several at once."""

    eyes: Tensor  # (k, 3) float32
    matrices: Tensor  # (k, 3, 3) float32: homogeneous pixel coordinates to directions

    @staticmethod
    def of(cameras: list[Camera], device: torch.device) -> "Cameras":
        """Of one or more cameras."""
        eyes = torch.stack([camera.pose[:, 3] for camera in cameras])
        each = [camera.pose[:, :3] @ camera.intrinsics.inverse() for camera in cameras]
        return Cameras(eyes.float().to(device), torch.stack(each).float().to(device))

    def rays(self, index: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions, (n, 3) float32 each.

        Every ray has its camera's `index` (n,) and goes through pixel coordinates (n, 2).
        """
        homogeneous = torch.nn.functional.pad(pixels.float(), (0, 1), value=1)
        directions = (self.matrices[index] @ homogeneous[..., None])[..., 0]
        return self.eyes[index], torch.nn.functional.normalize(directions, dim=1)


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Pose (3, 4) float64 of a camera at `eye` (3,) that looks at `target`, with `up` upwards.

    Where `up` is along the view, the coordinate axis most across the view takes its place.
    """
    eye, target, up = (torch.as_tensor(value, dtype=torch.float64) for value in (eye, target, up))
    back = torch.nn.functional.normalize(eye - target, dim=0)
    if torch.linalg.cross(up, back).norm() < 1e-6 * up.norm():
        up = torch.eye(3, dtype=torch.float64)[back.abs().argmin()]
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    return torch.stack([right, -torch.linalg.cross(back, right), -back, eye], 1)


def turntable(
    count: int, size: int, up: str = "z", elevation: float = 25.0, fov: float = FOV
) -> list[Camera]:
    """`count` cameras at equal angles on a circle around the `up` axis ("x", "y" or "z").

    They look down from `elevation` degrees; `fov` is in degrees.
    """
    angles = torch.arange(count).double() * (2 * math.pi / max(count, 1)) + math.pi / 4
    height = math.radians(elevation)
    ring, level = math.cos(height), torch.full_like(angles, math.sin(height))
    return _orbit(torch.stack([angles.cos() * ring, angles.sin() * ring, level], 1), size, up, fov)


def fibonacci(count: int, size: int, up: str = "z", fov: float = FOV) -> list[Camera]:
    """`count` cameras evenly on a sphere (spherical Fibonacci lattice), from the top down."""
    index = torch.arange(count).double() + 0.5
    height = 1 - 2 * index / max(count, 1)
    angle = index * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - height**2).sqrt()
    return _orbit(torch.stack([ring * angle.cos(), ring * angle.sin(), height], 1), size, up, fov)


def paper_cameras(size: int = PAPER_SIZE, count: int = PAPER_VIEWS) -> list[Camera]:
    """The paper's cameras (docs/method.md, section 7) at `count` equal steps of the angle.

    The outermost samples of its pixels lie on the edges of the field of view. So the pixels are
    wider than usual, which is the same as a shorter focal length. Meshes stand upright along z.
    """
    focal = max(size - 1, 1) / 2 / math.tan(math.radians(FOV) / 2)
    intrinsics = _intrinsics(focal, size, size)
    return [Camera(pose, intrinsics, size, size) for pose in _paper_poses(count)]


def centred_cameras(size: int = PAPER_SIZE, count: int = PAPER_VIEWS) -> list[Camera]:
    """The paper's cameras, with the usual pixels: their outermost edges are the field of view's."""
    return [Camera.from_fov(pose, FOV, size, size) for pose in _paper_poses(count)]


def _intrinsics(focal: float, width: int, height: int) -> Tensor:
    """(3, 3) float64 of a focal length in pixels, with the principal point in the middle."""
    return torch.tensor(
        [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64
    )


def _orbit(eyes: Tensor, size: int, up: str, fov: float) -> list[Camera]:
    """Square cameras at unit eyes (n, 3), given with z upwards.

    They are moved back until the normalised mesh's ball fits the view.
    """
    shift = "xyz".index(up) - 2
    axis = torch.eye(3, dtype=torch.float64)["xyz".index(up)]
    distance = 1.03 * RADIUS / math.sin(math.radians(fov) / 2)
    poses = [look_at(eye.roll(shift) * distance, torch.zeros(3), axis) for eye in eyes]
    return [Camera.from_fov(pose, fov, size, size) for pose in poses]


def _paper_poses(count: int) -> list[Tensor]:
    """Poses (3, 4) of one camera whose rays are right-multiplied by Ry(angle) @ Rx(270 degrees)."""
    from scipy.spatial.transform import Rotation

    pose = look_at(torch.tensor(PAPER_EYE), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    angles = [(360 * step / count, 270) for step in range(count)]
    rotations = torch.from_numpy(Rotation.from_euler("YX", angles, degrees=True).as_matrix())
    return [rotation.T @ pose for rotation in rotations]
