"""The entropy coder: what goes in comes out, at the ideal length, and nothing else is accepted."""

import numpy as np
import pytest

from dss.codec import rans
from dss.codec.rans import TOTAL, Decoder


def integers(kind: str, count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    draw = {
        "laplace": lambda: generator.laplace(0, 20, count),
        "normal": lambda: generator.normal(0, 30, count),
        "zero": lambda: np.zeros(count),
        "wide": lambda: generator.uniform(-9000, 9000, count),
    }[kind]
    return np.round(draw()).astype(np.int64)


@pytest.mark.parametrize("kind", ["laplace", "normal", "zero", "wide"])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_symbols_come_back(kind, count):
    values = integers(kind, count)
    reach = int(np.abs(values).max(initial=0))
    table = rans.peaked(reach, *rans.best_peaked(values, reach))
    data = rans.encode(rans.slots(table, (values + reach).tolist()))
    decoder = Decoder(data)
    assert decoder.read([table], count) == (values + reach).tolist()
    decoder.finish()


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("laplace", np.log2(2 * np.e * 20)), ("normal", np.log2(30 * np.sqrt(2 * np.pi * np.e)))],
)
def test_lengths_are_near_the_entropy(kind, bits):
    values = integers(kind, 5000)
    reach = int(np.abs(values).max())
    table = rans.peaked(reach, *rans.best_peaked(values, reach))
    slots = rans.slots(table, (values + reach).tolist())
    assert 8 * len(rans.encode(slots)) == pytest.approx(rans.bits(slots), rel=1e-3, abs=32)
    assert rans.bits(slots) / len(values) == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize("reach", [0, 1, 7, 300, rans.MAX_REACH])
@pytest.mark.parametrize("codes", [(0, 0), (255, 0), (0, 255), (255, 255), (100, 40), (16, 1)])
def test_every_symbol_of_a_table_can_be_told(reach, codes):
    sizes = np.diff(rans.peaked(reach, *codes))
    assert len(sizes) == 2 * reach + 1 and sizes.sum() == TOTAL and sizes.min() >= 1
    assert (sizes == sizes[::-1]).all() and sizes[reach] == sizes.max()


def test_plain_bits_come_back():
    numbers = [(0, 1), (1, 1), (0b101, 3), (0xDEADBEEF, 32), (2**48 - 1, 48), (5, 16), (3, 17)]
    slots = [slot for number in numbers for slot in rans.bit_slots(*number)]
    decoder = Decoder(rans.encode(slots))
    assert [decoder.read_bits(bits) for _, bits in numbers] == [value for value, _ in numbers]
    decoder.finish()


def test_the_logarithms_are_those():
    values = np.arange(1, TOTAL + 1)
    assert np.abs(rans._logarithms()[1:] / 65536 - np.log2(values)).max() < 2e-5


def test_missing_and_superfluous_bytes_are_noticed():
    table = rans.cumulative([TOTAL // 4] * 4)
    data = rans.encode(rans.slots(table, [3, 1, 2] * 50))
    for end in range(len(data)):
        with pytest.raises(ValueError, match="end"):
            decoder = Decoder(data[:end])
            decoder.read([table], 150)
            decoder.finish()
    decoder = Decoder(data + b"\0")
    decoder.read([table], 150)
    with pytest.raises(ValueError, match="wrong place"):
        decoder.finish()
