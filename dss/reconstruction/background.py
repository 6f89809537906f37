"""What is behind the object in scenes without masks: colours of rays beyond the unit ball.

`nerf++` (Zhang et al. 2020) is a radiance field of its own over inverted spheres: a point x at the
distance r > 1 is given to it as (x / r, 1 / r), so that the whole outside is bounded. `ball` is
VolSDF's and UNISURF's: the model itself fills the space as far as a solid wall, a ball of radius 4.

Nothing is rendered between the camera and the unit ball, and rays that miss the ball see the
outside from their nearest point on (docs/method.md, section 11).
"""

import torch
from torch import Tensor, nn

from dss.reconstruction.networks import DIRECTION_OCTAVES, Frequency, NetworkSettings
from dss.reconstruction.ray_samples import exclusive_transmittance

OCTAVES = 10  # of the encoded place
JOIN = 4  # hidden layer after which the encoded place is joined again
WALL = 4.0  # radius of the solid ball, unit coordinates


class Backdrop(nn.Module):
    """Called with a model, rays (n, 3) each and, in training, a generator: their colours (n, 3)
    beyond the unit ball. All of the light ends there."""

    def __init__(self, settings: NetworkSettings):
        super().__init__()
        self.samples = settings.background_samples

    def shares(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Where in (0, 1) each ray's samples lie, (n, samples), in order: one in the middle of
        each cell, or anywhere in it."""
        shift = like.new_full((len(like), self.samples), 0.5)
        if generator is not None:
            shift = torch.rand(shift.shape, generator=generator, device=like.device)
        return (torch.arange(self.samples, device=like.device) + shift) / self.samples

    def composed(self, alpha: Tensor, colour: Tensor) -> Tensor:
        """Colours (n, 3) of samples with opacities (n, samples), the last of which is opaque."""
        alpha = torch.cat([alpha[:, :-1], torch.ones_like(alpha[:, -1:])], 1)
        return ((alpha * exclusive_transmittance(alpha))[..., None] * colour).sum(1)


class InvertedSphere(Backdrop):
    """NeRF++'s network: density per step of 1 / r, and colour."""

    def __init__(self, settings: NetworkSettings):
        super().__init__(settings)
        width = settings.background_width
        self.place, self.direction = Frequency(OCTAVES, 4), Frequency(DIRECTION_OCTAVES)
        self.layers = nn.ModuleList()
        for index in range(settings.background_layers):
            before = self.place.out if index == 0 else width
            before += self.place.out if index == JOIN else 0
            self.layers.append(nn.Linear(before, width))
        self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        half = max(1, width // 2)
        self.colour = nn.Sequential(
            nn.Linear(width + self.direction.out, half), nn.ReLU(), nn.Linear(half, 3), nn.Sigmoid()
        )

    def radiance(self, places: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (m,) and colour (m, 3) at places (m, 4), seen along directions (m, 3)."""
        encoded = x = self.place(places)
        for index, layer in enumerate(self.layers):
            x = layer(torch.cat([x, encoded], 1) if index == JOIN else x).relu()
        density = nn.functional.softplus(self.density(x))[:, 0]
        seen = torch.cat([self.feature(x), self.direction(directions)], 1)
        return density, self.colour(seen)

    def forward(
        self, model: nn.Module, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        middle = -(origins * directions).sum(1, keepdim=True)
        across = (origins + middle * directions).square().sum(1, keepdim=True)
        first = across.clamp(min=1).rsqrt()  # 1 / r where the outside begins
        inverse = first * (1 - self.shares(origins, generator))
        t = middle + (1 / inverse.square() - across).clamp(min=0).sqrt()
        points = origins[:, None] + t[..., None] * directions[:, None]
        places = torch.cat([points * inverse[..., None], inverse[..., None]], 2)
        along = directions[:, None].expand_as(points)
        density, colour = self.radiance(places.reshape(-1, 4), along.reshape(-1, 3))
        alpha = -torch.expm1(-density.view(t.shape) * first / self.samples)
        return self.composed(alpha, colour.view(*t.shape, 3))


class SolidBall(Backdrop):
    """The model beyond the unit ball, as far as a wall that has the model's colour there."""

    def forward(
        self, model: nn.Module, origins: Tensor, directions: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        middle = -(origins * directions).sum(1, keepdim=True)
        across = (origins + middle * directions).square().sum(1, keepdim=True)
        start = (middle + (1 - across).clamp(min=0).sqrt()).clamp(min=0)
        end = (middle + (WALL**2 - across).clamp(min=0).sqrt()).maximum(start)
        t = start + (end - start) * self.shares(origins, generator)
        t = torch.cat([t[:, :-1], end], 1)  # the last one is on the wall
        points = origins[:, None] + t[..., None] * directions[:, None]
        along, length = directions[:, None].expand_as(points), (end - start) / self.samples
        shaded = model.shade(
            points.reshape(-1, 3), along.reshape(-1, 3), length.expand_as(t).reshape(-1)
        )
        return self.composed(shaded.alpha.view(t.shape), shaded.colour.view(*t.shape, 3))


BACKDROPS = {"nerf++": InvertedSphere, "ball": SolidBall}


def build_backdrop(settings: NetworkSettings) -> Backdrop | None:
    """What the settings name, untrained; None: the colour of the scene."""
    kind = BACKDROPS.get(settings.background)
    return kind(settings) if kind else None
