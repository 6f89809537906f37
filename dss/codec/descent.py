"""Integers chosen one by one, by what they do to error and bits (docs/method.md, section 6)."""

import torch
from torch import Tensor

from dss.codec.quantise import MIN_WIDTH, dequantised, integers, laplace_bits
from dss.fields.base import Field, LinearTerms

SWEEPS = 10  # over all integers, at most
MOVES = (-2, -1, 1, 2)  # of an integer, in one visit


@torch.no_grad()
def descend(field: Field, terms: LinearTerms, rate_weight: float) -> None:
    """Move the integers of a field, which has `code_steps`, where that lowers the mean of the
    errors' absolute values + `rate_weight` times the bits, until no move does.

    Parameters of which no error depends on two are moved at once. That is exact: every error is
    linear in them.
    """
    device, tensors = terms.error.device, integers(field, field.code_steps)
    steps = {name: step.to(device) for name, step in field.code_steps.items()}
    parts = [part.to(device).flatten() for part in tensors.values()]
    number, sizes = torch.cat(parts), [len(part) for part in parts]

    def spread(values: list[Tensor]) -> Tensor:
        """The tensors' values, each for all integers of its tensor."""
        return torch.cat([value.expand(size) for value, size in zip(values, sizes, strict=True)])

    center = spread([part.median() for part in parts])
    width = MIN_WIDTH + spread([(part - part.median()).abs().float().mean() for part in parts])
    lowest, highest = spread([part.min() for part in parts]), spread([part.max() for part in parts])
    step = torch.cat([steps[name].expand_as(part).flatten() for name, part in tensors.items()])
    slope = terms.slope * step[terms.parameter]
    error, groups = terms.error.clone(), _groups(terms.parameter, len(number))
    for _ in range(SWEEPS):
        before = number.clone()
        for group in range(int(groups.max()) + 1):
            row, column = (groups[terms.parameter] == group).nonzero(as_tuple=True)
            parameter, change = terms.parameter[row, column], slope[row, column]
            least, move = torch.zeros(len(number), device=device), torch.zeros_like(number)
            for trial in MOVES:
                gain = (error[row] + trial * change).abs() - error[row].abs()
                cost = torch.zeros_like(least).index_add_(0, parameter, gain) / len(error)
                moved = number + trial
                bits = laplace_bits(moved - center, width) - laplace_bits(number - center, width)
                inside = (moved >= lowest) & (moved <= highest)  # which the tables reach
                cost += rate_weight * bits
                better = (groups == group) & inside & (cost < least)
                least, move[better] = torch.where(better, cost, least), trial
            number += move
            error[row] += move[parameter] * change
        if torch.equal(number, before):
            break
    for (name, tensor), part in zip(tensors.items(), number.split(sizes), strict=True):
        field.get_parameter(name).copy_(dequantised(part.reshape(tensor.shape), steps[name]))


def _groups(parameter: Tensor, count: int) -> Tensor:
    """A number (count,) for each parameter, different for those that an error shares; `parameter`
    (n, k) has those of each error."""
    shared = [set() for _ in range(count)]
    for row in torch.unique(parameter, dim=0).tolist():
        for one in row:
            shared[one].update(row)
    groups = [-1] * count
    for one, others in enumerate(shared):
        used = {groups[other] for other in others}
        groups[one] = next(group for group in range(len(used) + 1) if group not in used)
    return torch.tensor(groups, device=parameter.device)
