"""Finished trainings against the photos of a split."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dss.evaluation.images import psnr, ssim_rgb
from dss.reconstruction.run import ViewsRun
from dss.reconstruction.scene import Photo, Scene, load_scene
from dss.reconstruction.volume_rendering import Picture, render_picture


def scene_of(run: ViewsRun, split: str, path: str | None = None, every: int = 1) -> Scene:
    """Every n-th photo of a split of the scene that the run learned from, in the run's frame; `path` where it has moved."""
    scene = load_scene(replace(run.config.scene, path=path or run.config.scene.path), split, run.frame)
    return replace(scene, photos=scene.photos[::every])


def pictures(run: ViewsRun, scene: Scene) -> Iterator[tuple[Photo, Picture]]:
    """What the model looks like from each photo's camera. The first frame is rendered twice, so that no time counts a set-up."""
    for number, photo in enumerate([scene.photos[0], *scene.photos]):
        picture = render_picture(run.model, run.sampler, photo.camera, run.background, run.config.render)
        if number:
            yield photo, picture


def compare(picture: Picture, photo: Photo, background: Tensor) -> dict[str, float]:
    """PSNR and SSIM of a picture and its photo before the same background, with what the picture cost."""
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
