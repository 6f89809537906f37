"""Cross-sections: the signed distance in a plane, and the shell as in the paper's Figure 2."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from dss.errors import InputError
from dss.fields.base import Field
from dss.rendering.images import INK, SIGNED, Scale, colorized

SPACING = 0.05  # between isolines
RANGE = Scale(-0.2, 0.2, f"signed distance (normalised units), isolines every {SPACING}", SIGNED)
REACH = 0.95  # half the side of the square that is drawn, about the origin
FINE = 3  # drawing resolution of circles, per pixel
INTERLAYER, INNER, OUTLINE = (250, 214, 165), (150, 190, 216), (45, 98, 140)


@dataclass(frozen=True)
class Plane:
    """A plane perpendicular to an axis.

    Of the other two axes, the first points right and the second up.
    """

    axis: int  # 0, 1 or 2
    offset: float

    def __str__(self) -> str:
        return f"{'xyz'[self.axis]} = {self.offset:+.2f}"

    def points(self, size: int) -> Tensor:
        """The centres (size * size, 3) float32 of its pixels, row by row from the top left."""
        side = REACH * ((torch.arange(size) + 0.5) * (2 / size) - 1)
        up, right = torch.meshgrid(-side, side, indexing="ij")
        across = [right, up]
        across.insert(self.axis, torch.full_like(up, self.offset))
        return torch.stack(across, -1).reshape(-1, 3)


def planes(count: int) -> list[Plane]:
    """`count` planes, shared among the three axes, evenly spaced across the middle of the solid."""
    counts = [(count + 2 - axis) // 3 for axis in range(3)]
    return [
        Plane(axis, round(0.8 * ((index + 0.5) / n - 0.5), 3))
        for axis, n in enumerate(counts)
        for index in range(n)
    ]


def draw_slice(field: Field, plane: Plane, size: int) -> np.ndarray:
    """The total signed distance in the plane, in the colours of RANGE, with isolines.

    The zero set is bold. The colours are pale where the shell answers instead of the prediction, in
    inner and outside all outer spheres.
    """
    points = plane.points(size).to(field.device)
    values = field.sdf(points).cpu().numpy().reshape(size, size)
    image = inked(colorized(values, RANGE), values, 0.35, SPACING)
    if field.shell is not None:
        interlayer = (field.shell.inner_gap(points) > 0) & (field.shell.outer_gap(points)[0] < 0)
        predicted = interlayer.cpu().numpy().reshape(size, size, 1)
        image = np.where(predicted, image, 255 - (255 - image) // 3)
    return inked(image, values, 1.0)


def draw_shell(field: Field, plane: Plane, size: int) -> np.ndarray:
    """What the plane cuts of the shell and of the surface.

    Outer spheres are outlined, the interlayer is sand, inner spheres are blue, the surface black.
    Raises InputError for a field without a shell.
    """
    if field.shell is None:
        raise InputError("shell: this field has no shell to draw; choose another --mode")
    values = field.sdf(plane.points(size).to(field.device)).cpu().numpy().reshape(size, size)
    scale = size * FINE / (2 * REACH)
    centers = field.shell.centers.cpu().numpy()
    depth = centers[:, plane.axis] - plane.offset
    centers = np.delete(centers, plane.axis, 1)
    canvas = Image.new("RGB", (size * FINE, size * FINE), "white")
    draw = ImageDraw.Draw(canvas)

    def circles(radii: Tensor, **style: object) -> None:
        cut = radii.cpu().numpy() ** 2 - depth**2
        for index in cut.argsort()[::-1]:
            if cut[index] > 0:
                x, y = (REACH + centers[index, 0]) * scale, (REACH - centers[index, 1]) * scale
                radius = cut[index] ** 0.5 * scale
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), **style)

    circles(field.shell.outer_radii, fill=INTERLAYER)
    circles(field.shell.inner_radii, fill=INNER)
    circles(field.shell.inner_radii, outline=OUTLINE, width=2)
    circles(field.shell.outer_radii, outline=(214, 152, 82), width=2)
    return inked(np.asarray(canvas.resize((size, size), Image.Resampling.BOX)), values, 1.0)


def inked(
    image: np.ndarray, values: np.ndarray, strength: float, spacing: float | None = None
) -> np.ndarray:
    """Darken an image (h, w, 3) along the zero set of the values (h, w).

    With `spacing`, along its multiples but 0, and thinner.
    """
    # Per pixel, and bounded, because a jump between spheres is no slope
    slope = np.hypot(*np.gradient(values)).clip(1e-6, 3 * REACH / len(values))
    width = 1.4 if spacing is None else 0.7
    offset = values
    if spacing is not None:
        offset = (np.abs(values) + spacing / 2).clip(spacing) % spacing - spacing / 2
    ink = strength * (width + 0.5 - np.abs(offset) / slope).clip(0, 1)[..., None]
    if spacing is None:  # the distance to a sphere also vanishes on it, without a change of sign
        ink[ndimage.maximum_filter(values, 5) * ndimage.minimum_filter(values, 5) >= 0] = 0
    return (image * (1 - ink) + np.array(INK) * ink).round().astype(np.uint8)
