"""Scenes: photos with cameras, and the frame that puts the object into the unit ball.

A scene is a folder in one of two layouts.

    transforms_{train,test}.json, train/, test/
        NeRF-synthetic: RGBA pictures, whose alpha is the mask.
    image/, mask/, cameras_sphere.npz
        DTU as NeuS prepared it: matrices world_mat_i and scale_mat_i. mask/ may be missing.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import rq
from torch import Tensor

from dss.config import SceneSettings
from dss.errors import InputError, listed
from dss.files import is_file, is_folder
from dss.geometry.similarity import Similarity
from dss.reconstruction.nerf_synthetic import MAX_BYTES, posed_images, require_inside
from dss.reconstruction.visual_hull import any_camera_sees, visual_hull
from dss.rendering.cameras import Camera
from dss.rendering.images import image_size, open_image

MARGIN = 1.05  # the object's ball gets the radius 1 / MARGIN
SUFFIXES = (".png", ".jpg", ".jpeg")
MATRICES = "cameras_sphere.npz"
MAX_ENTRY = 1e100  # of a projection matrix: products of larger ones overflow
BYTES = 16  # of a pixel of `Scene.load`


@dataclass(frozen=True)
class Photo:
    """One picture with its camera, in unit coordinates and at the scene's downscale."""

    name: str
    path: Path
    mask: Path | None  # None: the picture's own alpha
    camera: Camera
    downscale: int = 1

    def pixels(self) -> Tensor:
        """(height, width, 4) float32 in [0, 1]: red, green and blue times the mask, and the mask.

        A pixel is the mean of `downscale` x `downscale` pixels of the files. Raises InputError
        where a file cannot be read or the mask is not of the picture's size.
        """
        values = _read(self.path, "RGBA")
        if self.mask:
            mask = _read(self.mask, "RGB")[..., :1]
            if mask.shape[:2] != values.shape[:2]:
                raise InputError(
                    f"{self.mask}: not of the size of {self.path.name}; fetch the scene again"
                )
            values[..., 3:] *= mask
        values[..., :3] *= values[..., 3:]
        bands = torch.from_numpy(values).permute(2, 0, 1)
        return torch.nn.functional.avg_pool2d(bands, self.downscale).permute(1, 2, 0).contiguous()


@dataclass(frozen=True)
class Scene:
    """The photos of a split."""

    photos: list[Photo]
    similarity: Similarity
    masked: bool  # whether the pictures have masks
    path: Path  # its folder

    @cached_property
    def sha256(self) -> str:
        """What tells it from others, see `scene_sha256`."""
        return scene_sha256(self.path)

    def load(self) -> Tensor:
        """All pictures (photos, height, width, 4) float32, as `Photo.pixels`.

        Raises InputError where all masks are empty.
        """
        pixels = torch.stack([photo.pixels() for photo in self.photos])
        if not pixels[..., 3].any():
            raise InputError(
                f"{self.photos[0].path.parent}: the masks of all pictures are empty; "
                "there is nothing to learn"
            )
        return pixels


def load_scene(settings: SceneSettings, split: str, similarity: Similarity | None = None) -> Scene:
    """The photos of a split (train, test, val).

    `similarity` of an earlier call spares finding it again from the train split. DTU scenes have no
    splits of their own: with `scene.test_every` n, every n-th picture is test and the others are
    train; with 0, all pictures are both. Raises InputError on files that are missing, broken or
    disagree.
    """
    path = Path(settings.path)
    if not settings.path or not is_folder(path):
        raise InputError(
            f"scene.path: no such folder as {settings.path!r}; "
            "name a NeRF-synthetic or DTU scene with --data"
        )
    if _is_dtu(path):
        photos, given = _dtu_photos(path, settings.test_every, split)
    else:
        photos, given = _nerf_photos(path, split), None
    for photo in photos:
        _check_rotation(photo.camera, photo.path)
    size = min(photos[0].camera.width, photos[0].camera.height)
    factor = settings.downscale
    if factor > size:
        raise InputError(
            f"scene.downscale={factor}: the pictures of {path} have only {size} pixels; "
            "choose a smaller number"
        )
    masked = photos[0].mask is not None or _has_alpha(photos[0].path)
    photos = [
        replace(photo, camera=photo.camera.downscaled(factor), downscale=factor) for photo in photos
    ]
    _check_memory(photos, factor)
    if similarity is None and split != "train":
        return load_scene(settings, split, load_scene(settings, "train").similarity)
    similarity = similarity or _similarity(settings, photos, masked, given, path)
    photos = [replace(photo, camera=photo.camera.moved(similarity)) for photo in photos]
    return Scene(photos, similarity, masked, path)


