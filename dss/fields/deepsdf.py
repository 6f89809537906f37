"""DeepSDF's network for one shape (Park et al. 2019, arXiv 1901.05103), as it is fitted to oriented
point clouds: without a latent vector, with one PReLU for all layers."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dss.config import Count, NonNegative, Settings
from dss.fields.base import Field, Geometry

HIDDEN = 7  # layers; the fourth leaves room for the point, which joins again there
JOIN = 4
ACTIVATIONS = {"prelu": nn.PReLU, "silu": nn.SiLU}


class DeepSdfSettings(Settings):
    method: Literal["deepsdf"] = "deepsdf"
    # Units of each hidden layer; three units of one layer are the point itself.
    width: Annotated[Count, Ge(4)] = 512
    dropout: Annotated[NonNegative, Le(0.9)] = (
        0.1  # share of the hidden units left out of a step; 0: none
    )
    activation: Literal["prelu", "silu"] = (
        "prelu"  # prelu: one slope for all layers; silu: smooth between the points
    )

    def least_parameters(self) -> int:
        return (HIDDEN - 2) * self.width**2


class DeepSdfField(Field):
    """f(x) = tanh(MLP(x)), hidden layers with weight normalisation, a shared PReLU and dropout."""

    Settings = DeepSdfSettings

    def __init__(self, settings: DeepSdfSettings, geometry: Geometry):
        super().__init__()
        self.settings = settings
        widths = [
            settings.width - 3 if number == JOIN else settings.width
            for number in range(1, HIDDEN + 1)
        ]
        inputs = [3] + [settings.width] * (HIDDEN - 1)
        self.hidden = nn.ModuleList(
            weight_norm(nn.Linear(*pair)) for pair in zip(inputs, widths, strict=True)
        )
        self.last = nn.Linear(settings.width, 1)
        self.activation, self.dropout = (
            ACTIVATIONS[settings.activation](),
            nn.Dropout(settings.dropout),
        )

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        x = points
        for number, layer in enumerate(self.hidden, 1):
            x = self.dropout(self.activation(layer(x)))
            if number == JOIN:
                x = torch.cat([x, points], 1)
        return self.last(x)[:, 0].tanh()
