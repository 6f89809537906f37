"""Key Spheres: an MLP of the point and of a blend of what the key spheres know (DCC 2022, arXiv
2201.07486)."""

import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dss.config import Count, Layers, Settings
from dss.errors import InputError
from dss.fields.base import Field, Geometry, Samples
from dss.files import is_file

if TYPE_CHECKING:
    from dss.config import MeshConfig
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

VOXELS = 64  # of the authors' 128^3 grid, per unit: their centre c lies at (c - VOXELS) / VOXELS
MAX_BYTES = 1 << 28  # of a file of weights; the authors' have a ten thousandth
MAX_PAIRS = 1 << 24  # of a point and a sphere, computed at once: bounds memory
# theirs: ours
RENAMED = {
    "net.model.": "mlp.",
    "sphereNet.model.0.": "shared.",
    "spherelatent": "latents",
    "sphere32": "spheres",
}


class KeySpheresSettings(Settings):
    method: Literal["key_spheres"] = "key_spheres"
    features: Literal["shared", "latent", "folded"] = "shared"  # of a sphere, see KeySpheresField
    feature: Count = 29  # floats per feature; `folded` has none
    layers: Layers = 6  # hidden layers
    width: Count = 32  # of each hidden layer
    sphere_file: str = ""  # the authors' text file; empty: made as the section `spheres` says

    def least_parameters(self) -> int:
        return self.width * (self.layers - 1) * self.width


class KeySpheresField(Field):
    """f(x) = tanh(MLP([x, y(x)])), y(x) the mean of the spheres' features, weighted by the
    distances |x - c_j|.

    `features`: `shared` maps every sphere (c, sdf(c)) by one linear layer (the authors'
    architecture 1); `latent` learns one per sphere (architecture 2). As the weights sum to 1, the
    shared map of a blend is the blend of the maps, an affine image of 4 numbers: `folded` moves it
    into the MLP's first layer, the same function of fewer parameters.

    spheres (M, 4) float32: centre, and the signed distance there.
    """

    Settings = KeySpheresSettings
    samplings = ("importance", "near")
    geometry_keys = ("spheres",)

    def __init__(self, settings: KeySpheresSettings, geometry: Geometry):
        super().__init__()
        self.settings = settings
        self.register_buffer("spheres", geometry["spheres"])
        if settings.features == "latent":
            self.latents = nn.Parameter(0.01 * torch.randn(len(self.spheres), settings.feature))
        else:
            self.shared = nn.Linear(4, settings.feature)
        widths = [3 + settings.feature] + [settings.width] * settings.layers
        hidden = [
            part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.LeakyReLU(0.1))
        ]
        self.mlp = nn.Sequential(*hidden, nn.Linear(settings.width, 1), nn.Tanh())
        if settings.features == "folded":
            self._fold()

    @torch.no_grad()
    def _fold(self) -> None:
        """Replace the shared map and the first layer, [x, s] -> W [x, A s + a] + b, by their
        product."""
        first = self.mlp[0]
        of_point, of_feature = first.weight.double().split([3, self.settings.feature], 1)
        folded = nn.Linear(3 + 4, self.settings.width)
        folded.weight.copy_(torch.cat([of_point, of_feature @ self.shared.weight.double()], 1))
        folded.bias.copy_(first.bias.double() + of_feature @ self.shared.bias.double())
        self.mlp[0] = folded
        del self.shared

    @classmethod
    def build_geometry(
        cls, mesh: "Mesh", distance: "MeshDistance", config: "MeshConfig"
    ) -> dict[str, Tensor]:
        """The key spheres: of the text file, or as the section `spheres` says. Radii are distances
        anew: the text file's are off by up to a voxel. Those of a field to be coded are of a
        lattice."""
        from dss.shell.configured import key_spheres
        from dss.shell.lattice import Lattice

        if config.field.sphere_file:
            centers = read_spheres(config.field.sphere_file)[:, :3]
        else:
            centers, _ = key_spheres(distance, config.spheres, config.seed)
        sdf = distance.sdf(centers)
        if lattice := Lattice.of(config):
            balls = lattice.balls(distance, centers)
            centers, sdf = balls[:, :3], -balls[:, 3]
        return {"spheres": torch.from_numpy(np.column_stack([centers, sdf]).astype(np.float32))}

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        return self._answer(points, self._blend(points))

    def loss(self, samples: Samples, error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The spheres join every batch: each centre with its own sphere's feature, unblended, and
        its distance."""
        centers, sdf = self.spheres.split([3, 1], 1)
        predicted = self._answer(
            torch.cat([samples.points, centers]),
            torch.cat([self._blend(samples.points), self._known]),
        )
        return error(predicted, torch.cat([samples.sdf, sdf[:, 0]]))

    @property
    def _known(self) -> Tensor:
        """What is blended: (M, 4) spheres or (M, feature) latents."""
        return self.latents if self.settings.features == "latent" else self.spheres

    def _blend(self, points: Tensor) -> Tensor:
        parts = []
        for part in points.split(MAX_PAIRS // len(self.spheres) + 1):
            weight = torch.cdist(
                part, self.spheres[:, :3], compute_mode="donot_use_mm_for_euclid_dist"
            )
            parts.append(nn.functional.normalize(weight, p=1, dim=1) @ self._known)
        return torch.cat(parts)

    def _answer(self, points: Tensor, blend: Tensor) -> Tensor:
        feature = self.shared(blend) if self.settings.features == "shared" else blend
        return self.mlp(torch.cat([points, feature], 1))[:, 0]

    def storage(self) -> dict[str, int]:
        parts = {"spheres": self.spheres.nbytes}
        for name, parameter in self.named_parameters():
            part = name.partition(".")[0]
            parts[part] = parts.get(part, 0) + parameter.nbytes
        return parts

    @classmethod
    def from_weights(
        cls, path: Path, settings: KeySpheresSettings, geometry: Geometry
    ) -> "KeySpheresField":
        """The network in the authors' .pth file, with the file's own spheres; `folded` where
        `settings` says so.

        Also takes the field.safetensors of a run, which folds a field that was fitted as `shared`.
        Raises InputError where the file is damaged, holds anything but tensors, or has other layers
        than `settings`.
        """
        state = read_weights(path)
        spheres = state.get("spheres", torch.empty(0))
        if spheres.ndim != 2 or spheres.shape[1] != 4 or not len(spheres):
            raise InputError(
                f"{path}: no Key Spheres network (no sphere32 of 4 columns); give one of the "
                "authors' .pth files"
            )
        features = "shared" if settings.features == "folded" else settings.features
        field = cls(settings.model_copy(update={"features": features}), {"spheres": spheres})
        found, wanted = (
            {name: tuple(value.shape) for name, value in each.items()}
            for each in (state, field.state_dict())
        )
        if found != wanted:
            name = next(name for name in [*wanted, *found] if found.get(name) != wanted.get(name))
            keys = "field.features, field.feature, field.layers and field.width"
            remedy = f"set {keys} to those of the file"
            raise InputError(
                f"{path}: {name} is {found.get(name, 'missing')}, not "
                f"{wanted.get(name, 'there')}; {remedy}"
            )
        if not all(value.isfinite().all() for value in state.values()):
            raise InputError(
                f"{path}: holds weights that are NaN or infinite; its fit has failed, choose "
                "another file"
            )
        field.load_state_dict(state)
        if settings.features == "folded":
            field.settings = settings
            field._fold()
        return field


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of the authors' .pth file, nested dictionaries of tensors and nothing else, by
    our names; or of a run's field.

    Nothing in the file is executed. Raises InputError where it is damaged, or holds anything but
    tensors.
    """
    try:
        # Converting warns of the kinds of tensor that are refused below
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            leaves = _leaves(_read_tree(Path(path)), "")
    except Exception as error:  # torch, zipfile and its reader of pickles raise a dozen kinds
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not a file of plain tensors, or damaged ({reason}); give a .pth of the "
            "authors"
        ) from error
    tensors = {}
    for name, value in leaves:
        if not isinstance(value, Tensor):
            raise InputError(
                f"{path}: holds a {type(value).__name__} ({name or 'at its top'}), where only "
                "tensors are expected"
            )
        if not _is_plain(value):
            raise InputError(
                f"{path}: {name} is no dense tensor of floats that the file holds in full; give a "
                ".pth of the authors"
            )
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        tensors[name] = value.detach().float()
    return tensors


