"""Series of pictures of one subject: from cameras around it, or of planes through it; with their
contact sheet."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dss.errors import InputError
from dss.fields import Field
from dss.fields.mesh import MeshField
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh
from dss.progress import Progress, silent, tracked
from dss.rendering.buffers import Buffers, render
from dss.rendering.cameras import turntable
from dss.rendering.images import Scale, contact_sheet, save_animation, save_png
from dss.rendering.mesh_buffers import render_mesh
from dss.rendering.modes import IMAGES, NUMBERS, draw
from dss.rendering.slices import RANGE, draw_shell, draw_slice, planes

CUTS = {"slice": (draw_slice, RANGE), "shell": (draw_shell, None)}
MODES = (*IMAGES, *NUMBERS, *CUTS)
LEGENDS = {
    "error": "red: only one of mesh and field is hit",
    "slice": "black: the surface; pale: where the shell answers, if there is one",
    "shell": "blue: inner spheres; sand: interlayer; black: the surface",
}
SECONDS = 6.0  # of an animation
MAX_TILES = 30  # pictures on a contact sheet


@dataclass(frozen=True)
class Gallery:
    """Pictures (h, w, 3) uint8 in one mode, with a label each and the scale that they share, if
    any."""

    mode: str
    about: list[str]  # facts for the contact sheet
    images: list[np.ndarray]
    labels: list[str]
    scale: Scale | None = None

    def save(self, folder: Path, title: str, animation: str | None = None) -> Path:
        """Write one PNG per picture, the contact sheet, whose path is returned, and an animation
        (webp, gif or mp4)."""
        for index, image in enumerate(self.images):
            save_png(folder / f"{self.mode}_{index:03d}.png", image)
        if animation:
            save_animation(folder / f"{self.mode}.{animation}", self.images, SECONDS)
        height, width = self.images[0].shape[:2]
        facts = ", ".join([self.mode, *self.about, f"{width} x {height} pixels"])
        subtitle = "; ".join([facts, *filter(None, [LEGENDS.get(self.mode)])])
        tiles = slice(None, None, -(-len(self.images) // MAX_TILES))
        sheet = contact_sheet(self.images[tiles], self.labels[tiles], title, subtitle, self.scale)
        save_png(path := folder / f"{self.mode}.png", sheet)
        return path


def draw_field(
    field: Field,
    mode: str = "shaded",
    views: int = 8,
    size: int = 512,
    up: str = "z",
    truth: Mesh | None = None,
    progress: Progress = silent,
) -> Gallery:
    """A field seen from `views` cameras on a turntable about the axis `up`, or cut by as many
    planes.

    size x size pixels; `truth` is the true mesh, which the mode `error` needs.
    """
    about = [f"{sum(field.storage().values()) / 1024:.1f} KiB"]
    about += [f"{len(field.shell)} spheres"] if field.shell else []
    if mode in CUTS:
        return _cuts(field, mode, about, views, size, progress)
    distance = MeshDistance(truth.vertices, truth.faces, field.device) if truth else None
    buffers = (render(field, camera) for camera in turntable(views, size, up))
    return _seen(buffers, mode, about, views, distance, progress)


def draw_mesh(
    mesh: Mesh,
    mode: str = "shaded",
    views: int = 8,
    size: int = 512,
    up: str = "z",
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Gallery:
    """The mesh itself in the manner of `draw_field`. Raises InputError in a mode that only a field
    has."""
    if mode in ("error", "steps", "shell"):
        raise InputError(
            f"--mode {mode}: a mesh alone has none; name a run folder, or choose another mode"
        )
    distance = MeshDistance(mesh.vertices, mesh.faces, device)
    about = [f"mesh of {len(mesh.faces):,} faces"]
    if mode in CUTS:
        return _cuts(MeshField(distance), mode, about, views, size, progress)
    buffers = (render_mesh(distance, camera, "smooth") for camera in turntable(views, size, up))
    return _seen(buffers, mode, about, views, None, progress)


def _cuts(
    field: Field, mode: str, about: list[str], count: int, size: int, progress: Progress
) -> Gallery:
    (paint, scale), cuts = CUTS[mode], planes(count)
    images = [paint(field, plane, size) for plane in tracked(cuts, "cut", count, progress)]
    return Gallery(mode, about, images, [str(plane) for plane in cuts], scale)


def _seen(
    buffers: Iterable[Buffers],
    mode: str,
    about: list[str],
    count: int,
    truth: MeshDistance | None,
    progress: Progress,
) -> Gallery:
    images, scale = draw(tracked(buffers, "render", count, progress), mode, truth)
    labels = [f"{360 * index / count:.0f}\N{DEGREE SIGN}" for index in range(count)]
    return Gallery(mode, about, images, labels, scale)
