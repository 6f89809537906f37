"""Parameters as integers times steps: steps that are learnt together with the field, against the
bits that they cost; and steps for a field that was fitted without."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dss.codec.container import MAX_INTEGER
from dss.codec.rans import MAX_REACH
from dss.config import MeshConfig
from dss.fields.base import Field

# The steps that a file can name by a byte: 8 in each octave, from 1.2e-7 to 480, exact in float32.
STEPS = np.ldexp(8.0 + np.arange(256) % 8, np.arange(256) // 8 - 26).astype(np.float32)
FIRST_BITS = 6  # learnt steps begin at the mean deviation of their values over 2 to this
FINE_BITS = 6.5  # and of a field that was fitted without at the root mean square over 2 to this
MIN_PROBABILITY = 2.0**-16  # of an integer, as in the tables of a file
MIN_WIDTH = 1e-3  # of a distribution, in steps: bounds the gradients where all integers are equal


class Quantiser(nn.Module):
    """The steps of a field's parameters, and Laplace distributions of the integers.

    There is one of each per tensor; per column where the rows are latents (`Field.latent_keys`).
    `forward` returns the parameters as the fit shall see them. Until `codec.noise_from` of the fit
    these are the parameters as they are: none is returned. From there on, uniform noise of the size
    of a step stands for the error of rounding; from `codec.round_from` on they are rounded, and
    gradients pass as if they were not. The weight of the bits rises from 0 to `fit.rate_weight`
    during the noise.
    """

    def __init__(self, field: Field, config: MeshConfig):
        super().__init__()
        self.codec, self.rate_weight = config.codec, config.fit.rate_weight
        self.names = list(dict(field.named_parameters()))
        tables = [step_shape(field, name) for name in self.names]
        self.log_steps, self.log_widths, self.centers = (
            nn.ParameterList(torch.zeros(shape) for shape in tables) for _ in range(3)
        )
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.register_buffer("steps", torch.from_numpy(STEPS), persistent=False)
        middles = np.sqrt(STEPS[1:].astype(np.float64) * STEPS[:-1]).astype(np.float32)
        self.register_buffer("middles", torch.from_numpy(middles), persistent=False)

    def forward(self, field: Field, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """The field's parameters at `progress` of the fit, by name, and their bits."""
        if progress < self.codec.noise_from:
            return {}, torch.zeros((), device=self.steps.device)
        if not self.begun:
            self._begin(field)
        rounded, values, bits = progress >= self.codec.round_from, {}, 0.0
        for name, parameter, log_step, log_width, center in self._tensors(field):
            step = self._step(log_step)
            number = parameter / step
            if rounded:
                number = number + (number.round() - number).detach()
            else:
                number = number + torch.rand_like(number) - 0.5
            values[name] = number * step
            width = log_width.exp2() / step + MIN_WIDTH
            bits = bits + laplace_bits(number - center / step, width).sum()
        return values, bits

    def weight(self, progress: float) -> float:
        """What a bit costs at `progress` of the fit."""
        start, end = self.codec.noise_from, self.codec.round_from
        if start < progress < end:
            return self.rate_weight * (progress - start) / (end - start)
        return self.rate_weight * (progress >= end)

    @torch.no_grad()
    def finish(self, field: Field) -> None:
        """Round the field's parameters for good, and give it the steps."""
        if not self.begun:
            self._begin(field)
        field.code_steps = {
            name: self._step(log_step).cpu().maximum(_least_steps(parameter, log_step.numel()))
            for name, parameter, log_step, _, _ in self._tensors(field)
        }
        numbers = integers(field, field.code_steps)
        for name, parameter in field.named_parameters():
            parameter.copy_(dequantised(numbers[name], field.code_steps[name]))

    @torch.no_grad()
    def _begin(self, field: Field) -> None:
        """Steps and distributions from the parameters as they are."""
        for _, parameter, log_step, log_width, center in self._tensors(field):
            rows = parameter.reshape(-1, log_step.numel())
            mean = rows.mean(0)
            center.copy_(mean)
            log_width.copy_((rows - mean).abs().mean(0).log2().clamp(min=-20))
            log_step.copy_(log_width - FIRST_BITS)
        self.begun.fill_(True)

    def _step(self, log_step: Tensor) -> Tensor:
        """The nearest step of those that a file can name; gradients pass."""
        step = log_step.exp2()
        return step + (self.steps[torch.bucketize(step.detach(), self.middles)] - step).detach()

    def _tensors(self, field: Field) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
        """Name, parameter, step, width and centre of each tensor."""
        named = field.named_parameters()
        lists = self.log_steps, self.log_widths, self.centers
        for (name, parameter), *learnt in zip(named, *lists, strict=True):
            yield name, parameter, *learnt


