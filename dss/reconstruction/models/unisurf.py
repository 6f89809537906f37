"""UNISURF (Oechsle et al. 2021): the opacity of a sample is the occupancy there, a sigmoid of the network's output.

Rays look for the surface first and are sampled about it, in an interval that shrinks during training. The output is no distance:
divided by its mean slope at the surface it is one there to first order, which is what samplers are told.
"""

import math

import torch
from torch import Tensor

from dss.reconstruction.config import ModelConfig, SamplerConfig
from dss.reconstruction.models.base import Model, Shaded, differentiated
from dss.reconstruction.networks import ColourNetwork, DistanceNetwork

STEEP = 10.0  # of the sigmoid
MEMORY = 0.99  # of the mean slope, per step


class UNISURF(Model):
    """Occupancy logit, positive outside, and colour."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.distance, self.colour = DistanceNetwork(config), ColourNetwork(config)
        self.first, self.last = config.interval_first, config.interval_last
        self.register_buffer("interval", torch.tensor(config.interval_last))
        self.register_buffer("slope", torch.tensor(1.0))

    def raw_sdf(self, points: Tensor) -> Tensor:
        return self.distance(points)[0] / self.slope

    def anneal(self, share: float) -> None:
        self.interval.fill_(self.first * (self.last / self.first) ** share)

    def scalars(self) -> dict[str, Tensor]:
        return {"interval": self.interval, "slope": self.slope}

    def band(self, eps: float) -> float:
        """Where a sample's opacity is eps outside, and its transparency is eps inside."""
        return math.log(1 / eps - 1) / (STEEP * self.slope.item())

    def opacity(self, sdf: Tensor, length: float) -> Tensor:
        return torch.sigmoid(-STEEP * self.slope * sdf)

    def shade(self, points: Tensor, directions: Tensor, lengths: Tensor) -> Shaded:
        logit, feature, gradient = differentiated(self.distance, points)
        alpha, length = torch.sigmoid(-STEEP * logit), gradient.norm(dim=1)
        colour = self.colour(points, directions, gradient / (length[:, None] + 1e-5), feature)
        if torch.is_grad_enabled() and len(points):
            weight = (alpha * (1 - alpha)).detach() + 1e-9
            self.slope = torch.lerp((weight * length.detach()).sum() / weight.sum(), self.slope, MEMORY)
        return Shaded(alpha, colour, gradient / self.slope, logit / self.slope)

    @torch.no_grad()
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, label: Tensor, config: SamplerConfig, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """In place of the given samples, `fine` in the interval about the first surface between them and half as many before
        it; evenly from the first to the last where there is none. All have one label."""
        if not t.numel():
            return t, label
        near, far = t[:, 0], t[:, -1]
        root = self.root(origins, directions, t, config.rounds)
        low = torch.where(root.isfinite(), (root - self.interval).maximum(near), near + (far - near) / 3)
        high = torch.where(root.isfinite(), (root + self.interval).minimum(far), far)
        parts = []
        for start, end, count in ((near, low, config.fine // 2), (low, high, config.fine)):
            shift = torch.full((len(t), count), 0.5, device=t.device)
            if generator is not None:
                shift = torch.rand(len(t), count, generator=generator, device=t.device)
            share = (torch.arange(count, device=t.device) + shift) / count
            parts.append(start[:, None] + (end - start)[:, None] * share)
        result = torch.cat(parts, 1)
        return result, torch.zeros_like(result, dtype=torch.int64)

    def root(self, origins: Tensor, directions: Tensor, t: Tensor, rounds: int) -> Tensor:
        """Where rays (n, 3) first enter the solid, (n,), by secants between the samples t (n, k) about it; inf: nowhere."""
        value = self.along(origins, directions, t)
        enters = (value[:, :-1] > 0) & (value[:, 1:] <= 0)
        ray = enters.any(1).nonzero()[:, 0]
        place = enters[ray].float().argmax(1)
        (a, b), (above, below) = ((row[ray, place], row[ray, place + 1]) for row in (t, value))
        for _ in range(rounds):
            middle = a + (b - a) * above / (above - below)
            found = self.along(origins[ray], directions[ray], middle[:, None])[:, 0]
            outside = found > 0
            a, above = torch.where(outside, middle, a), torch.where(outside, found, above)
            b, below = torch.where(outside, b, middle), torch.where(outside, below, found)
        return torch.full_like(t[:, 0], torch.inf).index_put((ray,), a + (b - a) * above / (above - below))
