"""Finished runs of photos against the photos of a split: their metrics and their pictures."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dss.errors import InputError
from dss.evaluation.images import psnr, ssim_rgb
from dss.progress import Event, Progress, silent, tracked
from dss.reconstruction.scene import Photo, Scene, is_scene, load_scene
from dss.reconstruction.volume_rendering import Picture, render_picture
from dss.rendering.cameras import Camera
from dss.rendering.gallery import MAX_TILES
from dss.rendering.images import Scale, colorized, contact_sheet, save_png
from dss.rendering.spheres import draw_spheres
from dss.tables import Column, mean_of

if TYPE_CHECKING:
    from dss.reconstruction.surface_rendering import Tracer
    from dss.run import PhotoRun

Render = Callable[[Camera], Picture]
ERROR = Scale(0.0, 0.05, "distance to the run's surface (unit coordinates)")
PANEL = 160  # pixels of a picture on a contact sheet
SPHERES = 0.25  # of their radii at which spheres are pictured, so that one sees where they are
COLUMNS = (
    Column("psnr", "PSNR", ".2f"),
    Column("ssim", "SSIM", ".4f"),
    Column("seconds", "s / frame", ".3f"),
    Column("samples", "samples / ray", ".1f"),
    Column("queries", "queries / ray", ".1f"),
    Column("background", "background rays", ".1%"),
)


def scene_of(run: "PhotoRun", split: str, path: str | None = None, every: int = 1) -> Scene:
    """Every n-th photo of a split of the scene that the run learned from, in the run's similarity.

    `path` is where the scene lies now, if it has moved. Raises InputError as `load_scene`.
    """
    settings = run.config.scene.model_copy(update={"path": path} if path else {})
    scene = load_scene(settings, split, run.similarity)
    return replace(scene, photos=scene.photos[::every])


def measure_photos(
    run: "PhotoRun",
    data: str | None = None,
    split: str = "test",
    every: int = 1,
    render: Render | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Every n-th photo of a split against its picture (by `render`, else by volume rendering):
    what ssim.json holds.

    The `mean` and the rows of all `photos`, by name; `data` is where the scene lies now, if it has
    moved.
    """
    scene = scene_of(run, split, data, every)
    seen = tracked(pictures(run, scene, render), "photos", len(scene.photos), progress)
    rows = {photo.name: compare(picture, photo, run.background) for photo, picture in seen}
    return {"split": split, "mean": mean_of(rows.values()), "photos": rows}


