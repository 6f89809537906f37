"""Pictures of a finished model by its surface alone: rays are sphere traced to the zero set, inside
the sampler's shell where there is one, and each hit gets one colour.

The tracer may be that of the model, or of a small field that was fitted to the model's surface.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dss.fields.base import Field
from dss.geometry.similarity import Similarity
from dss.reconstruction.model_shell import ModelField
from dss.reconstruction.models.base import Model, counted
from dss.reconstruction.volume_rendering import Picture
from dss.rendering.cameras import Camera
from dss.rendering.tracing import trace
from dss.shell.dual_shell import DualShell


class Traced(NamedTuple):
    """What n rays of unit directions met."""

    t: Tensor  # (n,) float32 distance along the ray, inf on a miss
    queries: Tensor  # (n,) int64 of a field that is not the model


Tracer = Callable[[Tensor, Tensor], Traced]  # of origins and unit directions (n, 3)


def model_tracer(model: Model, shell: DualShell | None) -> Tracer:
    """Traces the model itself. Its queries are counted where they are made."""
    field = ModelField(model, shell)

    def tracer(origins: Tensor, directions: Tensor) -> Traced:
        hits = trace(field, origins, directions)
        return Traced(hits.t, torch.zeros_like(hits.steps))

    return tracer


def field_tracer(field: Field, similarity: Similarity) -> Tracer:
    """Traces a field in a frame of its own; `similarity` leads from it to unit coordinates."""

    def tracer(origins: Tensor, directions: Tensor) -> Traced:
        hits = trace(field, similarity.inverse(origins).contiguous(), directions)
        return Traced(hits.t * similarity.scale, hits.steps + hits.hit)  # and one for the normal

    return tracer


@torch.no_grad()
def render_surface(
    model: Model, tracer: Tracer, camera: Camera, background: Tensor, chunk: int
) -> Picture:
    """What a camera sees of the surface before a background (3,), or before the model's own;
    `chunk` rays at once. The time is from pixels to colours on the device."""
    start, hits, queries = time.perf_counter(), 0, 0
    colours, normals, opacities = [], [], []
    with counted(model) as asked:
        for pixels in camera.centers().to(model.device).split(chunk):
            origins, directions = camera.rays(pixels)
            traced = tracer(origins, directions)
            hit = traced.t.isfinite()
            along = directions[hit]
            points = origins[hit] + traced.t[hit, None] * along
            shaded = model.shade(points, along, torch.zeros_like(points[:, 0]))
            colour, normal = torch.zeros_like(origins), torch.zeros_like(origins)
            colour[hit], normal[hit] = shaded.colour, shaded.gradient
            misses = origins[~hit], directions[~hit]
            colour[~hit] = model.behind(*misses, background).expand_as(misses[0])
            hits += int(hit.sum())
            queries += int(traced.queries.sum())
            colours.append(colour)
            normals.append(normal)
            opacities.append(hit.float())
        colour = (torch.cat(colours).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    seconds = time.perf_counter() - start
    shape, rays = (camera.height, camera.width), camera.height * camera.width
    normal = torch.nn.functional.normalize(torch.cat(normals), dim=1).view(*shape, 3)
    opacity = torch.cat(opacities).view(shape)
    return Picture(
        colour.view(*shape, 3).numpy(), normal.cpu().numpy(), opacity.cpu().numpy(), seconds,
        hits / rays, 1 - hits / rays, (queries + asked.points) / rays,
    )  # fmt: skip
