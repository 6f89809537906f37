"""What a fit minimises: the error of a prediction, and how much each sample counts."""

import torch
from torch import Tensor

CLAMP = 0.1  # distance beyond which the loss `clamp` asks for no more (DeepSDF)
FOCUS = 50.0  # the loss `weighted` weighs by exp(-FOCUS |sdf|) (Neural Implicit)
MIN_WEIGHT = 0.05  # of a sample far from the surface, where the fit has a band
LOSSES = {
    "l1": lambda predicted, true: (predicted - true).abs(),
    "l2": lambda predicted, true: (predicted - true).square(),
    "clamp": lambda predicted, true: (
        predicted.clamp(-CLAMP, CLAMP) - true.clamp(-CLAMP, CLAMP)
    ).abs(),
    "weighted": lambda predicted, true: (predicted - true).abs() * torch.exp(-FOCUS * true.abs()),
}


def mean_error(predicted: Tensor, true: Tensor, loss: str, band: float) -> Tensor:
    """The mean loss of predictions (n,) against true distances (n,), a scalar; one of LOSSES.

    With a `band` above 0, a sample weighs MIN_WEIGHT + exp(-|sdf| / band).
    """
    error = LOSSES[loss](predicted.float(), true)
    if band > 0:
        error = error * (MIN_WEIGHT + torch.exp(-true.abs() / band))
    return error.mean()
