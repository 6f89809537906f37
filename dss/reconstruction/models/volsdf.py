"""VolSDF (Yariv et al. 2021): the density is Laplace's distribution function of the signed
distance, divided by its width beta.

Samples are added where they bound the error of the opacity (the paper's algorithm 1), then drawn by
the weights.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from dss.config import Positive
from dss.reconstruction.models.base import (
    Model,
    Shaded,
    UpsamplingSettings,
    differentiated,
    inverse_cdf,
)
from dss.reconstruction.networks import ColourNetwork, DistanceNetwork, NetworkSettings
from dss.reconstruction.ray_samples import exclusive_transmittance

MIN_BETA = 1e-4
ERROR = 0.1  # of the opacity along a ray, which the samples must bound
BISECTIONS = 10  # for the smallest width with a bounded error
EVEN = 0.1  # share of the samples that is spread evenly


class VolSDFSettings(NetworkSettings):
    method: Literal["volsdf"] = "volsdf"
    beta: Positive = 0.1  # width of the Laplace distribution at first, in unit coordinates


class VolSDF(Model):
    """Signed distance, colour, and one trained width."""

    Settings = VolSDFSettings

    def __init__(self, settings: VolSDFSettings):
        super().__init__()
        self.distance, self.colour = DistanceNetwork(settings), ColourNetwork(settings)
        self.beta = nn.Parameter(torch.tensor(settings.beta))

    @property
    def width(self) -> Tensor:
        """beta (), kept positive."""
        return self.beta.abs() + MIN_BETA

    def raw_sdf(self, points: Tensor) -> Tensor:
        return self.distance(points)[0]

    def scalars(self) -> dict[str, Tensor]:
        return {"beta": self.width.detach()}

    def band(self, eps: float) -> float:
        """beta ln(1/eps): inside, the optical depth grows by 1 per beta; beyond this distance
        outside, it sums to eps / 2."""
        return math.log(1 / eps) * self.width.item()

    def opacity(self, sdf: Tensor, length: float) -> Tensor:
        return -torch.expm1(-density(sdf, self.width) * length)

    def shade(self, points: Tensor, directions: Tensor, lengths: Tensor) -> Shaded:
        sdf, feature, gradient = differentiated(self.distance, points)
        alpha = -torch.expm1(-density(sdf, self.width) * lengths)
        return Shaded(alpha, self.colour(points, directions, gradient, feature), gradient, sdf)

    @torch.no_grad()
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, interval: Tensor,
        settings: UpsamplingSettings, generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`fine` times in place of the given ones, after up to `rounds` of `coarse` more where
        the error is not bounded yet."""
        if not t.numel():
            return t, interval
        count, sdf = settings.fine, self.along(origins, directions, t)
        ray = torch.arange(len(t), device=t.device)
        result, intervals = t.new_empty(len(t), count), interval.new_empty(len(t), count)
        for number in range(settings.rounds + 1):
            gap = t.diff() * (interval[:, 1:] == interval[:, :-1])
            beta = smallest_beta(gap, sdf, self.width)
            opacity = -torch.expm1(-density(sdf[:, :-1], beta) * gap)
            even = EVEN * gap / gap.sum(1, keepdim=True).clamp(min=1e-9)
            weight = (1 - EVEN) * opacity * exclusive_transmittance(opacity) + even
            done = (beta <= self.width)[:, 0] | (number == settings.rounds)
            values, found = inverse_cdf(t[done], weight[done], count, interval[done], generator)
            result[ray[done]], intervals[ray[done]] = values, interval[done].gather(1, found)
            if done.all():
                break
            going = ~done
            error = error_bound(gap, sdf, beta)[going]
            ray, t, interval, sdf = ray[going], t[going], interval[going], sdf[going]
            new, found = inverse_cdf(t, error, settings.coarse, interval)
            t, order = torch.cat([t, new], 1).sort(1)
            interval = torch.cat([interval, interval.gather(1, found)], 1).gather(1, order)
            more = self.along(origins[ray], directions[ray], new)
            sdf = torch.cat([sdf, more], 1).gather(1, order)
        return result, intervals


def density(sdf: Tensor, beta: Tensor) -> Tensor:
    """1 / beta deep inside, half of it at the surface, falling to 0 outside."""
    return (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() / beta)) / beta


def error_bound(gap: Tensor, sdf: Tensor, beta: Tensor) -> Tensor:
    """A bound (n, k - 1) of the error of the opacity at the end of each gap between samples.

    It follows from the lengths of the gaps (n, k - 1) and the distances (n, k) at the samples
    (the paper's theorem 1 and equation 15).
    """
    a, b = sdf[:, :-1].abs(), sdf[:, 1:].abs()
    half = (a + b + gap) / 2
    area = (half * (half - a) * (half - b) * (half - gap)).clamp(min=0).sqrt()
    height = 2 * area / gap.clamp(min=1e-9)
    nearest = torch.where(b**2 + gap**2 <= a**2, b, height)  # least distance within the gap
    nearest = torch.where(a**2 + gap**2 <= b**2, a, nearest)
    nearest = torch.where(sdf[:, :-1].sign() * sdf[:, 1:].sign() == 1, nearest, 0)
    error = ((-nearest / beta).exp() * gap**2 / (4 * beta**2)).cumsum(1)
    depth = (density(sdf[:, :-1], beta) * gap).cumsum(1)
    before = torch.nn.functional.pad(-depth[:, :-1], (1, 0))
    return error.exp().clamp(max=1e6).sub(1) * before.exp()


def smallest_beta(gap: Tensor, sdf: Tensor, beta: Tensor) -> Tensor:
    """The smallest width (n, 1), not below `beta`, for which the error is bounded by ERROR."""
    square = gap.square().sum(1, keepdim=True)
    high = (square / (4 * math.log(1 + ERROR))).sqrt().maximum(beta)  # bounded by lemma 2
    low = beta.expand_as(high)
    high = torch.where(error_bound(gap, sdf, low).amax(1, keepdim=True) <= ERROR, low, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        bounded = error_bound(gap, sdf, middle).amax(1, keepdim=True) <= ERROR
        low, high = torch.where(bounded, low, middle), torch.where(bounded, middle, high)
    return high
