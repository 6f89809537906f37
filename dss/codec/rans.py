"""An entropy coder on integers alone: symbols in, bytes out, the same on every machine.

It is a range ANS coder (Duda 2013) with a state of 32 bits, renormalised byte by byte, as
docs/format.md specifies. The library constriction has such a coder, but from Python its models take
float probabilities and make integer tables of them by rules of its own, which every reader would
have to repeat to the last bit. Here a reader needs nothing but integers.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, cycle, islice

import numpy as np

PRECISION = 16  # bits of a probability
TOTAL = 1 << PRECISION
LOW = 1 << 24  # the state is at least this, and below 256 times as much
RATIO_BITS = 20  # of the fixed-point ratios that tables are made of
MAX_REACH = (1 << 14) - 1  # symbols of a table on either side of its centre
COARSE = np.arange(0, 256, 8)  # codes that the search for a table begins with
Slot = tuple[int, int]  # where a symbol's share of TOTAL begins, and its size


def encode(slots: Sequence[Slot]) -> bytes:
    """The bytes from which `Decoder` reads these symbols in their order."""
    state, out = LOW, bytearray()
    for start, size in reversed(slots):
        while state >= size << PRECISION:
            out.append(state & 255)
            state >>= 8
        state = (state // size << PRECISION) + state % size + start
    return (bytes(out) + state.to_bytes(4, "little"))[::-1]


class Decoder:
    """Reads symbols; raises ValueError where the bytes end too early."""

    def __init__(self, data: bytes):
        if len(data) < 4:
            raise ValueError("its symbols end too early")
        self.data, self.place = data, 4
        self.state = int.from_bytes(data[:4], "big")

    def read(self, tables: Sequence[list[int]], count: int) -> list[int]:
        """The next `count` symbols, by tables of cumulative frequencies that take turns."""
        data, place, state, symbols = self.data, self.place, self.state, []
        try:
            for table in islice(cycle(tables), count):
                slot = state & 0xFFFF
                symbol = bisect_right(table, slot) - 1
                start = table[symbol]
                state = (table[symbol + 1] - start) * (state >> PRECISION) + slot - start
                while state < LOW:
                    state = state << 8 | data[place]
                    place += 1
                symbols.append(symbol)
        except IndexError:
            raise ValueError("its symbols end too early") from None
        self.place, self.state = place, state
        return symbols

    def read_bits(self, count: int) -> int:
        """The number of `count` equally likely bits that `bit_slots` made symbols of."""
        value = 0
        while count:
            size = min(PRECISION, count)
            count -= size
            share = PRECISION - size
            part = (self.state & TOTAL - 1) >> share
            slot = self.state & (1 << share) - 1
            self.state = (self.state >> PRECISION << share) + slot
            while self.state < LOW:
                if self.place == len(self.data):
                    raise ValueError("its symbols end too early")
                self.state = self.state << 8 | self.data[self.place]
                self.place += 1
            value = value << size | part
        return value

    def finish(self) -> None:
        """Raise ValueError unless all bytes were read and the state is that of the beginning."""
        if self.place != len(self.data) or self.state != LOW:
            raise ValueError("its symbols end in the wrong place")


def cumulative(sizes: Sequence[int]) -> list[int]:
    """Where the symbols' shares of TOTAL begin, and TOTAL at the end."""
    return [0, *accumulate(sizes)]


def slots(table: list[int], symbols: Sequence[int]) -> list[Slot]:
    """The shares of symbols by a table of cumulative frequencies."""
    return [(table[symbol], table[symbol + 1] - table[symbol]) for symbol in symbols]


def bit_slots(value: int, count: int) -> list[Slot]:
    """The shares of a number of `count` equally likely bits: up to 16 at a time, the highest
    first."""
    result = []
    while count:
        size = min(PRECISION, count)
        count -= size
        share = 1 << PRECISION - size
        result.append(((value >> count & (1 << size) - 1) * share, share))
    return result