def laplace_bits(number: Tensor, width: Tensor) -> Tensor:
    """Bits of integers, given as their distances from the centre of a Laplace distribution of mean
    absolute value `width`: the logarithm of its integral over a unit interval."""
    far = number.abs() / width
    half = 0.5 / width
    # Beyond half a unit from the centre the interval lies on one side of it.
    beside = -far + half + torch.log(-torch.expm1(-2 * half)) - math.log(2)
    near = far.minimum(half)
    middle = torch.log1p(-0.5 * (torch.exp(near - half) + torch.exp(-near - half)))
    logarithm = torch.where(far > half, beside, middle)
    return -torch.log2(logarithm.exp() + MIN_PROBABILITY)


def step_shape(field: Field, name: str) -> tuple[int, ...]:
    """(d,) for rows of latents of dimension d, else (1,): one step for all of a tensor."""
    parameter = field.get_parameter(name)
    by_column = name.split(".")[0] in field.latent_keys and parameter.ndim == 2
    return (parameter.shape[1],) if by_column else (1,)


@torch.no_grad()
def integers(field: Field, steps: dict[str, Tensor]) -> dict[str, Tensor]:
    """A field's parameters by name, in these steps, rounded; int64 on the CPU."""
    return {
        name: (parameter / steps[name].to(parameter.device)).round().long().cpu()
        for name, parameter in field.named_parameters()
    }


def restored_steps(field: Field, stored: Any) -> dict[str, Tensor] | None:
    """A field's steps from lists of numbers by parameter. Raises ValueError where they are none."""
    if stored is None:
        return None
    steps = {name: torch.tensor(stored[name], dtype=torch.float32) for name in stored}
    shapes = {name: step_shape(field, name) for name, _ in field.named_parameters()}
    if {name: tuple(step.shape) for name, step in steps.items()} != shapes:
        raise ValueError("its steps are not those of its parameters")
    if not all(np.isin(step.numpy(), STEPS).all() for step in steps.values()):
        raise ValueError("its steps are none that a file can name")
    return steps


def dequantised(number: Tensor, step: Tensor) -> Tensor:
    """An integer below 2**24 times a step, rounded to float32: the same on every machine."""
    return number.to(torch.float32) * step


@torch.no_grad()
def fine_steps(field: Field) -> dict[str, Tensor]:
    """Steps for a field that was fitted without them: so fine that rounding changes little, which
    takes about 9 bits per parameter."""
    result = {}
    for name, parameter in field.named_parameters():
        (columns,) = step_shape(field, name)
        rows = parameter.detach().cpu().double().reshape(-1, columns)
        wanted = rows.sub(rows.mean(0)).square().mean(0).sqrt() / 2**FINE_BITS
        result[name] = _step_above(wanted).maximum(_least_steps(parameter, columns))
    return result


def _least_steps(parameter: Tensor, columns: int) -> Tensor:
    """The least steps (columns,) that make integers of a parameter which a file can hold."""
    rows = parameter.detach().cpu().double().reshape(-1, columns)
    reach = (rows.amax(0) - rows.amin(0)) / (MAX_REACH - 1)  # one more, because both ends round
    return _step_above(reach.maximum(rows.abs().amax(0) / MAX_INTEGER))


def _step_above(least: Tensor) -> Tensor:
    """The smallest of STEPS that are not below `least` (d,); the largest where all are."""
    code = np.searchsorted(STEPS, least.numpy())
    return torch.from_numpy(STEPS[code.clip(max=len(STEPS) - 1)])
