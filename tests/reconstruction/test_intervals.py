import numpy as np
import pytest
import torch
from dss.reconstruction.intervals import (
    between,
    divide,
    exclusive_transmittance,
    ranks,
    total,
    union,
    weights,
)


def random_intervals(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overlapping, nested, touching and equal intervals on 40 rays, some without any; sorted by ray and start."""
    generator = np.random.default_rng(seed)
    ray = np.sort(generator.integers(0, 40, 150))
    start = generator.integers(0, 60, 150) / 10
    end = start + generator.integers(1, 15, 150) / 10
    order = np.lexsort([start, ray])
    return torch.from_numpy(ray[order]), torch.tensor(start[order]).float(), torch.tensor(end[order]).float()


@pytest.mark.parametrize("seed", range(5))
def test_union_against_brute_force(seed):
    ray, start, end = random_intervals(seed)
    joined = union(ray, start, end)
    probes = torch.arange(0, 80) / 10 + 0.05
    for number in range(40):
        inside = ((probes[:, None] > start[ray == number]) & (probes[:, None] < end[ray == number])).any(1)
        mine = joined[0] == number
        hits = ((probes[:, None] > joined[1][mine]) & (probes[:, None] < joined[2][mine])).sum(1)
        assert (hits <= 1).all()
        assert torch.equal(hits > 0, inside)
        assert (joined[1][mine][1:] > joined[2][mine][:-1]).all()  # disjoint, in order, and none that touch


def test_union_of_nothing():
    none = torch.zeros(0)
    assert all(len(value) == 0 for value in union(none.long(), none, none))


def test_divide():
    ray, start, end = torch.tensor([0, 2]), torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.05])
    sections = divide(ray, start, end, step=0.3)
    assert sections.ray.tolist() == [0, 0, 0, 0, 2] and sections.label.tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(sections.start, torch.tensor([1, 1.25, 1.5, 1.75, 0]))
    torch.testing.assert_close(sections.end, torch.tensor([1.25, 1.5, 1.75, 2, 0.05]))
    moved = divide(ray, start, end, step=0.3, shift=torch.tensor([0.4, -0.5]))
    assert moved.start[0] == 1 and moved.end[3] == 2 and moved.end[4] == 0.05  # the ends stay
    torch.testing.assert_close(moved.start[1:4], sections.start[1:4] + 0.1)
    assert len(divide(ray[:0], start[:0], end[:0], step=0.3).ray) == 0


def test_between_leaves_out_sections_that_cross_labels():
    t, label = torch.tensor([[0.0, 1, 3, 4]]), torch.tensor([[0, 0, 1, 1]])
    sections = between(t, label, torch.tensor([7]), last=0.5)
    assert sections.start.tolist() == [0, 3, 4] and sections.end.tolist() == [1, 4, 4.5] and sections.ray.tolist() == [7, 7, 7]


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


def test_weights_are_differentiable_behind_opaque_sections():
    alpha = torch.tensor([1.0, 0.5, 1.0, 0.2], requires_grad=True)
    weights(alpha, torch.tensor([0, 0, 1, 1]), 2).sum().backward()
    assert alpha.grad.isfinite().all()


def test_transmittance_never_exceeds_one():
    assert exclusive_transmittance(torch.zeros(2, 500)).max() <= 1


def test_ranks():
    rank, count = ranks(torch.tensor([1, 1, 1, 3, 3]), 5)
    assert rank.tolist() == [0, 1, 2, 0, 1] and count.tolist() == [0, 3, 0, 2, 0]
