"""Frames: what a camera sees of a subject, with all that the viewer can switch on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dss.reconstruction.volume_rendering import render_picture
from dss.rendering import images as pictures
from dss.rendering.buffers import Buffers
from dss.rendering.cameras import Camera
from dss.rendering.images import INK, PAPER, Scale
from dss.rendering.mesh_buffers import smooth_normals
from dss.rendering.modes import IMAGES, gaps
from dss.rendering.slices import INNER, INTERLAYER, RANGE, REACH, SPACING, Plane, inked
from dss.rendering.spheres import trace_spheres
from dss.rendering.tracing import Hits, trace
from dss.viewer.subject import Subject

FIELD_MODES = ("field", "normals", "steps")
MESH_MODES = ("mesh", "mesh normals")
STEPS = Scale(0, 24, "queries of the field per ray")
VEIL = 0.55  # opacity of spheres, and of the plane outside the solid
SEAM = 2  # pixels between two subjects

Rays = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Look:
    """What is shown, and how."""

    mode: str = "field"
    inner: bool = False  # the inner spheres
    outer: bool = False
    plane: Plane | None = None  # that cuts away what lies between it and the camera
    content: str = "distance"  # on the plane; or `shell`
    error: float = 1e-3  # that has the top colour of the mode `error`


@dataclass(frozen=True)
class Frame:
    """A picture (h, w, 3) uint8, and the depth (h, w) float32 along the view, inf where nothing is
    hit."""

    image: np.ndarray
    depth: np.ndarray


def modes(subject: Subject) -> list[str]:
    """What can be shown of a subject, the best first."""
    found = [] if subject.field is None else [*FIELD_MODES]
    found += [] if subject.truth is None else [*MESH_MODES]
    found += ["error"] if subject.field is not None and subject.truth is not None else []
    return found + (["colours"] if subject.run else []) + ["nothing"]


@torch.no_grad()
def draw(subject: Subject, camera: Camera, look: Look) -> Frame:
    """What the camera sees of the subject; where it has no such mode, in its first one.

    The mode `colours`, of photos, is neither cut nor has it distances.
    """
    mode = look.mode if look.mode in (known := modes(subject)) else known[0]
    shape = camera.height, camera.width
    if mode == "colours":
        run = subject.run
        seen = render_picture(run.model, run.sampler, camera, run.background, run.config.render)
        return Frame(seen.colour, np.full(shape, np.inf, np.float32))
    origins, directions = camera.rays(device=subject.device)
    start = _starts(look.plane, origins, directions)
    rays = origins, directions

    def cast(surface: Callable[[Tensor, Tensor], Hits]) -> Buffers:
        return Buffers.of(camera, directions, _from(start, surface, *rays))

    if mode == "nothing":
        seen = cast(lambda origins, _: _missed(origins))
    elif mode in MESH_MODES:
        seen = cast(lambda *rays: _mesh_hits(subject, *rays))
    else:
        seen = cast(lambda *rays: trace(subject.field, *rays))
    if mode == "error":
        truth = cast(lambda *rays: _mesh_hits(subject, *rays, smooth=False)).hit
        scale = Scale(0, look.error, "distance to the mesh (normalised units)")
        image = pictures.colorized(gaps(seen, truth, subject.truth), scale)
    elif mode == "steps":
        image = pictures.colorized(np.where(seen.steps > 0, seen.steps, np.nan), STEPS)
    else:
        image = IMAGES["normal" if mode.endswith("normals") else "shaded"](seen)
    t = seen.t
    if look.plane is not None:
        image, t = _with_plane(image, t, subject, mode, look, start, rays)
    if subject.shell is not None:
        for shown, name, tint in ((look.outer, "outer", INTERLAYER), (look.inner, "inner", INNER)):
            if shown:
                spheres = getattr(subject, name)
                seen = cast(lambda *rays, spheres=spheres: trace_spheres(spheres, *rays))
                image = _veiled(image, IMAGES["shaded"](seen) * (np.array(tint) / 180), seen.hit)
    along = (directions @ camera.pose[:, 2].to(directions)).view(shape).cpu().numpy()
    return Frame(image, t * along)


def draw_beside(subjects: list[Subject], camera: Camera, look: Look) -> Frame:
    """Subjects beside each other, seen by the same camera, each in its share of the picture's
    width. Two or more have their names in their corners."""
    share = (camera.width - SEAM * (len(subjects) - 1)) // len(subjects)
    intrinsics = camera.intrinsics.clone()
    intrinsics[0, 2] -= (camera.width - share) / 2
    narrow = Camera(camera.pose, intrinsics, share, camera.height)
    frames = [draw(subject, narrow, look) for subject in subjects]
    if len(frames) == 1:
        return frames[0]
    image = np.full((camera.height, camera.width, 3), INK, np.uint8)
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    for index, frame in enumerate(frames):
        place = slice(index * (share + SEAM), index * (share + SEAM) + share)
        image[:, place], depth[:, place] = frame.image, frame.depth
    return Frame(image, depth)


def labelled(image: np.ndarray, names: list[str]) -> np.ndarray:
    """The picture of several subjects, with their names at the top of their shares."""
    sheet = Image.fromarray(image)
    ink, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(10, image.shape[0] // 30))
    for index, name in enumerate(names):
        place = image.shape[1] * (index + 0.5) / len(names), 8
        ink.text(place, name, INK, font, anchor="ma", stroke_width=2, stroke_fill=PAPER)
    return np.asarray(sheet)


def bands(camera: Camera, pixels: int) -> list[Camera]:
    """Cameras of the parts of a camera's picture, from the top down, of at most so many pixels, but
    at least one row, each."""
    rows, parts = max(1, pixels // camera.width), []
    for top in range(0, camera.height, rows):
        intrinsics = camera.intrinsics.clone()
        intrinsics[1, 2] -= top
        height = min(rows, camera.height - top)
        parts.append(Camera(camera.pose, intrinsics, camera.width, height))
    return parts


def resized(camera: Camera, pixels: int) -> Camera:
    """The same view in at most so many pixels; never larger than it is."""
    share = min(1.0, math.sqrt(pixels / (camera.width * camera.height)))
    width, height = (max(1, int(share * side)) for side in (camera.width, camera.height))
    scale = torch.tensor([width / camera.width, height / camera.height, 1], dtype=torch.float64)
    return Camera(camera.pose, scale[:, None] * camera.intrinsics, width, height)


def _starts(plane: Plane | None, origins: Tensor, directions: Tensor) -> Tensor:
    """Where rays (n,) begin to be seen: at the camera, or where they pass the plane; inf where they
    never do, because the camera's side of it is cut away."""
    if plane is None:
        return torch.zeros_like(origins[:, 0])
    t = (plane.offset - origins[:, plane.axis]) / directions[:, plane.axis]
    return torch.where((t > 0) & t.isfinite(), t, torch.inf)


