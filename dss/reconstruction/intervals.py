"""Samples of rays, packed: as many sections per ray as it needs, one after the other."""

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-7  # of a transmittance, which so never becomes 0 (NeuS)


class Sections(NamedTuple):
    """Stretches of n rays, sorted by ray, then front to back and disjoint; models are evaluated at their midpoints."""

    ray: Tensor  # (m,) int64
    start: Tensor  # (m,) float32, in units of the direction's length
    end: Tensor  # (m,) float32
    label: Tensor  # (m,) int64: sections of one ray with the same label lie in the same interval

    @property
    def middle(self) -> Tensor:
        return (self.start + self.end) / 2

    @property
    def length(self) -> Tensor:
        return self.end - self.start


def between(t: Tensor, label: Tensor, ray: Tensor, last: float) -> Sections:
    """The sections between neighbours of t (n, k) with one label (n, k), of the rays (n,); the last is `last` long (NeuS)."""
    end = torch.cat([t[:, 1:], t[:, -1:] + last], 1)
    same = torch.cat([label[:, 1:] == label[:, :-1], torch.ones_like(label[:, :1], dtype=torch.bool)], 1)
    return Sections(ray[:, None].expand_as(t)[same], t[same], end[same], label[same])


def union(ray: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Disjoint intervals, ray, start and end (k,), that cover the same as the given ones (m,), which are sorted by ray and start."""
    if not len(ray):
        return ray, start, end
    # Times of later rays are beyond those of earlier ones, so that one running maximum serves them all.
    shift = ray.double() * (2 * end.max().double() + 1)
    reach = (end.double() + shift).cummax(0).values
    first = torch.ones_like(ray, dtype=torch.bool)
    first[1:] = (start[1:].double() + shift[1:] > reach[:-1]) | (ray[1:] != ray[:-1])
    last = torch.cat([first[1:], first.new_ones(1)])
    return ray[first], start[first], (reach - shift)[last].to(end)


def divide(ray: Tensor, start: Tensor, end: Tensor, step: float, least: int = 1, shift: Tensor | None = None) -> Sections:
    """Equal sections of disjoint intervals (k,), at most `step` long and at least `least` per interval.

    `shift` (k,) in [-1/2, 1/2) moves the inner borders of an interval by that share of its section.
    """
    count = ((end - start) / step).ceil().long().clamp(min=least)
    label = torch.arange(len(ray), device=ray.device).repeat_interleave(count)
    index = torch.arange(len(label), device=ray.device) - (count.cumsum(0) - count)[label]
    size = ((end - start) / count)[label]
    low = index + (0 if shift is None else shift[label] * (index > 0))
    high = index + 1 + (0 if shift is None else shift[label] * (index + 1 < count[label]))
    return Sections(ray[label], start[label] + low * size, start[label] + high * size, label)


def ranks(ray: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """The place (m,) of each section on its ray, and the number (n,) of sections per ray."""
    count = torch.bincount(ray, minlength=rays)
    return torch.arange(len(ray), device=ray.device) - (count.cumsum(0) - count)[ray], count


def weights(alpha: Tensor, ray: Tensor, rays: int) -> Tensor:
    """What each section (m,) contributes to its ray: its opacity times the transmittance before it; at most 1 in all."""
    if not len(ray):
        return alpha
    rank, count = ranks(ray, rays)
    padded = alpha.new_zeros(rays, int(count.max())).index_put((ray, rank), alpha)
    return alpha * exclusive_transmittance(padded)[ray, rank]


def exclusive_transmittance(alpha: Tensor) -> Tensor:
    """What is left of the light before each of the opacities (n, k), front to back."""
    left = torch.cumprod(1 - alpha + ROUNDING, 1).clamp(max=1)
    return torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)


def total(values: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Sums (n, ...) over the sections (m, ...) of each ray."""
    return values.new_zeros(rays, *values.shape[1:]).index_add(0, ray, values)
