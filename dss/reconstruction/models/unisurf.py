"""UNISURF (Oechsle et al. 2021): the opacity of a sample is the occupancy there, a sigmoid of the
network's output.

Rays look for the surface first and are sampled about it, in an interval that shrinks during
training. The output is no distance: divided by its mean slope at the surface it is one there to
first order, and that is what samplers get.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from dss.config import Positive
from dss.reconstruction.models.base import Model, Shaded, UpsamplingSettings, differentiated
from dss.reconstruction.networks import ColourNetwork, DistanceNetwork, NetworkSettings

STEEP = 10.0  # of the sigmoid
MEMORY = 0.99  # of the mean slope, per step


class UNISURFSettings(NetworkSettings):
    method: Literal["unisurf"] = "unisurf"
    interval_initial: Positive = 2.0  # half the interval about the surface that is sampled at first
    interval_final: Positive = 0.1  # half that interval after `train.anneal_steps` steps


class UNISURF(Model):
    """Occupancy logit, positive outside, and colour."""

    Settings = UNISURFSettings

    def __init__(self, settings: UNISURFSettings):
        super().__init__()
        self.distance, self.colour = DistanceNetwork(settings), ColourNetwork(settings)
        self.initial, self.final = settings.interval_initial, settings.interval_final
        self.register_buffer("interval", torch.tensor(self.final))
        self.register_buffer("slope", torch.tensor(1.0))

    def raw_sdf(self, points: Tensor) -> Tensor:
        return self.distance(points)[0] / self.slope

    def anneal(self, share: float) -> None:
        self.interval.fill_(self.initial * (self.final / self.initial) ** share)

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
        normal = gradient / (length[:, None] + 1e-5)
        colour = self.colour(points, directions, normal, feature)
        if torch.is_grad_enabled() and len(points):
            weight = (alpha * (1 - alpha)).detach() + 1e-9
            mean = (weight * length.detach()).sum() / weight.sum()
            self.slope = torch.lerp(mean, self.slope, MEMORY)
        return Shaded(alpha, colour, gradient / self.slope, logit / self.slope)

    @torch.no_grad()
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, interval: Tensor,
        settings: UpsamplingSettings, generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """In place of the given times: `fine` about the first surface between them, and half as
        many before it.

        Where a ray meets no surface, they are even along the ray. A guide that chose the times
        narrows the search for the surface only, as published: the new ones may lie outside it, and
        all of a ray count as one interval.
        """
        if not t.numel():
            return t, interval
        middle = -(origins * directions).sum(1)
        near, far = t[:, 0].minimum(middle - 1), t[:, -1].maximum(middle + 1)
        root = self.root(origins, directions, t, settings.rounds)
        low = (root - self.interval).maximum(near)
        low = torch.where(root.isfinite(), low, near + (far - near) / 3)
        high = torch.where(root.isfinite(), (root + self.interval).minimum(far), far)
        parts = []
        for start, end, count in ((near, low, settings.fine // 2), (low, high, settings.fine)):
            shift = torch.full((len(t), count), 0.5, device=t.device)
            if generator is not None:
                shift = torch.rand(len(t), count, generator=generator, device=t.device)
            share = (torch.arange(count, device=t.device) + shift) / count
            parts.append(start[:, None] + (end - start)[:, None] * share)
        result = torch.cat(parts, 1)
        return result, torch.zeros_like(result, dtype=torch.int64)

    def root(self, origins: Tensor, directions: Tensor, t: Tensor, rounds: int) -> Tensor:
        """Where rays (n, 3) first enter the solid, (n,), inf where they do not.

        The crossing is bracketed by the times t (n, k), then narrowed by `rounds` secants.
        """
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
        crossing = a + (b - a) * above / (above - below)
        return torch.full_like(t[:, 0], torch.inf).index_put((ray,), crossing)
