"""What guided samplers share: a part of space is thought to hold the surface. Rays aim at it, and
are sampled in it alone; either can be switched off, to see what it is good for."""

from abc import abstractmethod

import torch
from torch import Tensor

from dss import ops
from dss.config import Settings
from dss.reconstruction.models.base import Model, UpsamplingSettings
from dss.reconstruction.ray_samples import RaySamples, between
from dss.reconstruction.samplers.base import Sampler
from dss.reconstruction.samplers.uniform import Uniform
from dss.rendering.cameras import Camera


class GuidedSettings(UpsamplingSettings):
    guide_rays: bool = True  # aim at the guide's part of space; else at pixels, as `uniform`
    guide_points: bool = True  # sample inside it; else along the whole ray, as `uniform`


class Guided(Sampler):
    """Even samples in the merged intervals of the guide, then the model's up-sampling in them.

    Rays aim at it once `aims` is true.
    """

    settings: GuidedSettings

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.unguided = Uniform(settings)
        self.aims = False

    @abstractmethod
    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points (k, 3) of the guide, at least `count`, as many of each of its parts."""

    @abstractmethod
    def intervals(self, origins: Tensor, directions: Tensor, moving: bool = False) -> ops.Intervals:
        """The disjoint intervals of rays (n, 3) that lie in the guide, within 1 of the point that
        is nearest to the centre. `moving`: the guide is about to change."""

    def aim(self, camera: Camera, count: int, generator: torch.Generator) -> Tensor | None:
        """Random points of the guide, as the camera sees them.

        None where it sees none, and before the guide has found the surface.
        """
        if not (self.aims and self.settings.guide_rays):
            return None
        pixels, depth = camera.project(self.points(count, generator))
        pixels = pixels[camera.sees(pixels, depth)]
        if not len(pixels):
            return None
        order = torch.randperm(len(pixels), generator=generator, device=pixels.device)
        return pixels[order[:count]]

    def sample(
        self, model: Model, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RaySamples:  # fmt: skip
        if not self.settings.guide_points:
            return self.unguided.sample(model, origins, directions, generator)
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
