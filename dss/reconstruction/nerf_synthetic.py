"""Posed images: the NeRF-synthetic layout, transforms_SPLIT.json beside the PNGs that it names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dss.errors import InputError
from dss.rendering.cameras import Camera, nerf_cameras


@dataclass(frozen=True)
class View:
    """One posed image of a scene."""

    name: str  # of the image, without folder and suffix
    path: Path
    camera: Camera


def scene_views(scene: Path | str, split: str) -> list[View]:
    """The views of a split (train, val, test) of a NeRF-synthetic scene, in the order of its JSON.

    Raises InputError where the JSON is missing or broken, where images are missing or unreadable, and where they are not
    all of one size; the line names them.
    """
    scene = Path(scene)
    cameras = nerf_cameras(scene / f"transforms_{split}.json", 1, 1)
    if not cameras:
        raise InputError(f"{scene / f'transforms_{split}.json'}: names no images; fetch the scene again")
    paths = {name: scene / (name if name.endswith(".png") else f"{name}.png") for name in cameras}
    missing = [str(path.relative_to(scene)) for path in paths.values() if not path.is_file()]
    if missing:
        raise InputError(f"{scene}: {listed(missing)} of its {split} split are missing; fetch the scene again")
    sizes = {name: image_size(path) for name, path in paths.items()}
    first, size = next(iter(sizes.items()))
    odd = [f"{paths[name].relative_to(scene)} ({w}x{h})" for name, (w, h) in sizes.items() if (w, h) != size]
    if odd:
        usual = f"{paths[first].relative_to(scene)} is {size[0]}x{size[1]}"
        raise InputError(f"{scene}: {usual}, but {listed(odd)} differ; fetch the scene again")
    views = [View(paths[name].stem, paths[name], Camera(camera.pose, camera.fov, *size)) for name, camera in cameras.items()]
    if len({view.name for view in views}) < len(views):
        raise InputError(f"{scene / f'transforms_{split}.json'}: names an image twice; fetch the scene again")
    return views


def read_image(path: Path | str) -> np.ndarray:
    """An image file as (h, w, 3) uint8, its transparency composited on white. Raises InputError where it cannot be read."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("RGBA"), np.float64)
    except (OSError, SyntaxError) as error:
        raise unreadable(path, error) from error
    alpha = values[..., 3:] / 255
    return (values[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image file. Raises InputError where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise unreadable(path, error) from error


def listed(names: list[str], most: int = 6) -> str:
    """Names for an error's one line: all of a few, the first of many and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def unreadable(path: Path | str, error: Exception) -> InputError:
    """The error to raise for an image file that cannot be read, in one line."""
    kind = "not an image" if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None) or error
    return InputError(f"{path}: cannot be read ({kind}); replace the file")
