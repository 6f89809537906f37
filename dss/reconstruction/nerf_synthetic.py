"""Images with cameras in the NeRF-synthetic layout: transforms_SPLIT.json beside the PNGs."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dss.errors import InputError, listed
from dss.files import is_file
from dss.rendering.cameras import Camera
from dss.rendering.images import image_size

MAX_BYTES = 1 << 27  # of a camera file
MIN_ANGLE = 1e-4  # radians between a field of view and the impossible ones, 0 and pi


@dataclass(frozen=True)
class PosedImage:
    """One image of a scene and its camera."""

    name: str  # of the image, without folder and suffix
    path: Path
    camera: Camera


def posed_images(scene: Path | str, split: str) -> list[PosedImage]:
    """The images of a split (train, val, test) of a NeRF-synthetic scene, in the order of its JSON.

    Raises InputError where the JSON is missing or broken, where images are missing or unreadable,
    and where they are not all of one size; the line names them.
    """
    scene = Path(scene)
    file = scene / f"transforms_{split}.json"
    fov, poses = read_transforms(file)
    if not poses:
        raise InputError(f"{file}: names no images; fetch the scene again")
    paths = {name: scene / (name if name.endswith(".png") else f"{name}.png") for name in poses}
    for path in paths.values():
        require_inside(path, scene)
    missing = [str(path.relative_to(scene)) for path in paths.values() if not is_file(path)]
    if missing:
        raise InputError(
            f"{scene}: {listed(missing)} of its {split} split are missing; fetch the scene again"
        )
    sizes = {name: image_size(path) for name, path in paths.items()}
    first, size = next(iter(sizes.items()))
    odd = [
        f"{paths[name].relative_to(scene)} ({w}x{h})"
        for name, (w, h) in sizes.items()
        if (w, h) != size
    ]
    if odd:
        usual = f"{paths[first].relative_to(scene)} is {size[0]}x{size[1]}"
        raise InputError(f"{scene}: {usual}, but {listed(odd)} differ; fetch the scene again")
    cameras = {name: Camera.from_fov(pose, fov, *size) for name, pose in poses.items()}
    images = [PosedImage(paths[name].stem, paths[name], camera) for name, camera in cameras.items()]
    if len({image.name for image in images}) < len(images):
        raise InputError(f"{file}: names an image twice; fetch the scene again")
    return images


def require_inside(path: Path, scene: Path) -> None:
    """Raise InputError where a file of a scene lies elsewhere, by its name or by a link: a scene
    must not show what its reader may see and its author may not."""
    try:
        inside = path.resolve().is_relative_to(scene.resolve())
    except (OSError, ValueError, RuntimeError):  # links in a circle, names that cannot be
        inside = False
    if not inside:
        reason = "lies outside the scene's folder"
        raise InputError(f"{path}: {reason}; copy it into {scene}, and name it from there")


def read_transforms(path: Path | str) -> tuple[float, dict[str, Tensor]]:
    """The field of view in degrees, and the pose (3, 4) float64 of each image.

    An image is named by its path in the scene, without suffix. Poses are camera to world with
    OpenCV's axes; the file has OpenGL's, whose y and z are turned round here. Raises InputError
    where the file is missing or a link to elsewhere, is no JSON, names an image twice, or lacks a
    `camera_angle_x` between 0 and pi or a 4x4 `transform_matrix`.
    """
    path = Path(path)
    require_inside(path, path.parent)
    try:
        if not is_file(path):
            raise FileNotFoundError(None, "no such file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"longer than {MAX_BYTES:,} bytes")
        scene = json.loads(path.read_text(encoding="utf-8"))
        angle = _number(scene["camera_angle_x"])
        frames = [
            (frame["file_path"].removeprefix("./"), _matrix(frame["transform_matrix"]))
            for frame in scene["frames"]
        ]
    except OSError as error:
        remedy = "a NeRF-synthetic scene keeps its cameras there"
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the scene again") from error
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = f"not a NeRF-synthetic camera file ({type(error).__name__}: {error})"
        raise InputError(f"{path}: {reason}; fetch the scene again") from error
    if not MIN_ANGLE < angle < math.pi - MIN_ANGLE:
        raise InputError(
            f"{path}: camera_angle_x is {angle:g}, no angle between 0 and pi; fetch the scene again"
        )
    for name, matrix in frames:
        if matrix.shape != (4, 4) or not matrix.isfinite().all():
            reason = f"the transform_matrix of {name} is not a finite 4x4 matrix"
            raise InputError(f"{path}: {reason}; fetch the scene again")
    if len(dict(frames)) < len(frames):
        raise InputError(f"{path}: names an image twice; fetch the scene again")
    to_opencv = torch.tensor([1, -1, -1, 1], dtype=torch.float64)
    return math.degrees(angle), {name: matrix[:3] * to_opencv for name, matrix in frames}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a {type(value).__name__} where a number is expected")
    return float(value)


def _matrix(rows: list[list[float]]) -> Tensor:
    """A matrix of numbers (a bool or a text among them is a TypeError)."""
    return torch.tensor([[_number(value) for value in row] for row in rows], dtype=torch.float64)
