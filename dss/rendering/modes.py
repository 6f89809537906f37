"""The modes of render.py: from what cameras see to pictures."""

import os
from collections.abc import Callable, Iterable

import numpy as np

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.rendering import images as pictures
from dss.rendering.buffers import Buffers
from dss.rendering.images import Scale
from dss.rendering.mesh_buffers import render_mesh

BYTES_TRACED = 400  # of memory per pixel of the view that is being traced
BYTES_KEPT = 12  # of memory per pixel of every view


def gaps(seen: Buffers, truth: np.ndarray, distance: MeshDistance) -> np.ndarray:
    """Distance (height, width) float32 from what was hit to the mesh, whose own pixels are `truth`
    (height, width) bool.

    NaN where neither the field nor the mesh is hit, infinity where only one of them is.
    """
    values = np.where(seen.hit == truth, np.nan, np.inf).astype(np.float32)
    points = seen.points()
    found = np.linalg.norm(distance.closest(points)[0] - points, axis=1)
    values[seen.hit] = np.where(truth[seen.hit], found, np.inf)
    return values


def _error(seen: Buffers, distance: MeshDistance) -> np.ndarray:
    return gaps(seen, render_mesh(distance, seen.camera, "faces").hit, distance)


IMAGES: dict[str, Callable[[Buffers], np.ndarray]] = {
    "shaded": lambda seen: pictures.studio(
        seen.in_camera(seen.normal), seen.in_camera(seen.view), seen.hit
    ),
    "headlight": lambda seen: pictures.headlight(seen.normal, seen.view, seen.hit),
    "normal": lambda seen: pictures.normal_map(seen.in_camera(seen.normal), seen.hit),
}
NUMBERS: dict[str, tuple[str, Callable[[Buffers, MeshDistance | None], np.ndarray]]] = {
    "depth": (
        "distance from the camera (normalised units)",
        lambda seen, _: np.where(seen.hit, seen.t, np.nan),
    ),
    "steps": (
        "queries of the field per ray",
        lambda seen, _: np.where(seen.steps > 0, seen.steps, np.nan),
    ),
    "error": ("distance to the mesh (normalised units)", _error),
}


def draw(
    buffers: Iterable[Buffers], mode: str, distance: MeshDistance | None = None
) -> tuple[list[np.ndarray], Scale | None]:
    """One picture (h, w, 3) uint8 per camera, in a mode of IMAGES or NUMBERS.

    For numbers, also the scale that the pictures share. `distance` is to the true mesh, which the
    mode `error` needs.
    """
    if mode in IMAGES:
        return [IMAGES[mode](seen) for seen in buffers], None
    label, measure = NUMBERS[mode]
    values = [measure(seen, distance) for seen in buffers]
    present = np.concatenate([value[np.isfinite(value)] for value in values])
    # The scale leaves a few outliers out, so that they do not bleach the rest.
    low, high = np.percentile(present, [1, 99]) if len(present) else (0, 1)
    scale = Scale(0.0 if mode == "error" else float(low), float(high), label)
    return [pictures.colorized(value, scale) for value in values], scale


def check_pictures(views: int = 1, size: int = 1) -> None:
    """Raise InputError where there is nothing to draw, or where it takes half of the memory.

    `views` pictures of size x size pixels; a number that is not given is not checked.
    """
    if views < 1:
        raise InputError(f"--views {views}: there is nothing to draw; ask for at least 1")
    if size < 1:
        raise InputError(f"--size {size}: a picture needs at least 1 pixel per side; 512 is usual")
    need = size * size * (BYTES_TRACED + BYTES_KEPT * views)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory / 2:
        gib = f"{need / 2**30:,.1f} GiB of memory, and this machine has {memory / 2**30:,.1f}"
        remedy = "choose a smaller size or fewer views"
        raise InputError(f"--size {size}, --views {views}: would take {gib}; {remedy}")
