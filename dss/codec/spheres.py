"""Spheres of a lattice as symbols: a set has no order, so none is paid for.

The sorted Morton numbers of the centres are told by halving the lattice: of the spheres in a cell,
how many lie in its first half. Where one sphere is left, its remaining bits follow as they are.
"""

from functools import lru_cache

import numpy as np

from dss.codec.rans import TOTAL, Decoder, Slot, bit_slots, cumulative, slots

MAX_SPHERES = 4096  # of a file


def encode_centers(numbers: np.ndarray, depth: int) -> list[Slot]:
    """The symbols of sorted Morton numbers (S,) below 2**depth."""
    result, cells = [], [np.asarray(numbers)]
    for level in reversed(range(depth)):
        halves = []
        for cell in cells:
            if len(cell) == 1:
                continue
            first = int((cell >> level & 1 == 0).sum())
            result += slots(halving(len(cell)), [first])
            halves += [half for half in (cell[:first], cell[first:]) if len(half)]
        singles = [cell for cell in cells if len(cell) == 1]
        for (number,) in singles:
            result += bit_slots(int(number), level + 1)
        cells = halves
    return result


def decode_centers(decoder: Decoder, count: int, depth: int) -> np.ndarray:
    """The sorted Morton numbers (count,) of which `encode_centers` made symbols."""
    found, cells = [], [(0, count)]
    for level in reversed(range(depth)):
        halves = []
        for prefix, size in cells:
            if size == 1:
                continue
            (first,) = decoder.read([halving(size)], 1)
            halves += [
                (prefix << 1 | half, part) for half, part in ((0, first), (1, size - first)) if part
            ]
        for prefix, size in cells:
            if size == 1:
                found.append(prefix << (level + 1) | decoder.read_bits(level + 1))
        cells = halves
    for prefix, size in cells:
        found += [prefix] * size
    return np.sort(np.array(found, np.int64))


@lru_cache(1024)
def halving(count: int) -> list[int]:
    """The cumulative frequencies of 0 to `count`: how many of so many spheres lie in one half of
    their cell. Half binomial, as if they lay anywhere; half uniform, as they come in crowds."""
    spare, ways, sizes = TOTAL - (count + 1), 1, []
    for first in range(count + 1):
        sizes.append(1 + (spare * ways >> count + 1) + spare // (2 * (count + 1)))
        ways = ways * (count - first) // (first + 1)  # binomial coefficients
    sizes[count // 2] += TOTAL - sum(sizes)
    return cumulative(sizes)
