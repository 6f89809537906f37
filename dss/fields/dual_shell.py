"""The method this project exists for: one MLP in the interlayer, with a latent vector per sphere (dss.md, section 5)."""

import torch
from torch import Tensor, nn

from dss import ops
from dss.config import FieldConfig
from dss.fields.base import Field
from dss.shell import DualShell

ACTIVATIONS = {"leaky_relu": lambda: nn.LeakyReLU(0.1), "silu": nn.SiLU}


class DualShellField(Field):
    """f(x) = MLP([latent of the owner, positional encoding of the offset from its centre]).

    `local`: the offset is divided by the outer radius, so that every sphere sees the unit ball.
    `output`: `tanh` as in the paper, or `radial`: the network answers in units of the shell's thickness, from the sphere
    midway between inner and outer on, whose distance is near the truth already and has slope 1.
    Points that no outer sphere contains are answered by the nearest one.
    """

    def __init__(self, config: FieldConfig, shell: DualShell):
        super().__init__(shell, config.owner)
        self.config = config
        self.latents = nn.Parameter(torch.rand(len(shell), config.latent))
        self.register_buffer("frequencies", config.base_frequency * 2.0 ** torch.arange(config.octaves), persistent=False)
        widths = [config.latent + 6 * config.octaves] + [config.width] * config.layers
        hidden = [layer for pair in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(*pair), ACTIVATIONS[config.activation]())]
        self.mlp = nn.Sequential(*hidden, nn.Linear(config.width, 1))

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        if owner is None:
            owner = self._nearest(points)
        if not torch.is_grad_enabled():
            return ops.shell_field(self.shell.packed, self.network(), points, owner)[0]
        offset = points - self.shell.centers[owner]
        radius = offset.norm(dim=1)
        if self.config.local:
            offset = offset / self.shell.outer_radii[owner, None]
        phase = (offset[:, :, None] * self.frequencies).flatten(1)
        output = self.mlp(torch.cat([nn.functional.embedding(owner, self.latents), phase.sin(), phase.cos()], 1))[:, 0]
        if self.config.output == "tanh":
            return output.tanh()
        middle = 0.5 * (self.shell.inner_radii + self.shell.outer_radii)[owner]
        return radius - middle + output * self.shell.thickness[owner]

    def gradient(self, points: Tensor) -> Tensor:
        return ops.shell_field(self.shell.packed, self.network(), points, self._nearest(points), gradient=True)[1]

    @torch.no_grad()
    def network(self) -> ops.Network:
        """The MLP as the operators take it: a latent only enters the first layer, and becomes a bias of its own there."""
        config, (first, *rest) = self.config, [layer for layer in self.mlp if isinstance(layer, nn.Linear)]
        with torch.autocast(self.latents.device.type, enabled=False):
            table = torch.addmm(first.bias, self.latents, first.weight[:, : config.latent].T)
        weights = [first.weight[:, config.latent :], *(parameter for layer in rest for parameter in (layer.weight, layer.bias))]
        sizes = (config.layers, config.width, config.octaves, config.local, config.activation == "silu", config.output == "radial")
        return ops.Network(table, torch.cat([weight.flatten() for weight in weights]), sizes, config.base_frequency)

    def _nearest(self, points: Tensor) -> Tensor:
        """Owners (n,) of points, outside all outer spheres the nearest one."""
        owner = self.shell.owner(points, self.owner_rule)
        return torch.where(owner < 0, self.shell.outer_gap(points)[1], owner)

    def _completed(self, points: Tensor) -> Tensor:
        result = ops.shell_sdf(self.shell.packed, self.network(), points, self.owner_rule)
        doubtful = (result < 0).nonzero()[:, 0]  # the sign outside all outer spheres is the prediction's, and may be wrong there
        result[doubtful] *= torch.where(self.shell.exterior(points[doubtful]), -1.0, 1.0)
        return result

    def storage(self) -> dict[str, int]:
        return {
            "latents": self.latents.nbytes,
            "mlp": sum(parameter.nbytes for parameter in self.mlp.parameters()),
            "spheres": sum(buffer.nbytes for buffer in self.shell.buffers()),
        }
