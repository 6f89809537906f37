"""The sphere cloud (Dogaru et al. 2023): trainable spheres that come to wrap the surface while it forms.

All have one radius, which shrinks, but never below the band in which the model is neither clear nor opaque. Their centres are
drawn to the surface and pushed from each other; those that strayed are set beside others (sphere_guided_neus.md, sections 1, 2).
"""

import math

import torch
from torch import Tensor
from torch.optim.adam import adam

from dss import ops
from dss.errors import InputError
from dss.ops import reference
from dss.reconstruction.cameras import Pinhole
from dss.reconstruction.config import SamplerConfig
from dss.reconstruction.intervals import Sections, between, union
from dss.reconstruction.models.base import Model
from dss.reconstruction.samplers.base import Sampler
from dss.shell.dual_shell import DualShell

NEIGHBOURS = 10  # that may push a centre
REACH = 2.0  # radii within which they do
STEEP = 1.1  # slope that a distance may have: a sphere is empty where |f| at its centre is beyond its radius times that
PAIRS = 1 << 24  # distances held at once: bounds memory


class SphereCloud(Sampler):
    """The union of the spheres' intervals, evenly sampled, then the model's up-sampling in them.

    After `after` steps the centres move, by an Adam of their own, and rays aim at the spheres.
    """

    shell: DualShell  # the spheres, as outer ones; without inner ones, rays are never cut

    def __init__(self, config: SamplerConfig):
        super().__init__(config)
        centers = 0.99 * _in_ball(config.spheres, None, torch.device("cpu"))
        self.shell = DualShell(centers, torch.zeros(len(centers)), torch.full((len(centers),), config.radius_first))
        self.register_buffer("moves", torch.zeros(()))  # steps and moments of Adam
        self.register_buffer("first", torch.zeros_like(centers))
        self.register_buffer("second", torch.zeros_like(centers))
        self.aims = False

    @property
    def radius(self) -> float:
        return self.shell.outer_radii[0].item()

    def prepare(self, model: Model, step: int, generator: torch.Generator) -> None:
        """Shrink and, after the first steps, move and resample. Raises InputError where no sphere is left at the surface."""
        config = self.config
        scheduled = max(config.radius_first * math.exp(-config.shrink * step), config.radius_last)
        self.shell.outer_radii.fill_(max(scheduled, model.band(config.eps)))
        self.aims = step >= config.after
        if self.aims:
            self.move(model)
            empty = step % config.resample == 0
            if empty or step % config.wander == 0:
                self.resample(model, empty, generator)

    def move(self, model: Model) -> None:
        """One step of the centres: towards the surface, away from each other."""
        with torch.enable_grad():
            centers = self.shell.centers.clone().requires_grad_()
            loss = model.raw_sdf(centers).square().mean() + self.config.repulsion * repulsion(centers, self.radius)
            (gradient,) = torch.autograd.grad(loss, centers)
        if not gradient.isfinite().all():
            raise InputError("the sphere cloud is torn apart: the model's distance is not finite at its centres; lower train.rate")
        adam(
            [self.shell.centers], [gradient], [self.first], [self.second], [], [self.moves],
            amsgrad=False, beta1=0.9, beta2=0.999, lr=self.config.sphere_rate, weight_decay=0, eps=1e-8, maximize=False,
        )  # fmt: skip

    def resample(self, model: Model, empty: bool, generator: torch.Generator) -> None:
        """Set spheres that wandered out of the unit ball, and `empty` ones, beside random others; their moments become 0."""
        centers = self.shell.centers
        good = centers.norm(dim=1) <= 1
        if empty:
            good &= model.sdf(centers).abs() <= STEEP * self.radius
        if not good.any():
            raise InputError(
                f"the sphere cloud has lost all its {len(good)} spheres: none is within {self.radius:.3g} of the surface; "
                "raise sampler.radius_last, or lower train.rate"
            )
        kept, moved = good.nonzero()[:, 0], (~good).nonzero()[:, 0]
        kept = kept[torch.randperm(len(kept), generator=generator, device=kept.device)]
        beside = kept[torch.arange(len(moved), device=kept.device) % len(kept)]
        noise = torch.randn(len(moved), 3, generator=generator, device=kept.device)
        centers[moved] = centers[beside] + self.config.radius_last / 2 * noise
        self.first[moved] = self.second[moved] = 0

    def aim(self, camera: Pinhole, count: int, generator: torch.Generator) -> Tensor | None:
        """Random points of the spheres, as many of each, as the camera sees them; None where it sees none."""
        if not self.aims:
            return None
        centers = self.shell.centers
        sphere = torch.arange(max(len(centers), count), device=centers.device) % len(centers)
        pixels, depth = camera.project(centers[sphere] + self.radius * _in_ball(len(sphere), generator, centers.device))
        pixels = pixels[camera.sees(pixels, depth)]
        return pixels[torch.randperm(len(pixels), generator=generator, device=pixels.device)[:count]] if len(pixels) else None

    def sections(self, model: Model, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None) -> Sections:
        ray, start, end = self.intervals(origins, directions, moving=generator is not None)
        shift = None if generator is None else torch.rand(len(ray), generator=generator, device=ray.device) - 0.5
        ray, t, label = spread(ray, start, end, self.config.coarse, shift)
        t, label = model.refine(origins[ray], directions[ray], t, label, self.config, generator)
        sections = between(t, label, ray, 0)
        return Sections(*(value[sections.length > 0] for value in sections))

    def intervals(self, origins: Tensor, directions: Tensor, moving: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Ray, start and end (k,) of the disjoint stretches of rays (n, 3) that lie in spheres, within 1 of the point nearest to
        the centre. While the spheres move, a tree over them is not worth its while."""
        shell = self.shell
        if moving:
            spheres = torch.cat([shell.centers, shell.inner_radii[:, None], shell.outer_radii[:, None]], 1)
            found = ops.Intervals(*reference.shell_intervals(spheres, None, origins, directions, ops.RULES.index("every")))
        else:
            found = ops.shell_intervals(shell.packed, origins, directions)
        ray = found.ray
        middle = -(origins * directions).sum(1)[ray]
        start, end = found.start.maximum(middle - 1), found.end.minimum(middle + 1)
        kept = end > start
        return union(ray[kept], start[kept], end[kept])


def repulsion(centers: Tensor, radius: float) -> Tensor:
    """The mean of radius / distance over centres (n, 3) and those of their nearest ones that are nearer than twice the radius;
    0 where there are none. Centres at the same place do not see each other."""
    with torch.no_grad():
        count, parts = min(NEIGHBOURS + 1, len(centers)), centers.split(max(1, PAIRS // len(centers)))  # each is its own nearest
        exact = "donot_use_mm_for_euclid_dist"
        nearest = [torch.cdist(part, centers, compute_mode=exact).topk(count, largest=False, sorted=False) for part in parts]
        distance, other = (torch.cat(part) for part in zip(*nearest, strict=True))
        one, rank = ((distance > 0) & (distance < REACH * radius)).nonzero(as_tuple=True)
    gap = (centers[one] - centers[other[one, rank]]).norm(dim=1)
    return (radius / gap).sum() / max(len(gap), 1)


def spread(ray: Tensor, start: Tensor, end: Tensor, count: int, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`count` samples on each of the r rays that have intervals (k,): the ray (r,), t (r, count), and which of the ray's
    intervals each lies in, (r, count).

    Both ends of each interval, and evenly between them as many as its length deserves; `shift` (k,) moves those in between by
    a share of their spacing. Where a ray has more than count / 2 intervals, the last ones are joined.
    """
    rays, place, number = torch.unique_consecutive(ray, return_inverse=True, return_counts=True)
    last = number.cumsum(0) - 1
    rank = torch.arange(len(ray), device=ray.device) - (last + 1 - number)[place]
    end = torch.where(rank == count // 2 - 1, end[last[place]], end)
    kept = rank < count // 2
    place, rank, start, length = place[kept], rank[kept], start[kept], (end - start)[kept]
    spare = count - 2 * number.clamp(max=count // 2)
    share = length / torch.zeros_like(rays, dtype=length.dtype).index_add(0, place, length)[place]
    more = (spare[place] * share).long()
    more += rank < (spare - torch.zeros_like(rays).index_add(0, place, more))[place]
    samples = more + 2
    interval = torch.arange(len(place), device=ray.device).repeat_interleave(samples)
    index = torch.arange(len(interval), device=ray.device) - (samples.cumsum(0) - samples)[interval]
    inner = (index > 0) & (index <= more[interval])
    position = index + (0 if shift is None else shift[kept][interval] * inner)
    t = start[interval] + length[interval] * (position / (more[interval] + 1))
    return rays, t.view(len(rays), count), rank[interval].view(len(rays), count)


def _in_ball(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform points (count, 3) in the unit ball."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, device=device), dim=1)
    return direction * torch.rand(count, 1, generator=generator, device=device) ** (1 / 3)
