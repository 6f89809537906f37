"""The modes of render.py: from what cameras see to pictures."""

import os
from collections.abc import Callable, Iterable

import numpy as np

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.rendering import images as pictures
from dss.rendering.buffers import Frame
from dss.rendering.images import Scale
from dss.rendering.mesh_buffers import see

BYTES = 400  # of memory per pixel of the view in work
KEPT = 12  # per pixel of every view


def _error(frame: Frame, distance: MeshDistance) -> np.ndarray:
    """Distance from what was hit to the mesh; NaN where neither the field nor the mesh is hit, inf where one of them is."""
    truth = see(distance, frame.camera, "faces").hit
    values = np.where(frame.hit == truth, np.nan, np.inf).astype(np.float32)
    points = frame.points()
    values[frame.hit] = np.where(truth[frame.hit], np.linalg.norm(distance.closest(points)[0] - points, axis=1), np.inf)
    return values


IMAGES: dict[str, Callable[[Frame], np.ndarray]] = {
    "shaded": lambda frame: pictures.studio(frame.in_camera(frame.normal), frame.in_camera(frame.view), frame.hit),
    "headlight": lambda frame: pictures.headlight(frame.normal, frame.view, frame.hit),
    "normal": lambda frame: pictures.normal_map(frame.in_camera(frame.normal), frame.hit),
}
NUMBERS: dict[str, tuple[str, Callable[[Frame, MeshDistance | None], np.ndarray]]] = {
    "depth": ("distance from the camera (normalised units)", lambda frame, _: np.where(frame.hit, frame.t, np.nan)),
    "steps": ("queries of the field per ray", lambda frame, _: np.where(frame.steps > 0, frame.steps, np.nan)),
    "error": ("distance to the mesh (normalised units)", _error),
}


def draw(frames: Iterable[Frame], mode: str, distance: MeshDistance | None = None) -> tuple[list[np.ndarray], Scale | None]:
    """One picture (h, w, 3) uint8 per frame, in a mode of IMAGES or NUMBERS; for numbers, the scale that the pictures share.

    `distance` is to the true mesh, which the mode `error` needs.
    """
    if mode in IMAGES:
        return [IMAGES[mode](frame) for frame in frames], None
    label, measure = NUMBERS[mode]
    values = [measure(frame, distance) for frame in frames]
    present = np.concatenate([value[np.isfinite(value)] for value in values])
    low, high = np.percentile(present, [1, 99]) if len(present) else (0, 1)  # so that a few outliers do not bleach the rest
    scale = Scale(0.0 if mode == "error" else float(low), float(high), label)
    return [pictures.colorized(value, scale) for value in values], scale


def check_request(views: int, size: int) -> None:
    """Raise InputError for a number of views or a size that makes no picture, or more than half of the memory."""
    if views < 1:
        raise InputError(f"--views {views}: there is nothing to draw; ask for at least 1")
    if size < 1:
        raise InputError(f"--size {size}: a picture needs at least 1 pixel per side; 512 is usual")
    need, memory = size * size * (BYTES + KEPT * views), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory / 2:
        gib = f"{need / 2**30:,.1f} GiB of memory, and this machine has {memory / 2**30:,.1f}"
        raise InputError(f"--size {size}, --views {views}: would take {gib}; choose a smaller size or fewer views")