def scene_sha256(path: Path | str) -> str:
    """What tells one scene from another: the SHA-256 of the file with the cameras of its photos.

    Raises InputError where that file cannot be read.
    """
    path = Path(path)
    path = path / (MATRICES if _is_dtu(path) else "transforms_train.json")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); fetch the scene again") from error


def _check_memory(photos: list[Photo], factor: int) -> None:
    """Raise InputError where the pictures of a scene, as `Scene.load`, exceed the machine's
    memory."""
    camera = photos[0].camera
    needed = len(photos) * camera.width * camera.height * BYTES
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        size = f"{len(photos)} pictures of {camera.width}x{camera.height} pixels"
        reason = f"{size} need {needed >> 30} GiB, this machine has {there >> 30}"
        raise InputError(f"scene.downscale={factor}: {reason}; choose a larger number")


def _is_dtu(path: Path) -> bool:
    return is_file(path / MATRICES) or is_folder(path / "image")


def _similarity(
    settings: SceneSettings, photos: list[Photo], masked: bool, given: Similarity | None, path: Path
) -> Similarity:
    """By the bounds of the configuration, else those that come with the scene, else the visual hull
    of the masks."""
    cameras = [photo.camera for photo in photos]
    name = f"{path}: its bounds"
    if settings.bounds != "auto":
        given, name = _bounds(settings.bounds), f"scene.bounds={settings.bounds!r}"
    if given is not None:
        if not any_camera_sees(cameras, given):
            raise InputError(
                f"{name} contain nothing that the pictures show; check center and radius"
            )
        return given
    if not masked:
        raise InputError(
            f"{path}: has neither masks nor bounds; "
            "name a ball around the object, scene.bounds='x y z radius'"
        )
    masks = [photo.pixels()[..., 3] for photo in photos]
    center, radius = visual_hull(cameras, masks, str(path))
    return Similarity(tuple(center.tolist()), MARGIN * radius)


def _bounds(text: str) -> Similarity:
    """The ball that `x y z radius` names. Raises InputError where the text is something else."""
    try:
        x, y, z, radius = (float(part) for part in text.split())
    except ValueError:
        x = y = z = radius = 0.0
    if not np.isfinite([x, y, z, radius]).all() or radius <= 0:
        raise InputError(
            f"scene.bounds={text!r}: expected a ball as `x y z radius` in the scene's units, "
            "or auto"
        )
    return Similarity((x, y, z), radius)


def _nerf_photos(path: Path, split: str) -> list[Photo]:
    images = posed_images(path, split)
    return [Photo(image.name, image.path, None, image.camera) for image in images]


