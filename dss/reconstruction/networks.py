"""Networks of multi-view reconstruction: encodings of points, the signed distance, the colour.

The geometric initialisation makes the distance about |x| - initial_radius, for both encodings
(Atzmon & Lipman 2020; NeuS).
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dss.config import Count, CountOrZero, Layers, Positive, Settings

PRIMES = (1, 2_654_435_761, 805_459_861)  # Teschner et al. 2003
DIRECTION_OCTAVES = 4


class NetworkSettings(Settings):
    """The two networks that every model has. The defaults are those of NeuS as published."""

    encoding: Literal["frequency", "hash"] = "frequency"  # of the points
    octaves: Count = 6  # `frequency`: sines and cosines per coordinate
    levels: Layers = 16  # `hash`: grids, each with two features per entry
    log2_table: Annotated[Count, Field(le=30)] = 19  # `hash`: log2 of the entries per level
    base_resolution: Count = 32  # `hash`: cells per axis of the coarsest level
    growth: Positive = 1.3195  # `hash`: factor of the cells per axis from level to level
    layers: Layers = 8  # hidden layers of the distance network
    width: Count = 256  # of each hidden layer of the distance network
    initial_radius: Positive = 0.5  # of the sphere whose distance the untrained network predicts
    skip: CountOrZero = 4  # hidden layer after which the encoded point is joined again; 0: none
    feature: Count = 256  # floats that the distance network passes to the colour network
    colour_layers: Layers = 4  # hidden layers of the colour network
    colour_width: Count = 256  # of each hidden layer of the colour network
    # what is behind the unit ball: the scene's colour, or what background.py says
    background: Literal["none", "nerf++", "ball"] = "none"
    background_samples: Count = 32  # per ray, of a background
    background_layers: Layers = 8  # `nerf++`: hidden layers
    background_width: Count = 256  # `nerf++`: of each hidden layer

    def least_parameters(self) -> int:
        hidden = (self.layers - 1) * self.width**2 + self.feature * self.width
        return hidden + (self.colour_layers - 1) * self.colour_width**2


class Frequency(nn.Module):
    """x, then sin and cos of 2^k x for k < octaves: (n, d) -> (n, d + 2 d octaves)."""

    def __init__(self, octaves: int, dimensions: int = 3):
        super().__init__()
        self.out = dimensions * (1 + 2 * octaves)
        self.register_buffer("rates", 2.0 ** torch.arange(octaves), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        phase = (x[:, None] * self.rates[:, None]).flatten(1)
        return torch.cat([x, phase.sin(), phase.cos()], 1)


class Hash(nn.Module):
    """x, then trilinear features of grids over [-1, 1]^3 from coarse to fine (Müller et al. 2022):
    (n, 3) -> (n, 3 + 2 levels).

    Levels with more nodes than entries share these by a hash. Differentiable twice in x, as normals
    in a loss need.
    """

    def __init__(self, levels: int, log2_table: int, base_resolution: int, growth: float):
        super().__init__()
        self.out, self.entries = 3 + 2 * levels, 1 << log2_table
        cells = torch.tensor([int(base_resolution * growth**level) for level in range(levels)])
        corners = torch.cartesian_prod(*[torch.arange(2)] * 3)
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("dense", (cells + 1) ** 3 <= self.entries, persistent=False)
        self.register_buffer("corners", corners, persistent=False)
        table = torch.empty(levels * self.entries, 2).uniform_(-1e-4, 1e-4)
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        position = (x[:, None].clamp(-1, 1) + 1) / 2 * self.cells[:, None]  # (n, levels, 3)
        low = position.detach().floor().long().minimum(self.cells[:, None] - 1)
        share = (position - low)[:, :, None]
        node = low[:, :, None] + self.corners  # (n, levels, 8, 3)
        row = self.cells[:, None] + 1
        i, j, k = node.unbind(-1)
        hashed = (i * PRIMES[0] ^ j * PRIMES[1] ^ k * PRIMES[2]) % self.entries
        index = torch.where(self.dense[:, None], (i * row + j) * row + k, hashed)
        index = index + torch.arange(len(self.cells), device=x.device)[:, None] * self.entries
        weight = torch.where(self.corners.bool(), share, 1 - share).prod(-1, keepdim=True)
        features = nn.functional.embedding(index, self.table)
        return torch.cat([x, (weight * features).sum(2).flatten(1)], 1)


class DistanceNetwork(nn.Module):
    """Points (n, 3) -> signed distance (n,) and a feature (n, settings.feature)."""

    def __init__(self, settings: NetworkSettings):
        super().__init__()
        self.encoding, self.skip = _encoding(settings), settings.skip
        encoded, last = self.encoding.out, settings.layers
        sizes = [encoded] + [settings.width] * settings.layers + [1 + settings.feature]
        self.layers = nn.ModuleList()
        for index, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
            joined = self.skip and index + 1 == self.skip
            layer = nn.Linear(before, after - encoded if joined else after)
            with torch.no_grad():
                layer.bias.fill_(-settings.initial_radius if index == last else 0)
                if index == last:
                    layer.weight.normal_(math.sqrt(math.pi) / math.sqrt(before), 1e-4)
                else:
                    layer.weight.normal_(0, math.sqrt(2 / layer.out_features))
                if index == 0:
                    layer.weight[:, 3:] = 0  # what the encoding adds to x has no say at first
                elif index == self.skip:
                    layer.weight[:, before - encoded + 3 :] = 0
            self.layers.append(weight_norm(layer))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        encoded = x = self.encoding(points)
        for index, layer in enumerate(self.layers):
            if index and index == self.skip:
                x = torch.cat([x, encoded], 1) / math.sqrt(2)
            x = layer(x)
            if index + 1 < len(self.layers):
                x = nn.functional.softplus(x, beta=100)
        return x[:, 0], x[:, 1:]


class ColourNetwork(nn.Module):
    """Points, unit directions and gradients of the distance, (n, 3) each, and features (n, f) ->
    colours (n, 3) in [0, 1]."""

    def __init__(self, settings: NetworkSettings):
        super().__init__()
        self.encoding = Frequency(DIRECTION_OCTAVES)
        first = 6 + self.encoding.out + settings.feature
        sizes = [first] + [settings.colour_width] * settings.colour_layers + [3]
        pairs = zip(sizes, sizes[1:], strict=False)
        self.layers = nn.ModuleList(weight_norm(nn.Linear(*pair)) for pair in pairs)

    def forward(
        self, points: Tensor, directions: Tensor, gradients: Tensor, features: Tensor
    ) -> Tensor:
        x = torch.cat([points, self.encoding(directions), gradients, features], 1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x).sigmoid()


def _encoding(settings: NetworkSettings) -> Frequency | Hash:
    if settings.encoding == "frequency":
        return Frequency(settings.octaves)
    size = settings.levels, settings.log2_table, settings.base_resolution
    return Hash(*size, settings.growth)
