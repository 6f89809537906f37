"""The contract of a base model: what training, rendering, samplers and the mesher know of it."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from dss.config import MAX_NUMBER, Count, Settings

CHUNK = 1 << 17  # points per evaluation: bounds memory


class UpsamplingSettings(Settings):
    """Samplers that first spread samples evenly and then let the model add more."""

    coarse: Annotated[int, Field(ge=2, le=MAX_NUMBER)] = 64  # evenly spaced samples per ray
    fine: Count = 64  # samples that the model adds, or puts in place of the even ones
    rounds: Count = 4  # of up-sampling; `unisurf`: of the search for the surface

    def least_bytes(self, rays: int) -> int:
        return rays * (24 * self.coarse + 12 * self.fine)  # points, times, numbers of intervals


class Shaded(NamedTuple):
    """A model at m samples."""

    alpha: Tensor  # (m,) opacity in [0, 1]
    colour: Tensor  # (m, 3) in [0, 1]
    gradient: Tensor  # (m, 3) of the signed distance
    sdf: Tensor  # (m,)


class Model(nn.Module, ABC):
    """Opacity and colour about the zero set of a signed distance, negative inside, in unit
    coordinates.

    A model is one file: its settings, and a subclass made from them alone.
    """

    Settings: ClassVar[type[Settings]] = Settings

    @property
    def device(self) -> torch.device:
        """Where the model computes, and its points belong."""
        return next(self.parameters()).device

    @abstractmethod
    def raw_sdf(self, points: Tensor) -> Tensor:
        """Signed distance (n,) at points (n, 3) float32, differentiable."""

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Signed distance (n,) at points (n, 3) float32, any number of them, without gradient."""
        return torch.cat([self.raw_sdf(chunk) for chunk in points.split(CHUNK)])

    def along(self, origins: Tensor, directions: Tensor, t: Tensor) -> Tensor:
        """Signed distance (n, k) at t (n, k) of rays (n, 3), without gradient."""
        points = origins[:, None] + directions[:, None] * t[..., None]
        return self.sdf(points.reshape(-1, 3)).view(t.shape)

    @abstractmethod
    def shade(self, points: Tensor, directions: Tensor, lengths: Tensor) -> Shaded:
        """The model at samples: their middles (m, 3), the unit directions (m, 3) of their rays, and
        their lengths (m,)."""

    @abstractmethod
    def opacity(self, sdf: Tensor, length: float) -> Tensor:
        """The largest opacity (n,), over all directions, that a sample of this length can have
        where the signed distance is `sdf` (n,)."""

    @abstractmethod
    def band(self, eps: float) -> float:
        """The distance from the surface beyond which less than `eps` of the opacity lies outside
        the object, and less than `eps` of the light is left inside."""

    @abstractmethod
    def refine(
        self, origins: Tensor, directions: Tensor, t: Tensor, interval: Tensor,
        settings: UpsamplingSettings, generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Add times where the model expects the surface.

        t (n, k), sorted, and the interval (n, k) int64 that each lies in, of rays (n, 3), become
        (n, k') of each. No new time lies between two intervals. With a generator the times may be
        jittered, for training.
        """

    def anneal(self, share: float) -> None:
        """Told before every step: the share in [0, 1] of `train.anneal_steps` that is done."""

    def scalars(self) -> dict[str, Tensor]:
        """What of the model is worth following during training, by name."""
        return {}


def differentiated(distance: nn.Module, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values (n,) and features (n, f) of a distance network at points (n, 3), and the gradient
    (n, 3) of the values. All are differentiable where gradients are on."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        value, feature = distance(points)
        ones = torch.ones_like(value)
        (gradient,) = torch.autograd.grad(value, points, ones, create_graph=graph)
    return value, feature, gradient


def inverse_cdf(
    t: Tensor, weight: Tensor, count: int, interval: Tensor,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`count` values (n, count) at even quantiles of a piecewise constant density, and the bin
    (n, count) that each lies in.

    The bins lie between neighbours of t (n, k) and have the weights (n, k - 1). A bin whose ends
    lie in different intervals (n, k) gets no value, unless nothing else is left. With a generator,
    the quantiles of a ray are shifted together.
    """
    weight = weight + 1e-5 * (interval[:, 1:] == interval[:, :-1])
    cdf = (weight / weight.sum(1, keepdim=True).clamp(min=1e-12)).cumsum(1)
    cdf = torch.nn.functional.pad(cdf, (1, 0))
    shift = torch.full((len(t), 1), 0.5, device=t.device)
    if generator is not None:
        shift = torch.rand(len(t), 1, generator=generator, device=t.device)
    quantile = (torch.arange(count, device=t.device) + shift) / count
    found = torch.searchsorted(cdf, quantile, right=True).clamp(1, t.shape[1] - 1) - 1
    low, high = cdf.gather(1, found), cdf.gather(1, found + 1)
    share = ((quantile - low) / (high - low).clamp(min=1e-5)).clamp(0, 1)
    start = t.gather(1, found)
    return start + share * (t.gather(1, found + 1) - start), found
