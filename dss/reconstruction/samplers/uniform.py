"""The plain sampler of NeuS: evenly spaced samples, then the model's up-sampling."""

from typing import Literal

import torch
from torch import Tensor

from dss.reconstruction.models.base import Model, UpsamplingSettings
from dss.reconstruction.ray_samples import RaySamples, between
from dss.reconstruction.samplers.base import Sampler


class UniformSettings(UpsamplingSettings):
    method: Literal["uniform"] = "uniform"


class Uniform(Sampler):
    """Even samples within 1 of the point of the ray that is nearest to the centre, then the model's
    up-sampling."""

    Settings = UniformSettings
    settings: UpsamplingSettings

    def sample(
        self, model: Model, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RaySamples:  # fmt: skip
        count, device = self.settings.coarse, origins.device
        middle = -(origins * directions).sum(1, keepdim=True)
        t = middle + torch.linspace(-1, 1, count, device=device)
        if generator is not None:
            shift = torch.rand(len(t), 1, generator=generator, device=device) - 0.5
            t = t + shift * (2 / count)
        interval = torch.zeros_like(t, dtype=torch.int64)
        t, interval = model.refine(origins, directions, t, interval, self.settings, generator)
        return between(t, interval, torch.arange(len(t), device=device), 2 / count)
