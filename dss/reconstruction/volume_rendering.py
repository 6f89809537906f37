"""Volume rendering: what rays see of a model in the sections of a sampler."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dss.reconstruction.config import RenderConfig
from dss.reconstruction.intervals import Sections, ranks, total, weights
from dss.reconstruction.models.base import Model, Shaded
from dss.reconstruction.samplers.base import Sampler
from dss.rendering.cameras import Camera

BLOCK = 8  # sections of each ray between two looks at what is left of the light


class Rendered(NamedTuple):
    """n rays, seen through m sections."""

    colour: Tensor  # (n, 3)
    opacity: Tensor  # (n,)
    normal: Tensor  # (n, 3), not normalised: weighted gradients of the distance
    shaded: Shaded
    points: Tensor  # (m, 3) where the model was evaluated


@dataclass(frozen=True)
class Picture:
    """What a camera sees."""

    colour: np.ndarray  # (height, width, 3) uint8
    normal: np.ndarray  # (height, width, 3) float32 unit vectors in unit coordinates; 0 where nothing is seen
    opacity: np.ndarray  # (height, width) float32
    seconds: float
    samples: float  # evaluations of colour and gradient per ray
    background: float  # share of the rays that have no section


def render_rays(model: Model, sections: Sections, origins: Tensor, directions: Tensor, background: Tensor) -> Rendered:
    """Colours of rays (n, 3) before a background (3,) or (n, 3); differentiable. A ray without sections is background, exactly."""
    points, directions = origins[sections.ray] + sections.middle[:, None] * directions[sections.ray], directions[sections.ray]
    shaded, rays = model.shade(points, directions, sections.length), len(origins)
    weight = weights(shaded.alpha, sections.ray, rays)
    opacity = total(weight, sections.ray, rays)
    colour = total(weight[:, None] * shaded.colour, sections.ray, rays) + (1 - opacity)[:, None] * background
    return Rendered(colour, opacity, total(weight[:, None] * shaded.gradient, sections.ray, rays), shaded, points)


@torch.no_grad()
def render_stopped(model: Model, sections: Sections, origins: Tensor, directions: Tensor, background: Tensor, stop: float) -> Rendered:
    """`render_rays` for pictures: front to back in blocks, and rays with less light left than `stop` are not followed."""
    if stop == 0:
        return render_rays(model, sections, origins, directions, background)
    rank, count = ranks(sections.ray, len(origins))
    left = torch.ones(len(origins), device=origins.device)
    colour, normal = torch.zeros_like(origins), torch.zeros_like(origins)
    parts, points = [], []
    for block in range(0, int(count.max()) if len(count) else 0, BLOCK):
        chosen = (rank >= block) & (rank < block + BLOCK) & (left[sections.ray] >= stop)
        if not chosen.any():
            break
        part = render_rays(model, Sections(*(value[chosen] for value in sections)), origins, directions, torch.zeros(3, device=left.device))
        colour += left[:, None] * part.colour
        normal += left[:, None] * part.normal
        left = left * (1 - part.opacity)
        parts.append(part.shaded)
        points.append(part.points)
    shaded = Shaded(*(torch.cat(part) for part in zip(*parts, strict=True))) if parts else model.shade(origins[:0], origins[:0], left[:0])
    return Rendered(colour + left[:, None] * background, 1 - left, normal, shaded, torch.cat(points) if points else origins[:0])


@torch.no_grad()
def render_picture(model: Model, sampler: Sampler, camera: Camera, background: Tensor, config: RenderConfig) -> Picture:
    """What a camera sees before a background (3,); the time is from pixels to colours on the device."""
    start, count, empty = time.perf_counter(), 0, 0
    colours, normals, opacities = [], [], []
    for pixels in camera.centers().to(model.device).split(config.chunk):
        origins, directions = camera.rays(pixels)
        sections = sampler.sections(model, origins, directions)
        part = render_stopped(model, sections, origins, directions, background, config.stop)
        count += len(part.points)
        empty += int((torch.bincount(sections.ray, minlength=len(pixels)) == 0).sum())
        colours.append(part.colour)
        normals.append(part.normal)
        opacities.append(part.opacity)
    colour = (torch.cat(colours).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    seconds, shape, rays = time.perf_counter() - start, (camera.height, camera.width), camera.width * camera.height
    normal = torch.nn.functional.normalize(torch.cat(normals), dim=1).view(*shape, 3).cpu().numpy()
    return Picture(
        colour.view(*shape, 3).numpy(), normal, torch.cat(opacities).view(shape).cpu().numpy(), seconds, count / rays, empty / rays
    )