def _dtu_photos(path: Path, every: int, split: str) -> tuple[list[Photo], Similarity]:
    images, masks = (_pictures(path / name) for name in ("image", "mask"))
    if not images:
        raise InputError(f"{path / 'image'}: no pictures there; fetch the scene again")
    for picture in (path / MATRICES, *images, *masks):
        require_inside(picture, path)
    if masks and len(masks) != len(images):
        raise InputError(
            f"{path}: {len(images)} pictures, but {len(masks)} masks; fetch the scene again"
        )
    sizes = [image_size(image) for image in images]
    odd = [image.name for image, size in zip(images, sizes, strict=True) if size != sizes[0]]
    if odd:
        raise InputError(
            f"{path / 'image'}: not of the size of {images[0].name}: {listed(odd)}; "
            "fetch the scene again"
        )
    file = path / MATRICES
    try:
        if not is_file(file):
            raise FileNotFoundError("no such file")
        with np.load(file, allow_pickle=False) as arrays:
            if sum(item.file_size for item in arrays.zip.infolist()) > MAX_BYTES:
                raise ValueError(f"longer than {MAX_BYTES:,} bytes")
            worlds = [_doubles(arrays[f"world_mat_{i}"]) for i in range(len(images))]
            scale = _doubles(arrays["scale_mat_0"])  # the same for all
    except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
        raise InputError(
            f"{file}: not the cameras of {len(images)} pictures ({error}); fetch the scene again"
        ) from error
    cameras = [
        _decomposed(world, *sizes[0], f"{file}: world_mat_{i}") for i, world in enumerate(worlds)
    ]
    if scale.shape != (4, 4) or not np.isfinite(scale).all() or scale[0, 0] <= 0:
        raise InputError(
            f"{file}: scale_mat_0 is not a finite 4x4 matrix that scales; fetch the scene again"
        )
    files = zip(images, masks or [None] * len(images), cameras, strict=True)
    photos = [Photo(image.stem, image, mask, camera) for image, mask, camera in files]
    if every and split == "train":
        photos = [photo for index, photo in enumerate(photos) if index % every]
    elif every:
        photos = photos[::every]
    if not photos:
        raise InputError(
            f"scene.test_every={every}: leaves no picture for the split {split}; "
            "choose 0, or at least 2"
        )
    return photos, Similarity(tuple(scale[:3, 3].tolist()), float(scale[0, 0]))


def _doubles(array: np.ndarray) -> np.ndarray:
    """Numbers as float64; complex ones and texts are a TypeError."""
    return array.astype(np.float64, casting="same_kind")


def _decomposed(projection: np.ndarray, width: int, height: int, name: str) -> Camera:
    """The camera of a projection matrix K [R | t], as OpenCV decomposes it.

    Its pixel centres are whole numbers; ours lie half a pixel further.
    """
    if projection.shape not in ((3, 4), (4, 4)) or not np.isfinite(projection).all():
        raise InputError(f"{name} is not a finite 3x4 or 4x4 matrix; fetch the scene again")
    square = projection[:3, :3]
    if np.abs(projection).max() > MAX_ENTRY or not np.linalg.cond(square) < 1e12:
        raise InputError(f"{name} is singular; fetch the scene again")
    intrinsics, rotation = rq(square * np.sign(np.linalg.det(square)))
    signs = np.sign(np.diag(intrinsics))
    intrinsics, rotation = intrinsics * signs, signs[:, None] * rotation
    position = -np.linalg.solve(square, projection[:3, 3])
    intrinsics = intrinsics / intrinsics[2, 2]
    intrinsics[:2, 2] += 0.5
    pose = np.concatenate([rotation.T, position[:, None]], 1)
    return Camera(torch.from_numpy(pose), torch.from_numpy(intrinsics), width, height)


def _check_rotation(camera: Camera, path: Path) -> None:
    rotation = camera.pose[:, :3]
    identity = torch.eye(3, dtype=torch.float64)
    orthogonal = torch.allclose(rotation.T @ rotation, identity, atol=1e-3)
    if not orthogonal or rotation.det() < 0:
        raise InputError(
            f"{path}: the matrix of its camera is singular or no rotation; fetch the scene again"
        )


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def _has_alpha(path: Path) -> bool:
    with open_image(path) as image:
        return "A" in image.getbands() or "transparency" in image.info


def _read(path: Path, mode: str) -> np.ndarray:
    """(height, width, bands) float32 in [0, 1]."""
    with open_image(path) as image:
        return np.asarray(image.convert(mode), np.float32) / 255
