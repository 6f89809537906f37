"""What several test files share: fields and shells in closed form, models and scenes of photos."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor, nn

from dss.config import PhotoConfig, SceneSettings
from dss.fields.base import Field
from dss.geometry.mesh import Mesh, MeshReport
from dss.geometry.points import PointCloud, sample_points
from dss.geometry.similarity import Similarity
from dss.reconstruction.models import build_model
from dss.reconstruction.models.neus import NeuS, NeuSSettings
from dss.reconstruction.samplers import build_sampler
from dss.reconstruction.samplers.uniform import UniformSettings
from dss.reconstruction.scene import load_scene
from dss.rendering.cameras import Camera, look_at, turntable
from dss.run import Source, open_folder, save_model
from dss.shell.dual_shell import DualShell

Distance = Callable[[Tensor], Tensor]  # of points (n, 3), (n,)

IDENTITY = Similarity((0.0, 0.0, 0.0), 1.0)
KEYS = {  # of the metrics of a mesh
    *("chamfer", "chamfer_floor", "surface_mean", "surface_rms", "surface_max", "normal_error_deg"),
    *("iou_uniform", "iou_near", "bytes", "faces"),
}

CENTER, RADIUS = np.array([1.0, -2.0, 0.5]), 0.4  # of the ball in the scenes made here
EYES = [(0, -3, 0.5), (3, 0, 0.2), (-2, 2, 1), (0.5, 2.5, -1.5), (-2.5, -1, -1), (0.3, 0.4, 3)]
NETWORK = {
    "layers": 2, "width": 32, "skip": 0, "feature": 8, "colour_layers": 1, "colour_width": 32,
}  # fmt: skip
SMALL = NeuSSettings(**NETWORK)


class Analytic(Field):
    """A field in closed form; `asked` counts the points.

    `scale` multiplies the distances, so that they over- or underestimate.
    """

    def __init__(self, distance: Distance, shell: DualShell | None = None, scale: float = 1.0):
        super().__init__(shell)
        self.distance, self.scale, self.asked = distance, scale, 0

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        self.asked += len(points)
        return self.distance(points) * self.scale


def sphere(radius: float = 0.6) -> Distance:
    """The distance to a sphere about the origin."""
    return lambda points: points.norm(dim=1) - radius


def box(half: tuple[float, float, float] = (0.5, 0.4, 0.3)) -> Distance:
    """The distance to a box about the origin."""

    def distance(points: Tensor) -> Tensor:
        q = points.abs() - torch.tensor(half)
        return q.clamp(min=0).norm(dim=1) + q.amax(1).clamp(max=0)

    return distance


def torus(major: float = 0.6, minor: float = 0.15) -> Distance:
    """The distance to a torus about the z axis."""
    return lambda points: (
        torch.stack([points[:, :2].norm(dim=1) - major, points[:, 2]], 1).norm(dim=1) - minor
    )


def shell_of(distance: Distance, count: int = 60, seed: int = 0) -> DualShell:
    """Inner spheres at random inside a solid, tangent to its surface.

    The outer ones are so large that they cover dense surface samples.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(400_000, 3, generator=generator) * 2 - 1
    values = distance(points)
    inside = points[values < -0.02][:count]
    inner = -distance(inside)
    surface = points[values.abs() < 0.02]
    gap, nearest = (torch.cdist(surface, inside) - inner).min(1)
    thickness = torch.zeros(len(inside)).scatter_reduce(0, nearest, gap, "amax").clamp(min=0.01)
    return DualShell(inside, inner, inner + thickness + 0.03)


def ball_shell(
    count: int, radius: float = 0.7, depth: float = 0.1, cover: float = 0.2
) -> DualShell:
    """Small spheres under the surface of a ball.

    They cover the surface and leave the ball's middle uncovered.
    """
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    across = np.sqrt(1 - z * z)
    directions = np.stack([across * np.cos(angle), across * np.sin(angle), z], 1)
    ones = torch.ones(count)
    return DualShell(torch.tensor(directions * (radius - depth)), ones * depth * 0.99, ones * cover)


def camera_rays(size: int = 64, index: int = 1) -> tuple[Tensor, Tensor]:
    """Origins and directions of the rays of a camera around the origin."""
    return turntable(5, size)[index].rays()


def sample_points_of(mesh: trimesh.Trimesh, count: int) -> PointCloud:
    """An oriented cloud that is drawn from a mesh in the normalised frame."""
    report = MeshReport(len(mesh.vertices), len(mesh.faces), 1, 0, 0, ())
    return sample_points(Mesh(mesh.vertices, mesh.faces, IDENTITY, report, "box", ""), count)


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


def write_photo_run(folder: Path, scene: Path) -> Path:
    """A run of an untrained NeuS, whose surface is about a ball, on the photos of a scene."""
    sampler = UniformSettings(coarse=16, fine=16)
    config = PhotoConfig(scene=SceneSettings(path=str(scene)), model=SMALL, sampler=sampler)
    similarity = load_scene(config.scene, "train").similarity
    torch.manual_seed(0)
    open_folder(folder, config)
    source = Source(str(scene), "", similarity)
    save_model(folder, build_model(config.model), build_sampler(sampler), config, source)
    return folder
