"""Neural Implicit: the weights of one small MLP are the shape (Davies et al. 2020, arXiv
2009.09808)."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from dss.config import Count, Layers, Settings
from dss.errors import InputError
from dss.fields.base import Field, Geometry
from dss.files import is_file, replacing
from dss.shell.io import stored_values

ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "tanh": nn.Tanh, "softplus": nn.Softplus}


class NeuralImplicitSettings(Settings):
    method: Literal["neural_implicit"] = "neural_implicit"
    layers: Layers = 8  # hidden layers
    width: Count = 32  # of each hidden layer
    activation: Literal["relu", "elu", "tanh", "softplus"] = "relu"  # of the hidden layers

    def least_parameters(self) -> int:
        return self.width * (3 + (self.layers - 1) * self.width)


class NeuralImplicitField(Field):
    """f(x) = tanh(MLP(x)) on the whole cube, initialised as Keras does: Glorot uniform kernels,
    zero biases."""

    Settings = NeuralImplicitSettings

    def __init__(self, settings: NeuralImplicitSettings, geometry: Geometry):
        super().__init__()
        self.settings = settings
        widths = [3] + [settings.width] * settings.layers
        hidden = [
            part
            for pair in pairwise(widths)
            for part in (nn.Linear(*pair), ACTIVATIONS[settings.activation]())
        ]
        self.mlp = nn.Sequential(*hidden, nn.Linear(settings.width, 1), nn.Tanh())
        for layer in self._dense():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _dense(self) -> list[nn.Linear]:
        return [layer for layer in self.mlp if isinstance(layer, nn.Linear)]

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        return self.mlp(points)[:, 0]

    def storage(self) -> dict[str, int]:
        return {"mlp": sum(parameter.nbytes for parameter in self.mlp.parameters())}

    @classmethod
    def from_weights(
        cls, path: Path, settings: NeuralImplicitSettings, geometry: Geometry
    ) -> "NeuralImplicitField":
        """The network in a Keras .h5 weight file. Raises InputError where it is damaged, or has
        other layers than `settings`."""
        field = cls(settings, geometry)
        expected = [
            shape for layer in field._dense() for shape in (layer.weight.T.shape, layer.bias.shape)
        ]
        try:
            if not is_file(path):
                raise FileNotFoundError("No such file")
            with h5py.File(path) as file:
                datasets = list(_datasets(file))
                shapes = [dataset.shape for dataset in datasets]
                arrays = (
                    [torch.from_numpy(stored_values(data, file)).float() for data in datasets]
                    if shapes == expected
                    else []
                )
        except Exception as error:  # h5py raises a dozen kinds on damaged files
            raise InputError(
                f"{path}: not a Keras weight file (.h5), or damaged ({error}); get the file again"
            ) from error
        if shapes != expected:
            found, wanted = (
                " ".join("x".join(map(str, shape)) for shape in each) or "no arrays"
                for each in (shapes, expected)
            )
            raise InputError(
                f"{path}: holds {found}, not {wanted}; set field.layers and field.width to those "
                "of the file"
            )
        if not all(array.isfinite().all() for array in arrays):
            raise InputError(
                f"{path}: holds weights that are NaN or infinite; its fit has failed, choose "
                "another file"
            )
        with torch.no_grad():
            for layer, kernel, bias in zip(field._dense(), arrays[::2], arrays[1::2], strict=True):
                layer.weight.copy_(kernel.T)
                layer.bias.copy_(bias)
        return field

    def to_weights(self, path: Path) -> None:
        """Write the network as Keras' `save_weights` does, for the authors' mesher and renderer."""
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            names = ["dense", *(f"dense_{number}" for number in range(1, len(self._dense())))]
            file.attrs.update(
                backend="tensorflow", keras_version="2.2.4-tf", layer_names=np.array(names, "S")
            )
            for name, layer in zip(names, self._dense(), strict=True):
                parts = {f"{name}/kernel:0": layer.weight.T, f"{name}/bias:0": layer.bias}
                group = file.create_group(name)
                group.attrs["weight_names"] = np.array(list(parts), "S")
                for part, value in parts.items():
                    group[part] = value.detach().cpu().numpy()


def _datasets(file: h5py.File) -> Iterator[h5py.Dataset]:
    """Kernel and bias of layer after layer. The order is that of the attribute: the groups' own is
    alphabetical, and puts dense_10 before dense_2. Layers without weights, such as the input, have
    empty groups."""
    for layer in file.attrs["layer_names"]:
        group = file[layer]
        for name in group.attrs["weight_names"]:
            yield group[name]
