"""The method this project exists for: one MLP in the interlayer, with a latent vector per sphere (dss.md, section 5)."""

import torch
from torch import Tensor, nn

from dss.config import FieldConfig
from dss.fields.base import Field
from dss.shell import DualShell

SLOPE = 0.1  # of the leaky rectifier


class DualShellField(Field):
    """f(x) = MLP([latent of the owner, positional encoding of the offset from its centre]).

    `local`: the offset is divided by the outer radius, so that every sphere sees the unit ball.
    `output`: `tanh` as in the paper, or `thickness`: the prediction is a multiple of the owner's shell thickness.
    Points that no outer sphere contains are answered by the nearest one.
    """

    def __init__(self, config: FieldConfig, shell: DualShell):
        super().__init__(shell, config.owner)
        self.config = config
        self.latents = nn.Parameter(torch.rand(len(shell), config.latent))
        self.register_buffer("frequencies", config.base_frequency * 2.0 ** torch.arange(config.octaves), persistent=False)
        widths = [config.latent + 6 * config.octaves] + [config.width] * config.layers
        hidden = [layer for pair in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(*pair), nn.LeakyReLU(SLOPE))]
        self.mlp = nn.Sequential(*hidden, nn.Linear(config.width, 1))

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        if owner is None:
            owner = self.shell.owner(points.detach(), self.owner_rule)
            owner = torch.where(owner < 0, self.shell.outer_gap(points.detach())[1], owner)
        offset = points - self.shell.centers[owner]
        if self.config.local:
            offset = offset / self.shell.outer_radii[owner, None]
        phase = (offset[:, :, None] * self.frequencies).flatten(1)
        output = self.mlp(torch.cat([nn.functional.embedding(owner, self.latents), phase.sin(), phase.cos()], 1))[:, 0]
        return output.tanh() if self.config.output == "tanh" else output * self.shell.thickness[owner]

    def storage(self) -> dict[str, int]:
        return {
            "latents": self.latents.nbytes,
            "mlp": sum(parameter.nbytes for parameter in self.mlp.parameters()),
            "spheres": sum(buffer.nbytes for buffer in self.shell.buffers()),
        }