def ratio(code: np.ndarray | int) -> np.ndarray | int:
    """The ratio of 2**RATIO_BITS that a byte stands for: 1 for 0, and falling from there."""
    fall = (16 + (code & 15)) << (code >> 4)
    return (1 << RATIO_BITS) - fall * (code != 0)


def peaked(reach: int, decay: int, curve: int) -> list[int]:
    """The cumulative frequencies of 2 reach + 1 symbols, most likely in the middle.

    The weight of a symbol is that of its inner neighbour times a ratio, which begins as
    `ratio(decay)` and is itself multiplied by `ratio(curve)` at each symbol: curve 0 makes a
    Laplace distribution, and others bend it towards a Gaussian.
    """
    weights = _weights(reach, np.array([decay]), np.array([curve]))
    side = _frequencies(weights)[0].tolist()
    return cumulative([*side[:0:-1], *side])


def best_peaked(symbols: np.ndarray, reach: int) -> tuple[int, int]:
    """The bytes `decay` and `curve` whose table needs the fewest bits for symbols in -reach to
    reach; the costs are integers, so that every machine chooses the same."""
    counts = np.bincount(np.abs(symbols), minlength=reach + 1)
    decay, curve = (grid.ravel() for grid in np.meshgrid(COARSE, COARSE, indexing="ij"))
    best = _cheapest(counts, decay, curve)
    near = np.arange(-7, 8)
    decay, curve = (
        np.clip(code + grid.ravel(), 0, 255)
        for code, grid in zip(best, np.meshgrid(near, near, indexing="ij"), strict=True)
    )
    return _cheapest(counts, decay, curve)


def _cheapest(counts: np.ndarray, decay: np.ndarray, curve: np.ndarray) -> tuple[int, int]:
    frequencies = _frequencies(_weights(len(counts) - 1, decay, curve))
    used = counts.nonzero()[0]
    best = (_logarithms()[frequencies[:, used]] @ counts[used]).argmax()
    return int(decay[best]), int(curve[best])


def _weights(reach: int, decay: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Weights (n, reach + 1) int64 of the middle symbol and of those on one side of it."""
    weights = np.empty((len(decay), reach + 1), np.int64)
    weights[:, 0] = weight = np.full(len(decay), 1 << 32)
    factor, bend = ratio(decay), ratio(curve)
    for index in range(1, reach + 1):
        weights[:, index] = weight = weight * factor >> RATIO_BITS
        factor = factor * bend >> RATIO_BITS
    return weights


def _frequencies(weights: np.ndarray) -> np.ndarray:
    """Shares (n, reach + 1) of TOTAL: 1 for every symbol, the rest by weight, and what rounding
    leaves for the middle one."""
    spare = TOTAL - (2 * weights.shape[1] - 1)
    total = 2 * weights.sum(1) - weights[:, 0]
    # The weights are at most 2**32 and the spare less than 2**16, so the products fit.
    shares = 1 + weights * spare // total[:, None]
    shares[:, 0] += TOTAL - (2 * shares.sum(1) - shares[:, 0])
    return shares


@lru_cache
def _logarithms() -> np.ndarray:
    """log2 of 0 to TOTAL as integers in units of 2**-16, computed on integers; that of 0 is 0."""
    value = np.arange(TOTAL + 1, dtype=np.int64)
    whole = np.frexp(np.maximum(value, 1))[1] - 1
    mantissa, result = np.maximum(value, 1) << (PRECISION + 14 - whole), whole.astype(np.int64)
    for _ in range(16):
        mantissa = mantissa * mantissa >> (PRECISION + 14)
        carry = mantissa >> (PRECISION + 15)
        mantissa >>= carry
        result = result << 1 | carry
    return result


def bits(slots: Sequence[Slot]) -> float:
    """The ideal code length of symbols, in bits."""
    sizes = np.array([size for _, size in slots], np.float64)
    return float((PRECISION - np.log2(sizes)).sum())
