"""The sphere cloud (Dogaru et al. 2023): trainable spheres that come to wrap the surface while it
forms.

All have one radius, which shrinks, but never below the band in which the model is neither clear nor
opaque. Their centres are drawn to the surface and pushed from each other; those that strayed are
set beside others (docs/method.md, section 11).
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.adam import adam

from dss import ops
from dss.config import Count, CountOrZero, NonNegative, Positive
from dss.errors import InputError
from dss.ops import reference
from dss.reconstruction.models.base import Model, UpsamplingSettings
from dss.reconstruction.ray_samples import RaySamples, between
from dss.reconstruction.samplers.base import Sampler
from dss.rendering.cameras import Camera
from dss.shell.dual_shell import DualShell

NEIGHBOURS = 10  # nearest other centres that may push a centre
REACH = 2.0  # radii within which they push
STEEP = 1.1  # slope that a distance may have: above this many radii, a centre sees no surface
MAX_PAIRS = 1 << 24  # distances held at once: bounds memory


class SphereCloudSettings(UpsamplingSettings):
    method: Literal["sphere_cloud"] = "sphere_cloud"
    spheres: Count = 512
    start_step: CountOrZero = 60_000  # training step at which the spheres start to move
    radius_initial: Positive = 0.4  # of all spheres at step 0, in unit coordinates
    radius_final: Positive = 0.04  # below which the radius never shrinks
    shrink_rate: NonNegative = 2.5e-5  # the radius falls as exp(-shrink_rate * step)
    relocate_every: Count = 5000  # steps between searches for spheres that left the unit ball
    resample_every: Count = 50_000  # steps between searches for spheres without surface
    repulsion: NonNegative = 1e-4  # weight of the repulsion, where the attraction's weight is 1
    sphere_lr: Positive = 1e-4  # learning rate of the centres, by Adam
    eps: Annotated[Positive, Field(le=0.5)] = 1e-3  # opacity that may be lost outside the spheres

    def least_bytes(self, rays: int) -> int:
        return super().least_bytes(rays) + 44 * self.spheres  # centres, two moments, two radii


class SphereCloud(Sampler):
    """Even samples in the merged intervals of the spheres, then the model's up-sampling in them.

    From `start_step` on the centres move, by an Adam of their own, and rays aim at the spheres.
    """

    Settings = SphereCloudSettings
    settings: SphereCloudSettings
    shell: DualShell  # the spheres, as outer ones; without inner ones, rays are never cut

    def __init__(self, settings: SphereCloudSettings):
        super().__init__(settings)
        centers = 0.99 * _in_ball(settings.spheres, None, torch.device("cpu"))
        radii = torch.full((len(centers),), settings.radius_initial)
        self.shell = DualShell(centers, torch.zeros_like(radii), radii)
        self.register_buffer("moves", torch.zeros(()))  # Adam's number of steps
        self.register_buffer("first", torch.zeros_like(centers))  # Adam's first moments
        self.register_buffer("second", torch.zeros_like(centers))  # Adam's second moments
        self.aims = False

    @property
    def radius(self) -> float:
        """Of every sphere, in unit coordinates."""
        return self.shell.outer_radii[0].item()

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Shrink and, after the first steps, move and resample.

        Raises InputError where no sphere is left at the surface.
        """
        settings = self.settings
        shrunk = settings.radius_initial * math.exp(-settings.shrink_rate * step)
        radius = max(shrunk, settings.radius_final, model.band(settings.eps))
        self.shell.outer_radii.fill_(radius)
        self.aims = step >= settings.start_step
        if self.aims:
            self.move(model)
            empty = step % settings.resample_every == 0
            if empty or step % settings.relocate_every == 0:
                self.resample(model, empty, generator)

    def move(self, model: Model) -> None:
        """One step of the centres: towards the surface, away from each other."""
        settings = self.settings
        with torch.enable_grad():
            centers = self.shell.centers.clone().requires_grad_()
            attraction = model.raw_sdf(centers).square().mean()
            loss = attraction + settings.repulsion * repulsion(centers, self.radius)
            (gradient,) = torch.autograd.grad(loss, centers)
        if not gradient.isfinite().all():
            raise InputError(
                "the sphere cloud is torn apart: the model's distance is not finite at its "
                "centres; lower train.lr"
            )
        adam(
            [self.shell.centers], [gradient], [self.first], [self.second], [], [self.moves],
            amsgrad=False, beta1=0.9, beta2=0.999, lr=settings.sphere_lr, weight_decay=0, eps=1e-8,
            maximize=False,
        )  # fmt: skip

    def resample(self, model: Model, empty: bool, generator: torch.Generator) -> None:
        """Set the spheres that left the unit ball beside random others, and with `empty` those
        without surface, too. Their moments become 0.

        Raises InputError where no sphere is left at the surface.
        """
        centers = self.shell.centers
        good = centers.norm(dim=1) <= 1
        if empty:
            good &= model.sdf(centers).abs() <= STEEP * self.radius
        if not good.any():
            raise InputError(
                f"the sphere cloud has lost all its {len(good)} spheres: none is within "
                f"{self.radius:.3g} of the surface; raise sampler.radius_final, or lower train.lr"
            )
        kept, moved = good.nonzero()[:, 0], (~good).nonzero()[:, 0]
        kept = kept[torch.randperm(len(kept), generator=generator, device=kept.device)]
        beside = kept[torch.arange(len(moved), device=kept.device) % len(kept)]
        noise = torch.randn(len(moved), 3, generator=generator, device=kept.device)
        centers[moved] = centers[beside] + self.settings.radius_final / 2 * noise
        self.first[moved] = self.second[moved] = 0

    def aim(self, camera: Camera, count: int, generator: torch.Generator) -> Tensor | None:
        """Random points of the spheres, as many of each, as the camera sees them.

        None where it sees none, and before the spheres move.
        """
        if not self.aims:
            return None
        centers = self.shell.centers
        sphere = torch.arange(max(len(centers), count), device=centers.device) % len(centers)
        offset = self.radius * _in_ball(len(sphere), generator, centers.device)
        pixels, depth = camera.project(centers[sphere] + offset)
        pixels = pixels[camera.sees(pixels, depth)]
        if not len(pixels):
            return None
        order = torch.randperm(len(pixels), generator=generator, device=pixels.device)
        return pixels[order[:count]]

    def sample(
        self, model: Model, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RaySamples:  # fmt: skip
        intervals = self.intervals(origins, directions, moving=generator is not None)
        shift = None
        if generator is not None:
            count, device = len(intervals.start), origins.device
            shift = torch.rand(count, generator=generator, device=device) - 0.5
        ray, t, interval = spread(intervals, self.settings.coarse, shift)
        rays = origins[ray], directions[ray]
        t, interval = model.refine(*rays, t, interval, self.settings, generator)
        samples = between(t, interval, ray, 0)
        return RaySamples(*(value[samples.length > 0] for value in samples))

    def intervals(self, origins: Tensor, directions: Tensor, moving: bool = False) -> ops.Intervals:
        """The disjoint intervals of rays (n, 3) that lie in spheres, within 1 of the point that is
        nearest to the centre. `moving`: the spheres are about to change."""
        shell = self.shell
        if moving:
            # The operator would need a tree over the spheres, which takes longer to build than it
            # saves while they move at every step. The reference has no use for one.
            radii = shell.inner_radii[:, None], shell.outer_radii[:, None]
            spheres, rule = torch.cat([shell.centers, *radii], 1), ops.RULES.index("every")
            found = reference.shell_intervals(spheres, None, origins, directions, rule)
            found = ops.Intervals(*found)
        else:
            found = ops.shell_intervals(shell.packed, origins, directions)
        middle = -(origins * directions).sum(1)[found.ray]
        start, end = found.start.maximum(middle - 1), found.end.minimum(middle + 1)
        kept = end > start
        counts = torch.bincount(found.ray[kept], minlength=len(origins))
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        parts = start[kept], end[kept], found.sphere[kept]
        return ops.Intervals(offsets, *parts, found.stop).merged()


def repulsion(centers: Tensor, radius: float) -> Tensor:
    """The mean of radius / distance over centres (n, 3) and those of their nearest other centres
    that are nearer than REACH radii; 0 where there are none.

    Centres at the same place do not push each other.
    """
    with torch.no_grad():
        count = min(NEIGHBOURS + 1, len(centers))  # each centre is its own nearest
        exact = "donot_use_mm_for_euclid_dist"
        nearest = [
            torch.cdist(part, centers, compute_mode=exact).topk(count, largest=False, sorted=False)
            for part in centers.split(max(1, MAX_PAIRS // len(centers)))
        ]
        distance, other = (torch.cat(part) for part in zip(*nearest, strict=True))
        near = (distance > 0) & (distance < REACH * radius)
        one, rank = near.nonzero(as_tuple=True)
    gap = (centers[one] - centers[other[one, rank]]).norm(dim=1)
    return (radius / gap).sum() / max(len(gap), 1)


def spread(
    intervals: ops.Intervals, count: int, shift: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`count` times on each of the r rays that have intervals, k in all: the ray (r,) int64, t
    (r, count), and which of the ray's intervals each t lies in, (r, count) int64.

    The times are both ends of each interval, and evenly between them as many as its length
    deserves; `shift` (k,) moves those in between by a share of their spacing. Where a ray has more
    than count / 2 intervals, the last ones are joined.
    """
    ray, start, end = intervals.ray, intervals.start, intervals.end
    rays, place, number = torch.unique_consecutive(ray, return_inverse=True, return_counts=True)
    last = number.cumsum(0) - 1
    rank = torch.arange(len(ray), device=ray.device) - (last + 1 - number)[place]
    end = torch.where(rank == count // 2 - 1, end[last[place]], end)
    kept = rank < count // 2
    place, rank, start, length = place[kept], rank[kept], start[kept], (end - start)[kept]
    spare = count - 2 * number.clamp(max=count // 2)
    lengths = torch.zeros_like(rays, dtype=length.dtype).index_add(0, place, length)
    more = (spare[place] * (length / lengths[place])).long()
    more += rank < (spare - torch.zeros_like(rays).index_add(0, place, more))[place]
    samples = more + 2
    interval = torch.arange(len(place), device=ray.device).repeat_interleave(samples)
    index = torch.arange(len(interval), device=ray.device)
    index = index - (samples.cumsum(0) - samples)[interval]
    inner = (index > 0) & (index <= more[interval])
    position = index + (0 if shift is None else shift[kept][interval] * inner)
    t = start[interval] + length[interval] * (position / (more[interval] + 1))
    return rays, t.view(len(rays), count), rank[interval].view(len(rays), count)


def _in_ball(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform points (count, 3) in the unit ball."""
    direction = torch.randn(count, 3, generator=generator, device=device)
    direction = torch.nn.functional.normalize(direction, dim=1)
    return direction * torch.rand(count, 1, generator=generator, device=device) ** (1 / 3)
