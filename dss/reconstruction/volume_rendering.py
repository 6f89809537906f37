"""Volume rendering: what rays see of a model at the samples of a sampler."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dss.config import RenderSettings, SceneSettings
from dss.reconstruction.models.base import Model, Shaded, counted
from dss.reconstruction.ray_samples import RaySamples, ranks, total, weights
from dss.reconstruction.samplers.base import Sampler
from dss.rendering.cameras import Camera

BLOCK = 8  # samples of each ray between two looks at what is left of the light
BACKGROUNDS = {"white": 1.0, "black": 0.0, "random": 1.0}  # `random` is in training only


class Rendered(NamedTuple):
    """n rays, seen through m samples."""

    colour: Tensor  # (n, 3)
    opacity: Tensor  # (n,)
    normal: Tensor  # (n, 3), not normalised: weighted gradients of the distance
    shaded: Shaded
    points: Tensor  # (m, 3) where the model was evaluated


@dataclass(frozen=True)
class Picture:
    """What a camera sees."""

    colour: np.ndarray  # (height, width, 3) uint8
    normal: np.ndarray  # (height, width, 3) float32: unit vectors, 0 where nothing is seen
    opacity: np.ndarray  # (height, width) float32
    seconds: float
    samples: float  # evaluations of colour and gradient per ray
    background: float  # share of the rays that have no sample
    queries: float = 0.0  # of the distance per ray, those that find places for samples included

    def normal_map(self) -> np.ndarray:
        """The normals as colours (height, width, 3) uint8, faded to white where the picture is
        transparent."""
        share = self.opacity.clip(0, 1)[..., None]
        return (255 * (share * (self.normal + 1) / 2 + 1 - share)).round().astype(np.uint8)


def background_colour(scene: SceneSettings, device: torch.device) -> Tensor:
    """The colour (3,) behind the object in pictures of a scene."""
    return torch.full((3,), BACKGROUNDS[scene.background], device=device)


def render_rays(
    model: Model, samples: RaySamples, origins: Tensor, directions: Tensor, background: Tensor
) -> Rendered:
    """Colours of rays (n, 3) before a background (3,) or (n, 3); differentiable.

    A ray without samples is background, exactly.
    """
    ray, rays = samples.ray, len(origins)
    along = directions[ray]
    points = origins[ray] + samples.middle[:, None] * along
    shaded = model.shade(points, along, samples.length)
    weight = weights(shaded.alpha, ray, rays)
    opacity = total(weight, ray, rays)
    colour = total(weight[:, None] * shaded.colour, ray, rays) + (1 - opacity)[:, None] * background
    normal = total(weight[:, None] * shaded.gradient, ray, rays)
    return Rendered(colour, opacity, normal, shaded, points)


@torch.no_grad()
def render_stopped(
    model: Model, samples: RaySamples, origins: Tensor, directions: Tensor, background: Tensor,
    min_transmittance: float,
) -> Rendered:  # fmt: skip
    """`render_rays` for pictures: front to back in blocks. A ray is not followed further where less
    light than `min_transmittance` is left."""
    if min_transmittance == 0:
        return render_rays(model, samples, origins, directions, background)
    rank, count = ranks(samples.ray, len(origins))
    left = torch.ones(len(origins), device=origins.device)
    colour, normal = torch.zeros_like(origins), torch.zeros_like(origins)
    black = torch.zeros(3, device=origins.device)
    parts, points = [], []
    for block in range(0, int(count.max()) if len(count) else 0, BLOCK):
        lit = left[samples.ray] >= min_transmittance
        chosen = (rank >= block) & (rank < block + BLOCK) & lit
        if not chosen.any():
            break
        some = RaySamples(*(value[chosen] for value in samples))
        part = render_rays(model, some, origins, directions, black)
        colour += left[:, None] * part.colour
        normal += left[:, None] * part.normal
        left = left * (1 - part.opacity)
        parts.append(part.shaded)
        points.append(part.points)
    colour += left[:, None] * background
    if not parts:
        nothing = model.shade(origins[:0], origins[:0], left[:0])
        return Rendered(colour, 1 - left, normal, nothing, origins[:0])
    shaded = Shaded(*(torch.cat(part) for part in zip(*parts, strict=True)))
    return Rendered(colour, 1 - left, normal, shaded, torch.cat(points))


@torch.no_grad()
def render_picture(
    model: Model, sampler: Sampler, camera: Camera, background: Tensor, settings: RenderSettings
) -> Picture:
    """What a camera sees before a background (3,), or before the model's own. The time is from
    pixels to colours on the device."""
    start, count, empty = time.perf_counter(), 0, 0
    colours, normals, opacities = [], [], []
    with counted(model) as asked:
        for pixels in camera.centers().to(model.device).split(settings.chunk):
            rays = camera.rays(pixels)
            samples = sampler.sample(model, *rays)
            behind = model.behind(*rays, background)
            part = render_stopped(model, samples, *rays, behind, settings.min_transmittance)
            count += len(part.points)
            empty += int((torch.bincount(samples.ray, minlength=len(pixels)) == 0).sum())
            colours.append(part.colour)
            normals.append(part.normal)
            opacities.append(part.opacity)
        colour = (torch.cat(colours).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    seconds = time.perf_counter() - start
    shape, rays = (camera.height, camera.width), camera.height * camera.width
    normal = torch.nn.functional.normalize(torch.cat(normals), dim=1).view(*shape, 3)
    opacity = torch.cat(opacities).view(shape)
    return Picture(
        colour.view(*shape, 3).numpy(), normal.cpu().numpy(), opacity.cpu().numpy(), seconds,
        count / rays, empty / rays, asked.points / rays,
    )  # fmt: skip
