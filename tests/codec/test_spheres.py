"""Centres of spheres as symbols: a set comes back, and costs no order."""

import math

import numpy as np
import pytest

from dss.codec import rans, spheres
from dss.codec.rans import TOTAL, Decoder


@pytest.mark.parametrize("count", [0, 1, 2, 17, 500])
@pytest.mark.parametrize("depth", [3, 24, 48])
def test_a_set_comes_back(count, depth):
    numbers = np.sort(np.random.default_rng(count).integers(0, 1 << depth, count))
    slots = spheres.encode_centers(numbers, depth)
    decoder = Decoder(rans.encode(slots))
    assert (spheres.decode_centers(decoder, count, depth) == numbers).all()
    decoder.finish()


def test_no_order_is_paid_for():
    count, depth = 500, 24
    numbers = np.sort(np.random.default_rng(0).integers(0, 1 << depth, count))
    ideal = count * depth - math.lgamma(count + 1) / math.log(2)
    assert rans.bits(spheres.encode_centers(numbers, depth)) < 1.04 * ideal


@pytest.mark.parametrize("count", [2, 3, 100, spheres.MAX_SPHERES])
def test_halves_of_any_size_can_be_told(count):
    sizes = np.diff(spheres.halving(count))
    assert len(sizes) == count + 1 and sizes.sum() == TOTAL and sizes.min() >= 1
