"""NeuS (Wang et al. 2021): volume rendering of a signed distance, unbiased at its zero set.

The opacity of a section follows from the logistic function of the distance at its two ends, which the distance and its
slope at the midpoint tell (sphere_guided_neus.md, section 6).
"""

import math

import torch
from torch import Tensor, nn

from dss.reconstruction.config import ModelConfig, SamplerConfig
from dss.reconstruction.intervals import exclusive_transmittance
from dss.reconstruction.models.base import Model, Shaded, differentiated, inverse_cdf
from dss.reconstruction.networks import ColourNetwork, DistanceNetwork

TINY = 1e-5  # keeps the quotient finite deep in the solid
FIRST_SHARPNESS = 64.0  # of the first round of up-sampling; doubled in each


class NeuS(Model):
    """Signed distance, colour, and one trained sharpness s = exp(10 v)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.distance, self.colour = DistanceNetwork(config), ColourNetwork(config)
        self.v = nn.Parameter(torch.tensor(config.sharpness))
        self.register_buffer("annealed", torch.tensor(1.0))

    def raw_sdf(self, points: Tensor) -> Tensor:
        return self.distance(points)[0]

    @property
    def sharpness(self) -> Tensor:
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
        free = torch.relu(0.5 - 0.5 * cosine)  # of the angle, for the first steps, when normals are still wild
        slope = -torch.lerp(free, torch.relu(-cosine), self.annealed)
        colour = self.colour(points, directions, gradient, feature)
        return Shaded(self._alpha(sdf, slope * lengths), colour, gradient, sdf)

    def _alpha(self, sdf: Tensor, change: Tensor) -> Tensor:
        """Opacity (n,) of sections with `sdf` (n,) at the midpoint that changes by `change` (n,) from end to end."""
        before, after = (torch.sigmoid((sdf + sign * change / 2) * self.sharpness) for sign in (-1, 1))
        return ((before - after + TINY) / (before + TINY)).clamp(0, 1)

    @torch.no_grad()
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, label: Tensor, config: SamplerConfig, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rounds of importance sampling by the opacity at sharpness 64, 128, ...; sections between labels are void."""
        if not t.numel():
            return t, label
        sdf, count = self.along(origins, directions, t), config.fine // config.rounds
        for number in range(config.rounds):
            points = origins[:, None] + directions[:, None] * t[..., None]
            inside = points.norm(dim=2) < 1
            gap = t.diff()
            slope = sdf.diff() / (gap + 1e-5)
            slope = torch.minimum(slope, torch.nn.functional.pad(slope[:, :-1], (1, 0))).clamp(-1e3, 0)
            slope = slope * (inside[:, 1:] | inside[:, :-1])
            middle = (sdf[:, 1:] + sdf[:, :-1]) / 2
            sharpness = FIRST_SHARPNESS * 2**number
            before, after = (torch.sigmoid((middle + sign * slope * gap / 2) * sharpness) for sign in (-1, 1))
            alpha = (before - after + TINY) / (before + TINY) * (label[:, 1:] == label[:, :-1])
            new, section = inverse_cdf(t, alpha * exclusive_transmittance(alpha), count, label)
            t, order = torch.cat([t, new], 1).sort(1)
            label = torch.cat([label, label.gather(1, section)], 1).gather(1, order)
            if number + 1 < config.rounds:
                sdf = torch.cat([sdf, self.along(origins, directions, new)], 1).gather(1, order)
        return t, label
