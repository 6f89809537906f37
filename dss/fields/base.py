"""The contract of every method: points in, signed distances out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from dss import ops
from dss.config import Settings
from dss.errors import InputError
from dss.shell.dual_shell import DualShell

if TYPE_CHECKING:
    from dss.config import MeshConfig
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

# what a field is built on and does not learn, by the names in its state dict
Geometry = dict[str, Tensor]
CHUNK = 1 << 18  # points per evaluation: bounds memory


@dataclass(frozen=True)
class Samples:
    """What a field learns from: points (n, 3) float32, owner (n,) int64, sdf (n,) float32."""

    points: Tensor
    owner: Tensor
    sdf: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Tensor) -> "Samples":
        return Samples(self.points[index], self.owner[index], self.sdf[index])

    def to(self, device: torch.device) -> "Samples":
        return Samples(self.points.to(device), self.owner.to(device), self.sdf.to(device))


@dataclass(frozen=True)
class LinearTerms:
    """Errors (n,) of samples at which a field is linear in k of its parameters: the numbers of
    those (n, k), int64, in the order of `named_parameters`, and the slopes (n, k)."""

    error: Tensor
    parameter: Tensor
    slope: Tensor


class Field(nn.Module, ABC):
    """A map from points (n, 3) float32 in the normalised frame to signed distances (n,), negative
    inside.

    `shell` is None for a method that answers everywhere by itself. With a shell, `forward` is
    trusted in the interlayer only, and `sdf` completes it to the whole space.

    A method is one file: its settings, and a subclass made from `(settings, geometry)`.
    """

    Settings: ClassVar[type[Settings]] = Settings
    # the methods of sampling that it can learn from
    samplings: ClassVar[tuple[str, ...]] = ("importance", "near", "oriented")
    # names of the geometry's tensors, the same in the state dict
    geometry_keys: ClassVar[tuple[str, ...]] = ()
    # what docs/method.md, section 9, calls the rule by which its own tracer, `trace`, hits, as the
    # method's authors published it; empty: it has none, and is traced like any other field
    hit_rule: ClassVar[str] = ""
    # first words of the names of parameters (n, d) or (n,) that are n vectors or numbers; when they
    # are coded, each of their d dimensions has its own step
    latent_keys: ClassVar[tuple[str, ...]] = ("latents",)

    def __init__(self, shell: DualShell | None = None, owner_rule: str = "relative"):
        super().__init__()
        self.shell, self.owner_rule = shell, owner_rule
        # Of a field that was fitted to be coded: its parameters are integers times these steps,
        # float32 (1,), or (d,) of latents of dimension d.
        self.code_steps: dict[str, Tensor] | None = None

    @classmethod
    def build_geometry(
        cls, mesh: "Mesh", distance: "MeshDistance", config: "MeshConfig"
    ) -> Geometry:
        """What the field is built on and does not learn, such as a shell, taken from the mesh:
        tensors named `geometry_keys`."""
        return {}

    @classmethod
    def from_weights(cls, path: Path, settings: Settings, geometry: Geometry) -> "Field":
        """The field that the method's authors stored in `path`. Raises InputError where that is not
        possible."""
        raise InputError(
            f"{path}: {settings.method} has no weight files of other programs to import; leave "
            "out --weights"
        )

    def to_weights(self, path: Path) -> None:
        """Write the field as the method's authors store theirs. Raises InputError where there is no
        such format."""
        method = self.Settings.model_fields["method"].default
        raise InputError(
            f"{path}: {method} has no weight files of other programs to export; leave out --weights"
        )

    @property
    def device(self) -> torch.device:
        """Where the field computes, and its points belong."""
        return next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))

    def owned(self, samples: Samples) -> Samples:
        """The samples with the owners that the field learns them by, where it has its own."""
        return samples

    @abstractmethod
    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        """Raw prediction (n,), differentiable. `owner` (n,) int64 names each point's sphere; None
        lets the field choose."""

    def loss(self, samples: Samples, error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What a step of the fit minimises; `error` maps predictions (n,) and true distances (n,)
        to a scalar."""
        return error(self(samples.points, samples.owner), samples.sdf)

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Total signed distance (n,) of points (n, 3): defined everywhere, with the right sign
        (docs/method.md, section 8)."""
        part = self if self.shell is None else self._completed
        return torch.cat([part(chunk) for chunk in points.split(CHUNK)])

    def _completed(self, points: Tensor) -> Tensor:
        """The prediction in the interlayer; inside an inner sphere and outside all outer ones, the
        shell's own bound."""
        owner = self.shell.owner(points, self.owner_rule)
        result = self.shell.inner_gap(points)
        interlayer = (owner >= 0) & (result >= 0)
        result[interlayer] = result[interlayer].minimum(self(points[interlayer], owner[interlayer]))
        outside = owner < 0
        result[outside] = self._beyond(points[outside])
        return result

    def _beyond(self, points: Tensor) -> Tensor:
        """Outside all outer spheres: the distance to them. No surface lies between a point and the
        nearest outer sphere, so in a pocket deep inside the solid the prediction there has the
        right sign."""
        gap, nearest = self.shell.outer_gap(points)
        pocket = ~self.shell.exterior(points)
        center = self.shell.centers[nearest[pocket]]
        direction = torch.nn.functional.normalize(points[pocket] - center, dim=1)
        boundary = center + direction * self.shell.outer_radii[nearest[pocket], None]
        gap[pocket] *= torch.where(self(boundary, nearest[pocket]) < 0, -1.0, 1.0)
        return gap

    def linear_terms(self, samples: Samples) -> LinearTerms | None:
        """The errors at samples as linear functions of a few parameters each; None where the field
        is not linear."""
        return None

    def network(self) -> ops.Network | None:
        """What the operators need to trace this field in one go; None where they cannot."""
        return None

    def trace(self, origins: Tensor, directions: Tensor) -> ops.VoxelHits:
        """First hits of rays, origins and unit directions (n, 3), by the rule `hit_rule`."""
        raise NotImplementedError

    def gradient(self, points: Tensor) -> Tensor:
        """Gradient (n, 3) of the raw prediction at points (n, 3), owners chosen by the field."""
        if not len(points):  # their predictions may depend on nothing, which autograd refuses
            return points.new_zeros(0, 3)
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            return torch.autograd.grad(self(points).sum(), points)[0]

    def storage(self) -> dict[str, int]:
        """Bytes by part as stored. A method overrides it to name its parts."""
        return {"parameters": sum(parameter.nbytes for parameter in self.parameters())}

    def resident_bytes(self) -> int:
        """Bytes that must be in memory to answer a signed distance: what is stored, and the tree
        of the shell."""
        tree = 0 if self.shell is None else self.shell.packed.tree.nbytes
        return sum(self.storage().values()) + tree