def _from(
    start: Tensor, surface: Callable[[Tensor, Tensor], Hits], origins: Tensor, directions: Tensor
) -> Hits:
    """Hits of rays that begin at `start` (n,), counted from their origins."""
    hits, live = _missed(origins), start.isfinite()
    begin, along = start[live], directions[live]
    part = surface(origins[live] + begin[:, None] * along, along)
    hits.hit[live], hits.t[live] = part.hit, part.t + begin
    hits.normal[live], hits.steps[live] = part.normal, part.steps
    return hits


def _missed(origins: Tensor) -> Hits:
    hit = torch.zeros(len(origins), dtype=torch.bool, device=origins.device)
    t = torch.full_like(origins[:, 0], torch.inf)
    return Hits(hit, t, torch.zeros_like(origins), hit.long())


def _mesh_hits(subject: Subject, origins: Tensor, directions: Tensor, smooth: bool = True) -> Hits:
    """First hits with the truth; without `smooth`, with no normals."""
    t, face = subject.truth.raycast(origins, directions)
    hit, normal = t.isfinite(), torch.zeros_like(origins)
    if smooth:
        points = (origins[hit] + t[hit, None] * directions[hit]).cpu().numpy()
        arrays = points, face[hit].cpu().numpy(), subject.corner_normals
        normal[hit] = torch.from_numpy(smooth_normals(subject.truth, *arrays)).to(normal)
    return Hits(hit, t, normal, torch.zeros_like(face))


def _with_plane(
    image: np.ndarray, t: np.ndarray, subject: Subject, mode: str, look: Look, start: Tensor,
    rays: Rays,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The picture with the plane in it: opaque in the solid, and a veil around it."""
    origins, directions = rays
    live = start.isfinite()
    points = origins[live] + start[live, None] * directions[live]
    inside = (points.abs() <= REACH).all(1)
    live[live.clone()], points = inside, points[inside]
    of_mesh = mode in MESH_MODES or subject.field is None
    source = subject.truth_field if of_mesh else subject.field
    shape = image.shape[:2]

    def spread(found: Tensor) -> np.ndarray:
        values = torch.full_like(start, 1.0)
        values[live] = found
        return values.view(shape).cpu().numpy()

    values = spread(source.sdf(points))
    if look.content == "shell" and subject.shell is not None:
        inner = spread(subject.shell.inner_gap(points))[..., None]
        outer = spread(subject.shell.outer_gap(points)[0])[..., None]
        paint = np.where(inner < 0, INNER, np.where(outer < 0, INTERLAYER, PAPER)).astype(np.uint8)
    else:
        paint = inked(pictures.colorized(values, RANGE), values, 0.35, SPACING)
    paint = inked(paint, values, 1.0)
    seen = live.view(shape).cpu().numpy()
    solid = seen & (values <= 0)
    image = _veiled(image, paint, seen)
    image = np.where(solid[..., None], paint, image)
    return image, np.where(solid, start.view(shape).cpu().numpy(), t)


def _veiled(image: np.ndarray, veil: np.ndarray, where: np.ndarray) -> np.ndarray:
    mixed = ((1 - VEIL) * image + VEIL * veil).clip(0, 255).astype(np.uint8)
    return np.where(where[..., None], mixed, image)
