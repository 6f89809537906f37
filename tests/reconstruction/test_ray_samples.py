import pytest
import torch

from dss import ops
from dss.reconstruction.ray_samples import (
    between,
    divide,
    exclusive_transmittance,
    ranks,
    total,
    weights,
)


def intervals(counts: list[int], start: list[float], end: list[float]) -> ops.Intervals:
    """Intervals of rays that have `counts` of them."""
    offsets = torch.tensor([0, *counts]).cumsum(0)
    sphere, stop = torch.zeros(len(start), dtype=torch.int64), torch.full((len(counts),), torch.inf)
    return ops.Intervals(offsets, torch.tensor(start), torch.tensor(end), sphere, stop)


def test_divide():
    given = intervals([1, 0, 1], [1.0, 0.0], [2.0, 0.05])
    samples = divide(given, step=0.3)
    assert samples.ray.tolist() == [0, 0, 0, 0, 2] and samples.interval.tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(samples.start, torch.tensor([1, 1.25, 1.5, 1.75, 0]))
    torch.testing.assert_close(samples.end, torch.tensor([1.25, 1.5, 1.75, 2, 0.05]))
    moved = divide(given, step=0.3, shift=torch.tensor([0.4, -0.5]))
    assert moved.start[0] == 1 and moved.end[3] == 2 and moved.end[4] == 0.05  # the ends stay
    torch.testing.assert_close(moved.start[1:4], samples.start[1:4] + 0.1)
    assert len(divide(intervals([0, 0], [], []), step=0.3).ray) == 0


def test_between_leaves_out_what_lies_between_intervals():
    t, interval = torch.tensor([[0.0, 1, 3, 4]]), torch.tensor([[0, 0, 1, 1]])
    samples = between(t, interval, torch.tensor([7]), last=0.5)
    assert samples.start.tolist() == [0, 3, 4] and samples.end.tolist() == [1, 4, 4.5]
    assert samples.ray.tolist() == [7, 7, 7] and samples.interval.tolist() == [0, 1, 1]


def test_weights_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    ray = torch.randint(0, 30, (200,), generator=generator).sort().values
    alpha = torch.rand(200, generator=generator) ** 2
    alpha[::17] = 1.0
    found = weights(alpha, ray, 33)
    left = dict.fromkeys(range(33), 1.0)
    for index in range(200):
        number = int(ray[index])
        assert found[index].item() == pytest.approx(left[number] * alpha[index].item(), abs=1e-6)
        left[number] *= 1 - alpha[index].item()
    assert total(found, ray, 33).max() <= 1 + 1e-6
    assert len(weights(alpha[:0], ray[:0], 3)) == 0


def test_weights_are_differentiable_behind_opaque_samples():
    alpha = torch.tensor([1.0, 0.5, 1.0, 0.2], requires_grad=True)
    weights(alpha, torch.tensor([0, 0, 1, 1]), 2).sum().backward()
    assert alpha.grad.isfinite().all()


def test_transmittance_never_exceeds_one():
    assert exclusive_transmittance(torch.zeros(2, 500)).max() <= 1


def test_ranks():
    rank, count = ranks(torch.tensor([1, 1, 1, 3, 3]), 5)
    assert rank.tolist() == [0, 1, 2, 0, 1] and count.tolist() == [0, 3, 0, 2, 0]
