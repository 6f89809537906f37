"""The method this project exists for: one MLP in the interlayer, with a latent vector per sphere
(docs/method.md, section 5)."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from dss import ops
from dss.config import Count, Layers, Positive, Settings
from dss.fields.base import Field, Geometry
from dss.shell.dual_shell import DualShell

if TYPE_CHECKING:
    from dss.config import MeshConfig
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

ACTIVATIONS = {"leaky_relu": lambda: nn.LeakyReLU(0.1), "silu": nn.SiLU}


class DualShellSettings(Settings):
    method: Literal["dual_shell"] = "dual_shell"
    owner: Literal["smallest", "relative"] = (
        "relative"  # the sphere that answers for a point, see DualShell.owner
    )
    latent: Count = 32  # floats per sphere
    layers: Layers = 2  # hidden layers
    width: Count = 128  # of each hidden layer
    octaves: Count = 4  # of the positional encoding
    base_frequency: Positive = 1.0  # of the lowest octave, radians per unit of the offset
    local: bool = True  # divide the offset from the centre by the outer radius
    activation: Literal["leaky_relu", "silu"] = "silu"  # of the hidden layers
    output: Literal["tanh", "radial"] = (
        "radial"  # the paper's bounded output, or thicknesses from the middle of the layer
    )

    def least_parameters(self) -> int:
        inputs = self.latent + 6 * self.octaves
        return self.latent + self.width * (inputs + (self.layers - 1) * self.width)


class DualShellField(Field):
    """f(x) = MLP([latent of the owner, positional encoding of the offset from its centre]).

    `local`: the offset is divided by the outer radius, so that every sphere sees the unit ball.
    `output`: `tanh` as in the paper, or `radial`: the network answers in units of the shell's
    thickness, from the sphere midway between inner and outer on, whose distance is near the truth
    already and has slope 1. Points that no outer sphere contains are answered by the nearest one.
    """

    Settings = DualShellSettings
    samplings = ("pairs", "partition")
    geometry_keys = ("shell.centers", "shell.inner_radii", "shell.outer_radii")

    def __init__(self, settings: DualShellSettings, geometry: Geometry):
        shell = DualShell(*(geometry[name] for name in self.geometry_keys))
        super().__init__(shell, settings.owner)
        self.settings = settings
        self.latents = nn.Parameter(torch.rand(len(shell), settings.latent))
        self.register_buffer(
            "frequencies",
            settings.base_frequency * 2.0 ** torch.arange(settings.octaves),
            persistent=False,
        )
        widths = [settings.latent + 6 * settings.octaves] + [settings.width] * settings.layers
        activation = ACTIVATIONS[settings.activation]
        hidden = [
            layer
            for pair in zip(widths, widths[1:], strict=False)
            for layer in (nn.Linear(*pair), activation())
        ]
        self.mlp = nn.Sequential(*hidden, nn.Linear(settings.width, 1))

    @classmethod
    def build_geometry(
        cls, mesh: "Mesh", distance: "MeshDistance", config: "MeshConfig"
    ) -> Geometry:
        """The dual shell of the configured key spheres, its enclosure certified for every
        triangle. That of a field to be coded is of a lattice."""
        from dss.shell.configured import dual_shell
        from dss.shell.lattice import Lattice

        lattice = Lattice.of(config)
        return dual_shell(mesh, distance, config.spheres, config.seed, lattice).geometry

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        if owner is None:
            owner = self._nearest(points)
        if not torch.is_grad_enabled():
            return ops.shell_field(self.shell.packed, self.network(), points, owner)[0]
        offset = points - self.shell.centers[owner]
        radius = offset.norm(dim=1)
        if self.settings.local:
            offset = offset / self.shell.outer_radii[owner, None]
        phase = (offset[:, :, None] * self.frequencies).flatten(1)
        output = self.mlp(
            torch.cat([nn.functional.embedding(owner, self.latents), phase.sin(), phase.cos()], 1)
        )[:, 0]
        if self.settings.output == "tanh":
            return output.tanh()
        middle = 0.5 * (self.shell.inner_radii + self.shell.outer_radii)[owner]
        return radius - middle + output * self.shell.thickness[owner]

    def gradient(self, points: Tensor) -> Tensor:
        return ops.shell_field(
            self.shell.packed, self.network(), points, self._nearest(points), gradient=True
        )[1]

    @torch.no_grad()
    def network(self) -> ops.Network:
        """The MLP as the operators take it: a latent only enters the first layer, and becomes a
        bias of its own there."""
        settings, (first, *rest) = (
            self.settings,
            [layer for layer in self.mlp if isinstance(layer, nn.Linear)],
        )
        with torch.autocast(self.latents.device.type, enabled=False):
            table = torch.addmm(first.bias, self.latents, first.weight[:, : settings.latent].T)
        weights = [
            first.weight[:, settings.latent :],
            *(parameter for layer in rest for parameter in (layer.weight, layer.bias)),
        ]
        options = (settings.local, settings.activation == "silu", settings.output == "radial")
        sizes = (settings.layers, settings.width, settings.octaves, *options)
        return ops.Network(
            table,
            torch.cat([weight.flatten() for weight in weights]),
            sizes,
            settings.base_frequency,
        )

    def _nearest(self, points: Tensor) -> Tensor:
        """Owners (n,) of points, outside all outer spheres the nearest one."""
        owner = self.shell.owner(points, self.owner_rule)
        return torch.where(owner < 0, self.shell.outer_gap(points)[1], owner)

    def _completed(self, points: Tensor) -> Tensor:
        result = ops.shell_sdf(self.shell.packed, self.network(), points, self.owner_rule)
        # the sign outside all outer spheres is the prediction's, and may be wrong there
        doubtful = (result < 0).nonzero()[:, 0]
        result[doubtful] *= torch.where(self.shell.exterior(points[doubtful]), -1.0, 1.0)
        return result

    def storage(self) -> dict[str, int]:
        return {
            "latents": self.latents.nbytes,
            "mlp": sum(parameter.nbytes for parameter in self.mlp.parameters()),
            "spheres": sum(buffer.nbytes for buffer in self.shell.buffers()),
        }
