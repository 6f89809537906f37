"""NeuralWarp (Darmon et al. 2022): VolSDF, then fine-tuned so that patches of one photo agree with
those of others, warped over the surface.

The plane through a sample, with the normal of the distance there, maps a patch of the reference
photo into a source photo: the homography of the plane. The colours that a ray's samples find in the
source, weighted as in volume rendering, make the warped patch. What is ours is listed in
docs/method.md, section 12.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from dss.config import Count, CountOrZero, NonNegative
from dss.errors import InputError
from dss.reconstruction.models.base import Step
from dss.reconstruction.models.volsdf import VolSDF, VolSDFSettings, density
from dss.reconstruction.ray_samples import RaySamples, ranks, total, weights
from dss.reconstruction.views import Views, bilinear

MIN_ANGLE, MAX_ANGLE = 4.0, 60.0  # degrees between cameras that may help each other
OPAQUE = 0.5  # opacity above which a ray has a surface
LIGHT = 0.02  # share of a ray's weight below which a sample may fall out of the source photo
GRAZING = 0.1  # cosine between surface and view below which a patch is not warped
LIFT = 4.0  # widths of the density by which a point is lifted off its own surface
VISIBLE = 0.5  # share of the light that must reach a source camera
C1, C2 = 0.01**2, 0.03**2  # of SSIM


class NeuralWarpSettings(VolSDFSettings):
    method: Literal["neuralwarp"] = "neuralwarp"
    warp_start: CountOrZero = 100_000  # training step at which the second stage begins
    warp_weight: NonNegative = 1.0  # of the warped patches' loss
    patch: Annotated[Count, Field(le=101)] = 11  # pixels per side of a patch; odd
    sources: Count = 19  # photos that each one is compared with
    warp_samples: Count = 16  # samples of a ray that are warped: those with most weight


class NeuralWarp(VolSDF):
    """VolSDF with one more term in its loss."""

    Settings = NeuralWarpSettings

    def __init__(self, settings: NeuralWarpSettings):
        if settings.patch % 2 == 0:
            raise InputError(
                f"model.patch={settings.patch}: a patch has a pixel in its middle; choose an odd "
                "number"
            )
        super().__init__(settings)
        self.settings = settings

    def extra_losses(self, step: Step) -> dict[str, Tensor]:
        settings = self.settings
        if step.number < settings.warp_start or not len(step.samples.ray):
            return {}
        seen = heaviest(step, settings.warp_samples)
        sources = source_views(step.views.cameras.eyes, settings.sources)
        if not len(seen.ray) or not sources.shape[1]:
            return {}
        sources = sources[step.photo[seen.ray]]
        photo, places = step.photo[seen.ray], step.places[seen.ray]
        patches = warp(step.views, photo, places, settings.patch, seen, sources, step.background)
        counts = patches.valid & visible(self, step.sampler, seen, step.views, sources)
        error = (1 - ssim(patches.reference[:, None], patches.warped)) / 2
        loss = (error * counts).sum() / counts.sum().clamp(min=1)
        return {"warp": settings.warp_weight * loss}


class Heaviest(NamedTuple):
    """The k samples with most weight of the r rays that meet a surface."""

    ray: Tensor  # (r,) int64: of the step's rays
    weight: Tensor  # (r, k), summing to 1
    points: Tensor  # (r, k, 3)
    normals: Tensor  # (r, k, 3) unit vectors

    @property
    def surface(self) -> tuple[Tensor, Tensor]:
        """The mean point (r, 3) and the mean unit normal (r, 3) of each ray, without gradient."""
        weight = self.weight.detach()[..., None]
        normal = normalize((weight * self.normals.detach()).sum(1), dim=1)
        return (weight * self.points).sum(1), normal


class Patches(NamedTuple):
    """Patches of q pixels of r rays, in the reference photo and warped from s sources."""

    reference: Tensor  # (r, q, 3)
    warped: Tensor  # (r, s, q, 3)
    valid: Tensor  # (r, s) bool: the patch lies in both photos, which both look at its front


def heaviest(step: Step, count: int) -> Heaviest:
    """Of the rays whose opacity exceeds OPAQUE, up to `count` samples each."""
    ray, rays = step.samples.ray, len(step.photo)
    weight = weights(step.shaded.alpha, ray, rays)
    rank, number = ranks(ray, rays)
    padded = weight.new_zeros(rays, int(number.max())).index_put((ray, rank), weight)
    chosen = (padded.detach().sum(1) > OPAQUE).nonzero()[:, 0]
    padded = padded[chosen]
    top = padded.detach().topk(min(count, padded.shape[1]), sorted=False).indices
    # Rays with fewer samples repeat some of others, with no weight.
    index = ((number.cumsum(0) - number)[chosen, None] + top).clamp(max=len(ray) - 1)
    share = padded.gather(1, top)
    normals = normalize(step.shaded.gradient[index], dim=2)
    share = share / share.sum(1, keepdim=True).clamp(min=1e-6)
    return Heaviest(chosen, share, step.points[index], normals)


def source_views(eyes: Tensor, count: int) -> Tensor:
    """For each of k cameras, the `count` others (k, s) that are nearest in the angle about the
    centre, between MIN_ANGLE and MAX_ANGLE if there are enough of them; s < count where there are
    too few cameras."""
    direction = normalize(eyes, dim=1)
    angle = torch.rad2deg((direction @ direction.T).clamp(-1, 1).acos())
    odd = (angle < MIN_ANGLE) | (angle > MAX_ANGLE)
    order = angle + 1000 * odd
    order.fill_diagonal_(torch.inf)
    return order.topk(min(count, len(eyes) - 1), largest=False).indices


def warp(
    views: Views, photo: Tensor, places: Tensor, side: int, seen: Heaviest, sources: Tensor,
    background: Tensor,
) -> Patches:  # fmt: skip
    """Patches of side x side pixels about the `places` (r, 2) of each ray's `photo` (r,), and what
    the `sources` (r, s) show of them if the surface is what `seen` says."""
    axis = torch.arange(side, device=places.device) - side // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    around = places[:, None] + torch.stack([x, y], -1).reshape(-1, 2)  # (r, q, 2)
    pixels = side * side
    index = photo.repeat_interleave(pixels)
    reference = _before(bilinear(views.images, index, around.reshape(-1, 2)), background)
    origins, directions = views.cameras.rays(index, around.reshape(-1, 2))
    eye, directions = origins.view(-1, pixels, 3)[:, 0], directions.view(-1, pixels, 3)

    # Where the patch's rays meet the plane through each sample
    ahead = (seen.normals * (seen.points - eye[:, None])).sum(2)  # (r, k)
    cosine = torch.einsum("rkc,rqc->rkq", seen.normals, directions)
    cosine = torch.where(cosine.abs() < GRAZING / 10, -GRAZING / 10, cosine)
    way = ahead[..., None] / cosine
    points = eye[:, None, None] + way[..., None] * directions[:, None]  # (r, k, q, 3)
    matrix = views.projections[sources]  # (r, s, 3, 4)
    image = torch.einsum("rsij,rkqj->rskqi", matrix[..., :3], points)
    image = image + matrix[:, :, None, None, :, 3]
    depth = image[..., 2]
    found = image[..., :2] / torch.where(depth.abs() < 1e-6, 1e-6, depth)[..., None]
    found = torch.where(found.isfinite(), found, 0.0).clamp(-1e4, 1e4)
    inside = (depth > 0) & _within(found, views.size)

    index = sources[:, :, None, None].expand(inside.shape).reshape(-1)
    colour = _before(bilinear(views.images, index, found.reshape(-1, 2)), background)
    colour = colour.view(*inside.shape, 3)
    warped = (seen.weight[:, None, :, None, None] * colour).sum(2)

    light = seen.weight.detach() < LIGHT
    valid = (inside.all(3) | light[:, None]).all(2) & _within(around, views.size).all(1)[:, None]
    surface, normal = seen.surface
    for camera in (eye[:, None], views.cameras.eyes[sources]):
        toward = normalize(camera - surface[:, None], dim=2)
        valid = valid & ((toward * normal[:, None]).sum(2) > GRAZING)
    return Patches(reference.view(-1, pixels, 3), warped, valid)


@torch.no_grad()
def visible(
    model: VolSDF, sampler: nn.Module, seen: Heaviest, views: Views, sources: Tensor
) -> Tensor:
    """(r, s) bool: whether the light of each ray's surface reaches the source cameras. The way to
    them is sampled as any ray is, inside spheres where there are some."""
    surface, normal = seen.surface
    start = surface + LIFT * model.width * normal
    way = views.cameras.eyes[sources] - start[:, None]
    distance = way.norm(dim=2)
    rays = start[:, None].expand_as(way).reshape(-1, 3), (way / distance[..., None]).view(-1, 3)
    samples: RaySamples = sampler.sample(model, *rays)
    near = samples.start.clamp(min=0)
    length = (samples.end.minimum(distance.view(-1)[samples.ray]) - near).clamp(min=0)
    points = rays[0][samples.ray] + (near + length / 2)[:, None] * rays[1][samples.ray]
    depth = density(model.sdf(points), model.width) * length if len(points) else length
    left = (-total(depth, samples.ray, distance.numel())).exp()
    return left.view(distance.shape) > VISIBLE


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (...) of patches (..., q, 3): the whole patch is the window; the mean
    over the channels."""
    mean, other = first.mean(-2), second.mean(-2)
    variance, other_variance = first.var(-2, correction=0), second.var(-2, correction=0)
    both = ((first - mean[..., None, :]) * (second - other[..., None, :])).mean(-2)
    above = (2 * mean * other + C1) * (2 * both + C2)
    below = (mean.square() + other.square() + C1) * (variance + other_variance + C2)
    return (above / below).mean(-1)


def _before(pixels: Tensor, background: Tensor) -> Tensor:
    """Colours (n, 3) of pixels (n, 4) before a background (3,)."""
    return pixels[:, :3] + (1 - pixels[:, 3:]) * background


def _within(places: Tensor, size: Tensor) -> Tensor:
    """(...) bool: which pixel coordinates (..., 2) lie between the outermost pixel centres."""
    return ((places >= 0.5) & (places <= size - 0.5)).all(-1)