def _read_tree(path: Path) -> Any:
    """What a file of weights holds, not checked."""
    if not is_file(path):
        raise FileNotFoundError("No such file")
    if path.suffix == ".safetensors":
        return load_file(path)
    if not zipfile.is_zipfile(path):
        raise ValueError("no zip archive")
    with zipfile.ZipFile(path) as archive:
        if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
            raise ValueError(f"longer than {MAX_BYTES:,} bytes")
    # With `weights_only` this is a reader of tensors and plain values, and refuses what would run.
    return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251


def _is_plain(value: Tensor) -> bool:
    """Not sparse, quantised, nested or without data, and no view that repeats a few numbers."""
    dense = value.layout == torch.strided and not (value.is_quantized or value.is_nested)
    if not dense or value.is_meta or not value.is_floating_point():
        return False
    return value.nbytes <= value.untyped_storage().nbytes()


def _leaves(tree: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(name, tree)]
    return [
        leaf
        for key, value in tree.items()
        for leaf in _leaves(value, f"{name}.{key}" if name else str(key))
    ]


def read_spheres(path: Path | str) -> np.ndarray:
    """The authors' sphere file as (M, 4) float64 in the normalised frame: centre and radius.

    Text: M; then M lines `x y z r flag` in voxels of a 128^3 grid; then the number of edges of
    their graph, 0. Raises InputError where it is not such a file, or does not hold as many spheres
    as it says.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(
            f"{path}: no such sphere file; correct field.sphere_file, or leave it empty to have "
            "spheres made"
        )
    first, *lines = path.read_text("utf-8", errors="replace").split("\n")
    try:
        count = int(first)
        spheres = np.array(
            [line.split() for line in lines if len(line.split()) == 5], np.float64
        ).reshape(-1, 5)
    except ValueError as error:
        raise InputError(
            f"{path}: not a sphere file ({error}); its lines are the count, then `x y z r flag`"
        ) from error
    if len(spheres) != count or not count:
        raise InputError(
            f"{path}: says {count} spheres and holds {len(spheres)}; get the whole file"
        )
    if not np.isfinite(spheres).all() or (spheres[:, 3] < 0).any():
        raise InputError(
            f"{path}: a sphere is NaN, infinite or of negative radius; get the file again"
        )
    if (spheres[:, :4] < 0).any() or (spheres[:, :4] > 2 * VOXELS).any():
        raise InputError(
            f"{path}: a sphere lies outside the authors' grid of {2 * VOXELS} voxels; get the file "
            "again"
        )
    return np.column_stack([spheres[:, :3] - VOXELS, spheres[:, 3]]) / VOXELS
