"""What `ops.Intervals` can do beside holding its tensors."""

import numpy as np
import pytest
import torch

from dss import ops

RAYS = 40


def random_intervals(seed: int) -> ops.Intervals:
    """Overlapping, nested, touching and equal intervals on 40 rays, some without any."""
    generator = np.random.default_rng(seed)
    ray = np.sort(generator.integers(0, RAYS, 150))
    start = generator.integers(0, 60, 150) / 10
    end = start + generator.integers(1, 15, 150) / 10
    order = np.lexsort([start, ray])
    offsets = torch.from_numpy(np.searchsorted(ray, np.arange(RAYS + 1)))
    start, end = (torch.tensor(value[order]).float() for value in (start, end))
    return ops.Intervals(offsets, start, end, torch.arange(150), torch.full((RAYS,), torch.inf))


@pytest.mark.parametrize("seed", range(5))
def test_merged_against_brute_force(seed):
    given = random_intervals(seed)
    merged = given.merged()
    assert len(merged.offsets) == RAYS + 1 and merged.stop is given.stop
    probes = torch.arange(0, 80) / 10 + 0.05
    for number in range(RAYS):
        old, new = given.ray == number, merged.ray == number
        inside = (probes[:, None] > given.start[old]) & (probes[:, None] < given.end[old])
        found = (probes[:, None] > merged.start[new]) & (probes[:, None] < merged.end[new])
        assert (found.sum(1) <= 1).all() and torch.equal(found.any(1), inside.any(1))
        # Disjoint, in order, and none that touch.
        assert (merged.start[new][1:] > merged.end[new][:-1]).all()
    assert torch.equal(merged.start, given.start[merged.sphere])


def test_merging_nothing():
    none = torch.zeros(0)
    given = ops.Intervals(torch.zeros(4, dtype=torch.int64), none, none, none.long(), torch.ones(3))
    assert len(given.ray) == 0 and len(given.merged().start) == 0
