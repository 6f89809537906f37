"""From a field and cameras to pictures: one function per mode."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from dss import pictures
from dss.errors import InputError
from dss.fields.base import Field
from dss.pictures import Scale
from dss.rays import Camera
from dss.tracing import trace

BYTES = 400  # of memory per pixel of one view, at the peak


@dataclass(frozen=True)
class Frame:
    """What one camera sees of a field: arrays over its (height, width) pixels."""

    camera: Camera
    hit: np.ndarray  # bool
    t: np.ndarray  # distance from the camera, inf on a miss
    normal: np.ndarray  # (height, width, 3) in the normalised frame
    view: np.ndarray  # (height, width, 3) unit directions towards the camera
    steps: np.ndarray  # queries of the field

    def in_camera(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (height, width, 3) in the camera's axes."""
        return vectors @ self.camera.pose[:, :3].float().numpy()


def render(field: Field, camera: Camera, device: torch.device | str = "cpu") -> Frame:
    """Trace the camera's rays into the field, which is on `device`."""
    origins, directions = camera.rays(device)
    hits = trace(field, origins, directions)
    shape = (camera.height, camera.width)
    hit, t, normal, steps = (value.cpu().numpy().reshape(*shape, *value.shape[1:]) for value in (hits.hit, hits.t, hits.normal, hits.steps))
    return Frame(camera, hit, t, normal, -directions.cpu().numpy().reshape(*shape, 3), steps)


IMAGES: dict[str, Callable[[Frame], np.ndarray]] = {
    "normal": lambda frame: pictures.normal_map(frame.in_camera(frame.normal), frame.hit),
    "shaded": lambda frame: pictures.studio(frame.in_camera(frame.normal), frame.in_camera(frame.view), frame.hit),
    "headlight": lambda frame: pictures.headlight(frame.normal, frame.view, frame.hit),
}
NUMBERS: dict[str, tuple[str, Callable[[Frame], np.ndarray]]] = {
    "depth": ("distance from the camera (normalised units)", lambda frame: np.where(frame.hit, frame.t, np.nan)),
    "steps": ("queries of the field per ray", lambda frame: np.where(frame.steps > 0, frame.steps, np.nan)),
}


def draw(frames: Iterable[Frame], mode: str) -> tuple[list[np.ndarray], Scale | None]:
    """One picture (h, w, 3) uint8 per frame, in a mode of IMAGES or NUMBERS; for numbers, the scale that the pictures share."""
    if mode in IMAGES:
        return [IMAGES[mode](frame) for frame in frames], None
    label, measure = NUMBERS[mode]
    values = [measure(frame) for frame in frames]
    present = np.concatenate([value[~np.isnan(value)] for value in values])
    low, high = np.percentile(present, [1, 99]) if len(present) else (0, 1)  # so that a few outliers do not bleach the rest
    scale = Scale(float(low), float(high), label)
    return [pictures.colorized(value, scale) for value in values], scale


def check_request(views: int, size: int) -> None:
    """Raise InputError for a number of views or a size that makes no picture, or more than half of the memory."""
    if views < 1:
        raise InputError(f"--views {views}: there is nothing to draw; ask for at least 1")
    if size < 1:
        raise InputError(f"--size {size}: a picture needs at least 1 pixel per side; 512 is usual")
    need, memory = size * size * BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory / 2:
        gib = f"{need / 2**30:,.1f} GiB of memory, and this machine has {memory / 2**30:,.1f}"
        raise InputError(f"--size {size}: would take {gib}; choose a smaller size")
