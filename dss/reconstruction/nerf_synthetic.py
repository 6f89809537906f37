"""Images with cameras in the NeRF-synthetic layout: transforms_SPLIT.json beside the PNGs that it
names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dss.errors import InputError
from dss.rendering.cameras import Camera, nerf_cameras

MAX_NAMES = 6  # in the one line of an error


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
    cameras = nerf_cameras(file, 1, 1)
    if not cameras:
        raise InputError(f"{file}: names no images; fetch the scene again")
    paths = {
        name: scene / (name if name.endswith(".png") else f"{name}.png") for name in cameras
    }
    missing = [str(path.relative_to(scene)) for path in paths.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"{scene}: {listed(missing)} of its {split} split are missing; fetch the scene again"
        )
    sizes = {name: image_size(path) for name, path in paths.items()}
    first, size = next(iter(sizes.items()))
    odd = [
        f"{paths[name].relative_to(scene)} ({w}x{h})"
        for name, (w, h) in sizes.items() if (w, h) != size
    ]  # fmt: skip
    if odd:
        usual = f"{paths[first].relative_to(scene)} is {size[0]}x{size[1]}"
        raise InputError(f"{scene}: {usual}, but {listed(odd)} differ; fetch the scene again")
    images = [
        PosedImage(paths[name].stem, paths[name], Camera(camera.pose, camera.fov, *size))
        for name, camera in cameras.items()
    ]
    if len({image.name for image in images}) < len(images):
        raise InputError(f"{file}: names an image twice; fetch the scene again")
    return images


def read_image(path: Path | str) -> np.ndarray:
    """An image file as (h, w, 3) uint8, its transparency composited on white.

    Raises InputError where it cannot be read.
    """
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


def listed(names: list[str]) -> str:
    """Names for an error's one line: all of a few, the first of many and how many more."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def unreadable(path: Path | str, error: Exception) -> InputError:
    """The error to raise for an image file that cannot be read, in one line."""
    kind = getattr(error, "strerror", None) or error
    if isinstance(error, UnidentifiedImageError):
        kind = "not an image"
    return InputError(f"{path}: cannot be read ({kind}); replace the file")
