"""Networks of surfaces from images: encodings of points, the signed distance and the colour.

The geometric initialisation makes the distance about |x| - start, for both encodings (Atzmon & Lipman 2020; NeuS).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dss.reconstruction.config import ModelConfig

PRIMES = (1, 2_654_435_761, 805_459_861)  # Teschner et al. 2003
DIRECTION_OCTAVES = 4


class Frequency(nn.Module):
    """x, then sin and cos of 2^k x for k < octaves: (n, 3) -> (n, 3 + 6 octaves)."""

    def __init__(self, octaves: int):
        super().__init__()
        self.out = 3 + 6 * octaves
        self.register_buffer("rates", 2.0 ** torch.arange(octaves), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        phase = (x[:, None] * self.rates[:, None]).flatten(1)
        return torch.cat([x, phase.sin(), phase.cos()], 1)


class Hash(nn.Module):
    """x, then trilinear features of grids over [-1, 1]^3 from coarse to fine (Müller et al. 2022): (n, 3) -> (n, 3 + 2 levels).

    Levels with more nodes than entries share these by a hash. Differentiable twice in x, as normals in a loss need.
    """

    def __init__(self, levels: int, log2_entries: int, base: int, growth: float):
        super().__init__()
        self.out, self.entries = 3 + 2 * levels, 1 << log2_entries
        cells = torch.tensor([int(base * growth**level) for level in range(levels)])
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("dense", (cells + 1) ** 3 <= self.entries, persistent=False)
        self.register_buffer("corners", torch.cartesian_prod(*[torch.arange(2)] * 3), persistent=False)
        self.table = nn.Parameter(torch.empty(levels * self.entries, 2).uniform_(-1e-4, 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        position = (x[:, None].clamp(-1, 1) + 1) / 2 * self.cells[:, None]  # (n, levels, 3)
        low = position.detach().floor().long().minimum(self.cells[:, None] - 1)
        share = (position - low)[:, :, None]
        node = low[:, :, None] + self.corners  # (n, levels, 8, 3)
        row = self.cells[:, None] + 1
        i, j, k = node.unbind(-1)
        index = torch.where(self.dense[:, None], (i * row + j) * row + k, (i * PRIMES[0] ^ j * PRIMES[1] ^ k * PRIMES[2]) % self.entries)
        index = index + torch.arange(len(self.cells), device=x.device)[:, None] * self.entries
        weight = torch.where(self.corners.bool(), share, 1 - share).prod(-1, keepdim=True)
        features = nn.functional.embedding(index, self.table)
        return torch.cat([x, (weight * features).sum(2).flatten(1)], 1)


class DistanceNetwork(nn.Module):
    """Points (n, 3) -> signed distance (n,) and a feature (n, config.feature)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        frequency = config.encoding == "frequency"
        self.encoding = Frequency(config.octaves) if frequency else Hash(config.levels, config.table, config.base, config.growth)
        self.skip, encoded = config.skip, self.encoding.out
        sizes = [encoded] + [config.width] * config.layers + [1 + config.feature]
        self.layers = nn.ModuleList()
        for index, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
            last = index == config.layers
            layer = nn.Linear(before, after - encoded if self.skip and index + 1 == self.skip else after)
            with torch.no_grad():
                layer.bias.fill_(-config.start if last else 0)
                if last:
                    layer.weight.normal_(math.sqrt(math.pi) / math.sqrt(before), 1e-4)
                else:
                    layer.weight.normal_(0, math.sqrt(2 / layer.out_features))
                if index == 0:
                    layer.weight[:, 3:] = 0  # what the encoding adds to x is for later
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
    """Points, unit directions, gradients of the distance (n, 3) and features (n, f) -> colours (n, 3) in [0, 1]."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.encoding = Frequency(DIRECTION_OCTAVES)
        sizes = [6 + self.encoding.out + config.feature] + [config.colour_width] * config.colour_layers + [3]
        self.layers = nn.ModuleList(weight_norm(nn.Linear(*size)) for size in zip(sizes, sizes[1:], strict=False))

    def forward(self, points: Tensor, directions: Tensor, gradients: Tensor, features: Tensor) -> Tensor:
        x = torch.cat([points, self.encoding(directions), gradients, features], 1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x).sigmoid()
