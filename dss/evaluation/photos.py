"""Finished trainings against the photos of a split."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dss.evaluation.images import psnr, ssim_rgb
from dss.reconstruction.cameras import Frame
from dss.reconstruction.scene import Photo, Scene, load_scene
from dss.reconstruction.volume_rendering import Picture, render_picture

if TYPE_CHECKING:
    from dss.run import PhotoRun


def scene_of(run: "PhotoRun", split: str, path: str | None = None, every: int = 1) -> Scene:
    """Every n-th photo of a split of the scene that the run learned from, in the run's frame.

    `path` is where the scene lies now, if it has moved. Raises InputError as `load_scene`.
    """
    settings = run.config.scene.model_copy(update={"path": path} if path else {})
    frame = Frame(run.similarity.center, run.similarity.scale)
    scene = load_scene(settings, split, frame)
    return replace(scene, photos=scene.photos[::every])


def pictures(run: "PhotoRun", scene: Scene) -> Iterator[tuple[Photo, Picture]]:
    """What the model looks like from each photo's camera.

    The first one is rendered twice, so that no time counts a set-up.
    """
    for number, photo in enumerate([scene.photos[0], *scene.photos]):
        settings = run.config.render
        picture = render_picture(run.model, run.sampler, photo.camera, run.background, settings)
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
        "background": picture.background,
    }


def truth_of(photo: Photo, background: Tensor) -> np.ndarray:
    """The photo before a background (3,), (height, width, 3) uint8."""
    pixels = photo.pixels()
    colour = pixels[..., :3] + (1 - pixels[..., 3:]) * background.cpu()
    return (colour.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
