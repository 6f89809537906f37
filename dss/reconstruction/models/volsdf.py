"""VolSDF (Yariv et al. 2021): the density is Laplace's distribution function of the signed distance, over its width beta.

Samples are placed where they bound the error of the opacity (its algorithm 1), then drawn by the weights.
"""

import math

import torch
from torch import Tensor, nn

from dss.reconstruction.config import ModelConfig, SamplerConfig
from dss.reconstruction.intervals import exclusive_transmittance
from dss.reconstruction.models.base import Model, Shaded, differentiated, inverse_cdf
from dss.reconstruction.networks import ColourNetwork, DistanceNetwork

LEAST_BETA = 1e-4
ERROR = 0.1  # of the opacity along a ray, that the samples must bound
BISECTIONS = 10  # for the least width that does
EVEN = 0.1  # share of the samples that is spread evenly


class VolSDF(Model):
    """Signed distance, colour, and one trained width."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.distance, self.colour = DistanceNetwork(config), ColourNetwork(config)
        self.beta = nn.Parameter(torch.tensor(config.beta))

    @property
    def width(self) -> Tensor:
        return self.beta.abs() + LEAST_BETA

    def raw_sdf(self, points: Tensor) -> Tensor:
        return self.distance(points)[0]

    def scalars(self) -> dict[str, Tensor]:
        return {"beta": self.width.detach()}

    def band(self, eps: float) -> float:
        """beta ln(1/eps): the optical depth grows by 1 per beta inside, and sums to eps / 2 beyond it outside."""
        return math.log(1 / eps) * self.width.item()

    def opacity(self, sdf: Tensor, length: float) -> Tensor:
        return -torch.expm1(-density(sdf, self.width) * length)

    def shade(self, points: Tensor, directions: Tensor, lengths: Tensor) -> Shaded:
        sdf, feature, gradient = differentiated(self.distance, points)
        alpha = -torch.expm1(-density(sdf, self.width) * lengths)
        return Shaded(alpha, self.colour(points, directions, gradient, feature), gradient, sdf)

    @torch.no_grad()
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, label: Tensor, config: SamplerConfig, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """`fine` samples in place of the given ones, after up to `rounds` of `coarse` more where the error is not bounded yet."""
        if not t.numel():
            return t, label
        count, ray, sdf = config.fine, torch.arange(len(t), device=t.device), self.along(origins, directions, t)
        result, labels = t.new_empty(len(t), count), label.new_empty(len(t), count)
        for number in range(config.rounds + 1):
            gap = t.diff() * (label[:, 1:] == label[:, :-1])
            beta = least_beta(gap, sdf, self.width)
            opacity = -torch.expm1(-density(sdf[:, :-1], beta) * gap)
            weight = (1 - EVEN) * opacity * exclusive_transmittance(opacity) + EVEN * gap / gap.sum(1, keepdim=True).clamp(min=1e-9)
            done = (beta <= self.width)[:, 0] | (number == config.rounds)
            values, section = inverse_cdf(t[done], weight[done], count, label[done], generator)
            result[ray[done]], labels[ray[done]] = values, label[done].gather(1, section)
            if done.all():
                break
            error = error_bound(gap, sdf, beta)
            ray, t, label, sdf, error = (value[~done] for value in (ray, t, label, sdf, error))
            new, section = inverse_cdf(t, error, config.coarse, label)
            t, order = torch.cat([t, new], 1).sort(1)
            label = torch.cat([label, label.gather(1, section)], 1).gather(1, order)
            sdf = torch.cat([sdf, self.along(origins[ray], directions[ray], new)], 1).gather(1, order)
        return result, labels


def density(sdf: Tensor, beta: Tensor) -> Tensor:
    """1 / beta deep inside, half of it at the surface, falling to 0 outside."""
    return (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() / beta)) / beta


def error_bound(gap: Tensor, sdf: Tensor, beta: Tensor) -> Tensor:
    """What the opacity at the end of each section (n, k - 1) may be wrong by, from its lengths and the distances (n, k) at the
    samples (theorem 1 and equation 15)."""
    a, b = sdf[:, :-1].abs(), sdf[:, 1:].abs()
    half = (a + b + gap) / 2
    height = 2 * (half * (half - a) * (half - b) * (half - gap)).clamp(min=0).sqrt() / gap.clamp(min=1e-9)
    least = torch.where(a**2 + gap**2 <= b**2, a, torch.where(b**2 + gap**2 <= a**2, b, height))  # distance in the section
    least = torch.where(sdf[:, :-1].sign() * sdf[:, 1:].sign() == 1, least, 0)
    error = ((-least / beta).exp() * gap**2 / (4 * beta**2)).cumsum(1)
    depth = (density(sdf[:, :-1], beta) * gap).cumsum(1)
    return error.exp().clamp(max=1e6).sub(1) * torch.nn.functional.pad(-depth[:, :-1], (1, 0)).exp()


def least_beta(gap: Tensor, sdf: Tensor, beta: Tensor) -> Tensor:
    """The least width (n, 1), not below `beta`, whose error these samples bound by ERROR."""
    high = (gap.square().sum(1, keepdim=True) / (4 * math.log(1 + ERROR))).sqrt().maximum(beta)  # bounded by lemma 2
    low = beta.expand_as(high)
    high = torch.where(error_bound(gap, sdf, low).amax(1, keepdim=True) <= ERROR, low, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        bounded = error_bound(gap, sdf, middle).amax(1, keepdim=True) <= ERROR
        low, high = torch.where(bounded, low, middle), torch.where(bounded, middle, high)
    return high