def draw_photos(
    run: "PhotoRun",
    data: str | None = None,
    mode: str = "shaded",
    split: str = "test",
    every: int = 1,
    out: Path | None = None,
    render: Render | None = None,
    progress: Progress = silent,
) -> Path:
    """Colours and normals as PNG, seen by every n-th camera of a split, and their contact sheet,
    whose path is returned. In the mode `shell` the sampler's spheres, too; in the mode `error` the
    photo, and how far each point of the true surface is from the run's.

    Pictures go to `out` (default: the folder of the split in the run). Raises InputError in another
    mode, and where there are no spheres or no true surface.
    """
    if mode not in ("shaded", "shell", "error"):
        remedy = "choose shell or error, or leave it out"
        raise InputError(f"--mode {mode}: does not apply to surfaces from photos; {remedy}")
    if mode == "shell" and run.sampler.shell is None:
        raise InputError(f"--mode shell: {run.folder} has no spheres; choose another mode")
    errors = None
    if mode == "error":
        errors = _error_maps(run, data)
        data = data if data and is_scene(data) else None  # else it names the true surface
    scene, out = scene_of(run, split, data, every), out or run.folder / split
    subtitle = {
        "shaded": f"{split}, colours and normals",
        "shell": f"{split}, colours, normals, and the spheres at {SPHERES:.0%} of their radii",
        "error": f"{split}: photo, colours, normals, and the error on the true surface",
    }[mode]
    tiles, seconds = [], 0.0
    seen = tracked(pictures(run, scene, render), "render", len(scene.photos), progress)
    for photo, picture in seen:
        panels = {"": picture.colour, "normals": picture.normal_map()}
        if mode == "shell":
            panels["spheres"] = draw_spheres(run.sampler.shell, photo.camera, SPHERES)
        if errors:
            truth = truth_of(photo, run.background)
            panels = {"photo": truth, **panels, "error": errors(photo.camera)}
        for folder, image in panels.items():
            save_png(out / folder / f"{photo.name}.png", image)
        tiles.append((np.concatenate(list(panels.values()), 1), photo.name))
        seconds += picture.seconds
    progress(Event("frames", 1, 1, f"{len(tiles)}, {seconds / len(tiles):.3f} s each"))
    images, labels = zip(*tiles[:: -(-len(tiles) // MAX_TILES)], strict=True)
    scale, width = ERROR if errors else None, PANEL * len(panels)
    sheet = contact_sheet(images, labels, run.folder.resolve().name, subtitle, scale, width)
    save_png(path := run.folder / f"{split}.png", sheet)
    return path


def _error_maps(run: "PhotoRun", data: str | None) -> Callable[[Camera], np.ndarray]:
    """From a camera to its picture (h, w, 3) uint8 of the true surface, in the colours of ERROR."""
    # Imports the libraries for meshes, which the other pictures do not need.
    from dss.evaluation.photo_geometry import true_surface
    from dss.geometry.distance import MeshDistance
    from dss.rendering.mesh_buffers import render_mesh

    truth = true_surface(run, data)
    if truth is None:
        remedy = "name it with --mesh, or choose another mode"
        raise InputError(f"--mode error: {run.folder}: the true surface is not known; {remedy}")
    ours, theirs = (
        MeshDistance(mesh.vertices, mesh.faces, run.model.device) for mesh in (run.surface(), truth)
    )

    def draw(camera: Camera) -> np.ndarray:
        seen = render_mesh(theirs, camera, "faces")
        values = np.full(seen.hit.shape, np.nan)
        values[seen.hit] = ours.exact(seen.points())
        return colorized(values, ERROR)

    return draw


def volume_render(run: "PhotoRun") -> Render:
    """Pictures of a run by volume rendering, through its own sampler."""
    settings = run.config.render
    return lambda camera: render_picture(run.model, run.sampler, camera, run.background, settings)


def surface_render(run: "PhotoRun", tracer: "Tracer | None" = None) -> Render:
    """Pictures of a run by one colour at each hit of a tracer, by default the model's own."""
    # Imports the libraries for meshes, which pictures by volume do not need.
    from dss.reconstruction.surface_rendering import model_tracer, render_surface

    tracer = tracer or model_tracer(run.model, run.sampler.shell)
    chunk = run.config.render.chunk
    return lambda camera: render_surface(run.model, tracer, camera, run.background, chunk)


def pictures(
    run: "PhotoRun", scene: Scene, render: Render | None = None
) -> Iterator[tuple[Photo, Picture]]:
    """What the model looks like from each photo's camera.

    The first one is rendered twice, so that no time counts a set-up.
    """
    render = render or volume_render(run)
    for number, photo in enumerate([scene.photos[0], *scene.photos]):
        picture = render(photo.camera)
        if number:
            yield photo, picture


def compare(picture: Picture, photo: Photo, background: Tensor) -> dict[str, float]:
    """PSNR and SSIM of a picture and its photo before the same background (3,), with what the
    picture cost."""
    truth = truth_of(photo, background)
    return {
        "psnr": psnr(picture.colour, truth),
        "ssim": ssim_rgb(picture.colour, truth),
        "seconds": picture.seconds,
        "samples": picture.samples,
        "queries": picture.queries,
        "background": picture.background,
    }


def truth_of(photo: Photo, background: Tensor) -> np.ndarray:
    """The photo before a background (3,), (height, width, 3) uint8."""
    pixels = photo.pixels()
    colour = pixels[..., :3] + (1 - pixels[..., 3:]) * background.cpu()
    return (colour.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
