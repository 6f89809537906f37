"""Cameras and their rays.

A camera's axes are those of OpenGL and Blender: x right, y up, looking along -z. Pixel (row, column) is sampled at its
centre, (column + 0.5, row + 0.5) from the top left corner; only the paper's own protocol stretches the grid so that the
outermost samples lie on the edge of the field of view. Rays are listed row by row from the top left.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from dss.errors import InputError

FOV = 30.0  # degrees, of the cameras made here
PAPER_EYE = (-2.8, 2.8, -2.8)
PAPER_VIEWS = 30
PAPER_SIZE = 512  # pixels per side
RADIUS = 0.9  # of the ball that an orbit keeps in view: a normalised mesh's


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels. `inclusive` is the paper's grid, with samples on the edges of the view."""

    pose: Tensor  # (3, 4) float64, camera to world: rotation and position
    fov: float  # degrees, full angle across the width
    width: int  # pixels
    height: int
    inclusive: bool = False

    def rays(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Origins and unit directions, each (height * width, 3) float32."""
        reach = math.tan(math.radians(self.fov) / 2)
        x = _samples(self.width, self.inclusive) * reach
        y = -_samples(self.height, self.inclusive) * reach * self.height / self.width
        y, x = torch.meshgrid(y, x, indexing="ij")
        local = torch.stack([x, y, -torch.ones_like(x)], -1).reshape(-1, 3)
        directions = torch.nn.functional.normalize(local @ self.pose[:, :3].T, dim=1)
        return self.pose[:, 3].expand_as(directions).float().to(device), directions.float().to(device)

    def scaled(self, factor: float) -> "Camera":
        """The same view with `factor` times the pixels per side."""
        return Camera(self.pose, self.fov, round(self.width * factor), round(self.height * factor), self.inclusive)


def _samples(count: int, inclusive: bool) -> Tensor:
    """(count,) float64 sample positions across [-1, 1]."""
    return torch.linspace(-1, 1, count, dtype=torch.float64) if inclusive else (torch.arange(count).double() + 0.5) * 2 / count - 1


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Pose (3, 4) float64 of a camera at `eye` (3,) that looks at `target` with `up` upwards in the picture.

    Where `up` is along the view, the coordinate axis most across the view takes its place.
    """
    eye, target, up = (torch.as_tensor(value, dtype=torch.float64) for value in (eye, target, up))
    back = torch.nn.functional.normalize(eye - target, dim=0)
    if torch.linalg.cross(up, back).norm() < 1e-6 * up.norm():
        up = torch.eye(3, dtype=torch.float64)[back.abs().argmin()]
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    return torch.stack([right, torch.linalg.cross(back, right), back, eye], 1)


def turntable(count: int, size: int, up: str = "z", elevation: float = 25.0, fov: float = FOV) -> list[Camera]:
    """`count` cameras at equal angles on a circle around the `up` axis ("x", "y" or "z"), `elevation` degrees above it."""
    angles = torch.arange(count).double() * (2 * math.pi / max(count, 1)) + math.pi / 4
    height = math.radians(elevation)
    eyes = torch.stack([angles.cos() * math.cos(height), angles.sin() * math.cos(height), torch.full_like(angles, math.sin(height))], 1)
    return _orbit(eyes, size, up, fov)


def fibonacci(count: int, size: int, up: str = "z", fov: float = FOV) -> list[Camera]:
    """`count` cameras spread evenly over a sphere (spherical Fibonacci lattice), from the top down."""
    index = torch.arange(count).double() + 0.5
    height = 1 - 2 * index / max(count, 1)
    angle = index * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - height**2).sqrt()
    return _orbit(torch.stack([ring * angle.cos(), ring * angle.sin(), height], 1), size, up, fov)


def _orbit(eyes: Tensor, size: int, up: str, fov: float) -> list[Camera]:
    """Square cameras at unit eyes (n, 3) given with z upwards, moved back until the normalised mesh's ball fits the view."""
    shift = "xyz".index(up) - 2
    axis = torch.eye(3, dtype=torch.float64)["xyz".index(up)]
    distance = 1.03 * RADIUS / math.sin(math.radians(fov) / 2)
    return [Camera(look_at(eye.roll(shift) * distance, torch.zeros(3), axis), fov, size, size) for eye in eyes]


def paper_cameras(size: int = PAPER_SIZE, count: int = PAPER_VIEWS) -> list[Camera]:
    """The paper's protocol (dss.md, section 7): rays o, d of one camera, right-multiplied by M = Ry(angle) @ Rx(270 degrees),
    for `count` equal steps of the angle. Its meshes stand upright along z."""
    pose = look_at(torch.tensor(PAPER_EYE), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    angles = [360 * step / count for step in range(count)]
    rotations = torch.from_numpy(Rotation.from_euler("YX", [(angle, 270) for angle in angles], degrees=True).as_matrix())
    return [Camera(rotation.T @ pose, FOV, size, size, inclusive=True) for rotation in rotations]


def nerf_cameras(path: Path | str, width: int, height: int) -> dict[str, Camera]:
    """Cameras by image name (its path in the scene, without suffix) of a NeRF-synthetic transforms_*.json.

    Raises InputError where the file is missing, is no JSON, or lacks `camera_angle_x` or a 4x4 `transform_matrix`.
    """
    path = Path(path)
    try:
        scene = json.loads(path.read_text())
        fov = math.degrees(float(scene["camera_angle_x"]))
        frames = {frame["file_path"].removeprefix("./"): frame["transform_matrix"] for frame in scene["frames"]}
        poses = {name: torch.tensor(matrix, dtype=torch.float64) for name, matrix in frames.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a NeRF-synthetic scene keeps its cameras there") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the scene again") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a NeRF-synthetic camera file ({type(error).__name__}: {error}); fetch the scene again") from error
    for name, pose in poses.items():
        if pose.shape != (4, 4) or not pose.isfinite().all():
            raise InputError(f"{path}: the transform_matrix of {name} is not a finite 4x4 matrix; fetch the scene again")
    return {name: Camera(pose[:3], fov, width, height) for name, pose in poses.items()}
