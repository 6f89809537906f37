"""NeuS (Wang et al. 2021): volume rendering of a signed distance, unbiased at its zero set.

The opacity of a sample follows from the logistic function of the distance at its two ends, which
are extrapolated from the distance and its slope in the middle (docs/method.md, section 11).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from dss.config import Real
from dss.reconstruction.models.base import (
    Model,
    Shaded,
    UpsamplingSettings,
    differentiated,
    inverse_cdf,
)
from dss.reconstruction.networks import ColourNetwork, DistanceNetwork, NetworkSettings
from dss.reconstruction.ray_samples import exclusive_transmittance

TINY = 1e-5  # keeps the quotient finite deep in the solid
FIRST_SHARPNESS = 64.0  # of the first round of up-sampling; doubled in each


class NeuSSettings(NetworkSettings):
    method: Literal["neus"] = "neus"
    sharpness: Real = 0.3  # v at first, where the sharpness is exp(10 v)


class NeuS(Model):
    """Signed distance, colour, and one trained sharpness s = exp(10 v)."""

    Settings = NeuSSettings

    def __init__(self, settings: NeuSSettings):
        super().__init__()
        self.distance, self.colour = DistanceNetwork(settings), ColourNetwork(settings)
        self.v = nn.Parameter(torch.tensor(settings.sharpness))
        self.register_buffer("annealed", torch.tensor(1.0))

    def raw_sdf(self, points: Tensor) -> Tensor:
        return self.distance(points)[0]

    @property
    def sharpness(self) -> Tensor:
        """s (), in units of 1 / distance."""
        return (10 * self.v).exp().clamp(1e-6, 1e6)

    def anneal(self, share: float) -> None:
        self.annealed.fill_(share)

    def scalars(self) -> dict[str, Tensor]:
        return {"sharpness": self.sharpness.detach()}

    def band(self, eps: float) -> float:
        """ln(1/eps) / s: the logistic density beyond it sums to eps."""
        return math.log(1 / eps) / self.sharpness.item()

    def opacity(self, sdf: Tensor, length: float) -> Tensor:
        return self._alpha(sdf, torch.full_like(sdf, -length))

    def shade(self, points: Tensor, directions: Tensor, lengths: Tensor) -> Shaded:
        sdf, feature, gradient = differentiated(self.distance, points)
        cosine = (directions * gradient).sum(1)
        # In the first steps normals are still wild, and the opacity hardly depends on the angle.
        free = torch.relu(0.5 - 0.5 * cosine)
        slope = -torch.lerp(free, torch.relu(-cosine), self.annealed)
        colour = self.colour(points, directions, gradient, feature)
        return Shaded(self._alpha(sdf, slope * lengths), colour, gradient, sdf)

    def _alpha(self, sdf: Tensor, change: Tensor) -> Tensor:
        """Opacity (n,) of samples whose distance is `sdf` (n,) in the middle and changes by
        `change` (n,) from end to end."""
        before, after = (
            torch.sigmoid((sdf + sign * change / 2) * self.sharpness) for sign in (-1, 1)
        )
        return ((before - after + TINY) / (before + TINY)).clamp(0, 1)

    @torch.no_grad()
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, interval: Tensor,
        settings: UpsamplingSettings, generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Add `fine` times in rounds of importance sampling by the opacity at sharpness 64, 128
        and so on. There is no opacity between two intervals."""
        if not t.numel():
            return t, interval
        sdf, count = self.along(origins, directions, t), settings.fine // settings.rounds
        for number in range(settings.rounds):
            points = origins[:, None] + directions[:, None] * t[..., None]
            inside = points.norm(dim=2) < 1
            gap = t.diff()
            slope = sdf.diff() / (gap + 1e-5)
            previous = torch.nn.functional.pad(slope[:, :-1], (1, 0))
            slope = torch.minimum(slope, previous).clamp(-1e3, 0)
            slope = slope * (inside[:, 1:] | inside[:, :-1])
            middle = (sdf[:, 1:] + sdf[:, :-1]) / 2
            sharpness = FIRST_SHARPNESS * 2**number
            before, after = (
                torch.sigmoid((middle + sign * slope * gap / 2) * sharpness) for sign in (-1, 1)
            )
            same = interval[:, 1:] == interval[:, :-1]
            alpha = (before - after + TINY) / (before + TINY) * same
            weight = alpha * exclusive_transmittance(alpha)
            new, found = inverse_cdf(t, weight, count, interval)
            t, order = torch.cat([t, new], 1).sort(1)
            interval = torch.cat([interval, interval.gather(1, found)], 1).gather(1, order)
            if number + 1 < settings.rounds:
                more = self.along(origins, directions, new)
                sdf = torch.cat([sdf, more], 1).gather(1, order)
        return t, interval
