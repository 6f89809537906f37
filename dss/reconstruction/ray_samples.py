"""Samples of rays, packed: each ray has as many as it needs, one ray after the other."""

from typing import NamedTuple

import torch
from torch import Tensor

from dss import ops

ROUNDING = 1e-7  # added to a transmittance, so that it never becomes 0 (NeuS)


class RaySamples(NamedTuple):
    """m samples of n rays, sorted by ray, then front to back, and disjoint.

    A sample stands for the part of its ray from `start` to `end`; models are evaluated in its
    middle. Times are in units of the direction's length.
    """

    ray: Tensor  # (m,) int64
    start: Tensor  # (m,) float32
    end: Tensor  # (m,) float32
    interval: Tensor  # (m,) int64: the same for the samples of one ray in the same interval

    @property
    def middle(self) -> Tensor:
        """Where models are evaluated, (m,) float32."""
        return (self.start + self.end) / 2

    @property
    def length(self) -> Tensor:
        """How much of the ray each sample stands for, (m,) float32."""
        return self.end - self.start


def between(t: Tensor, interval: Tensor, ray: Tensor, last: float) -> RaySamples:
    """The samples between neighbours of t (n, k) that lie in the same interval (n, k) int64.

    `ray` (n,) int64 names the rays. Beyond its last t, each ray has one more sample, which is
    `last` long (NeuS).
    """
    end = torch.cat([t[:, 1:], t[:, -1:] + last], 1)
    open_end = torch.ones_like(interval[:, :1], dtype=torch.bool)
    same = torch.cat([interval[:, 1:] == interval[:, :-1], open_end], 1)
    return RaySamples(ray[:, None].expand_as(t)[same], t[same], end[same], interval[same])


def divide(intervals: ops.Intervals, step: float, shift: Tensor | None = None) -> RaySamples:
    """Samples of equal length, at most `step`, that fill disjoint intervals, k in all.

    `shift` (k,) in [-1/2, 1/2) moves the inner borders of an interval by that share of the length.
    """
    start, size = intervals.start, intervals.end - intervals.start
    count = (size / step).ceil().long().clamp(min=1)
    interval = torch.arange(len(start), device=start.device).repeat_interleave(count)
    index = torch.arange(len(interval), device=start.device) - (count.cumsum(0) - count)[interval]
    size = (size / count)[interval]
    low, high = index, index + 1
    if shift is not None:
        low = low + shift[interval] * (index > 0)
        high = high + shift[interval] * (index + 1 < count[interval])
    start = start[interval]
    return RaySamples(intervals.ray[interval], start + low * size, start + high * size, interval)


def ranks(ray: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """The place (m,) of each sample on its ray (m,), and the number (rays,) of samples per ray."""
    count = torch.bincount(ray, minlength=rays)
    return torch.arange(len(ray), device=ray.device) - (count.cumsum(0) - count)[ray], count


def weights(alpha: Tensor, ray: Tensor, rays: int) -> Tensor:
    """What each sample contributes to its ray (m,): its opacity `alpha` (m,) times the
    transmittance before it. The weights of a ray sum to at most 1."""
    if not len(ray):
        return alpha
    rank, count = ranks(ray, rays)
    padded = alpha.new_zeros(rays, int(count.max())).index_put((ray, rank), alpha)
    return alpha * exclusive_transmittance(padded)[ray, rank]


def exclusive_transmittance(alpha: Tensor) -> Tensor:
    """The share of the light that is left before each of the opacities (n, k), front to back."""
    left = torch.cumprod(1 - alpha + ROUNDING, 1).clamp(max=1)
    return torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)


def total(values: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Sums (rays, ...) over the samples (m, ...) of each ray."""
    return values.new_zeros(rays, *values.shape[1:]).index_add(0, ray, values)
