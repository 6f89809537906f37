"""The contract of a base model, and the models by name.

A model plugs in as one module with a subclass of `Model`, one line in `build_model`, and its name in `ModelConfig.method`.
Training, rendering, samplers and the mesh extraction know only what is declared here.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dss.reconstruction.config import ModelConfig, SamplerConfig

CHUNK = 1 << 17  # points per evaluation: bounds memory


class Shaded(NamedTuple):
    """A model at m sections."""

    alpha: Tensor  # (m,) opacity in [0, 1]
    colour: Tensor  # (m, 3) in [0, 1]
    gradient: Tensor  # (m, 3) of the signed distance
    sdf: Tensor  # (m,)


class Model(nn.Module, ABC):
    """Opacity and colour about the zero set of a signed distance, negative inside, in unit coordinates."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def raw_sdf(self, points: Tensor) -> Tensor:
        """Signed distance (n,) at points (n, 3), differentiable."""

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Signed distance (n,) at points (n, 3), any number of them, without gradient."""
        return torch.cat([self.raw_sdf(chunk) for chunk in points.split(CHUNK)])

    def along(self, origins: Tensor, directions: Tensor, t: Tensor) -> Tensor:
        """Signed distance (n, k) at t (n, k) of rays (n, 3), without gradient."""
        points = origins[:, None] + directions[:, None] * t[..., None]
        return self.sdf(points.reshape(-1, 3)).view(t.shape)

    @abstractmethod
    def shade(self, points: Tensor, directions: Tensor, lengths: Tensor) -> Shaded:
        """The model at the midpoints (m, 3) of sections that are `lengths` (m,) long along unit directions (m, 3)."""

    @abstractmethod
    def opacity(self, sdf: Tensor, length: float) -> Tensor:
        """The largest opacity (n,) that a section of this length can have where the distance is `sdf` (n,), from any direction."""

    @abstractmethod
    def band(self, eps: float) -> float:
        """The distance from the surface beyond which less than `eps` of the opacity lies outside, or of the light inside."""

    @abstractmethod
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, label: Tensor, config: SamplerConfig, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add samples where the model expects the surface: t (n, k) sorted and its labels (n, k), of rays (n, 3), become
        (n, k') of each. No sample crosses from label to label. With a generator they may be jittered, for training."""

    def anneal(self, share: float) -> None:
        """Told before every step: the share in [0, 1] of the steps `train.anneal` that are done."""

    def scalars(self) -> dict[str, Tensor]:
        """What of the model is worth following during training."""
        return {}


def differentiated(distance: nn.Module, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values (n,) and features (n, f) of a distance network at points (n, 3), and the gradient (n, 3); differentiable, unless
    gradients are off."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        value, feature = distance(points)
        (gradient,) = torch.autograd.grad(value, points, torch.ones_like(value), create_graph=graph)
    return value, feature, gradient


def inverse_cdf(t: Tensor, weight: Tensor, count: int, label: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """`count` values (n, count) at even quantiles of the density with `weight` (n, k - 1) on the sections of t (n, k), and the
    section of each (n, count). Sections whose ends differ in label (n, k) get none, but where nothing else is left. With a
    generator, the quantiles of a ray are shifted together."""
    weight = weight + 1e-5 * (label[:, 1:] == label[:, :-1])
    cdf = torch.nn.functional.pad((weight / weight.sum(1, keepdim=True).clamp(min=1e-12)).cumsum(1), (1, 0))
    shift = torch.full((len(t), 1), 0.5, device=t.device)
    if generator is not None:
        shift = torch.rand(len(t), 1, generator=generator, device=t.device)
    quantile = (torch.arange(count, device=t.device) + shift) / count
    section = torch.searchsorted(cdf, quantile, right=True).clamp(1, t.shape[1] - 1) - 1
    low, high = cdf.gather(1, section), cdf.gather(1, section + 1)
    share = ((quantile - low) / (high - low).clamp(min=1e-5)).clamp(0, 1)
    start = t.gather(1, section)
    return start + share * (t.gather(1, section + 1) - start), section


def build_model(config: ModelConfig) -> Model:
    """The model that the configuration names, freshly initialised."""
    from dss.reconstruction.models.neus import NeuS
    from dss.reconstruction.models.unisurf import UNISURF
    from dss.reconstruction.models.volsdf import VolSDF

    return {"neus": NeuS, "volsdf": VolSDF, "unisurf": UNISURF}[config.method](config)
