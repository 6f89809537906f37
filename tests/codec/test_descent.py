"""The choice of integers, against targets that are met exactly and against all single moves."""

import pytest
import torch
from torch import nn

from dss.codec.descent import descend
from dss.codec.quantise import MIN_WIDTH, integers, laplace_bits
from dss.fields.base import Field, LinearTerms

STEP = 0.5


class Line(Field):
    """Parameters a and b alone: what they stand for is told by the terms."""

    def __init__(self, values: torch.Tensor):
        super().__init__()
        self.a, self.b = nn.Parameter(values[:5].clone()), nn.Parameter(values[5:].clone())
        self.code_steps = {name: torch.tensor([STEP]) for name in "ab"}

    def forward(self, points, owner=None):
        raise NotImplementedError


def numbers(field: Line) -> torch.Tensor:
    return torch.cat(list(integers(field, field.code_steps).values()))


@pytest.fixture
def problem():
    """300 errors of three parameters each, out of 12, and integers at which they were taken."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.stack([torch.randperm(12, generator=generator)[:3] for _ in range(300)])
    slope = torch.randn(300, 3, generator=generator)
    start = torch.randint(-3, 4, (12,), generator=generator)
    start[:2], start[5:7] = torch.tensor([-9, 9]), torch.tensor([-9, 9])  # how far moves may go
    return parameter, slope, start


def errors(problem, target: torch.Tensor) -> torch.Tensor:
    parameter, slope, start = problem
    return (slope * STEP * (start - target)[parameter]).sum(1)


def test_integers_that_meet_all_samples_are_found(problem):
    parameter, slope, start = problem
    target = start + torch.tensor([0, 0, 1, -1, 2, 0, 0, 1, 1, -2, 3, -3])
    field = Line(STEP * start.float())
    descend(field, LinearTerms(errors(problem, target), parameter, slope), 0.0)
    assert torch.equal(numbers(field), target)


@pytest.mark.parametrize("rate_weight", [0.0, 0.02, 10.0])
def test_no_single_move_is_better_than_what_is_found(problem, rate_weight):
    parameter, slope, start = problem
    noise = torch.randn(300, generator=torch.Generator().manual_seed(1))
    error = errors(problem, start + 1) + noise
    field = Line(STEP * start.float())
    descend(field, LinearTerms(error, parameter, slope), rate_weight)
    center = torch.cat([part.median().expand(len(part)) for part in (start[:5], start[5:])])
    spread = [(part - part.median()).abs().float().mean() for part in (start[:5], start[5:])]
    width = MIN_WIDTH + torch.cat([spread[0].expand(5), spread[1].expand(7)])

    def cost(number):
        moved = error + (slope * STEP * (number - start)[parameter]).sum(1)
        return moved.abs().mean() + rate_weight * laplace_bits(number - center, width).sum()

    found = numbers(field)
    assert cost(found) < cost(start) - 1e-3
    for one in range(12):
        for move in (-2, -1, 1, 2):
            other = found.clone()
            other[one] += move
            if other[one].abs() > 9:
                continue  # beyond the integers that there were
            assert cost(other) > cost(found) - 1e-5
