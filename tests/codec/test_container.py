"""The bytes of a file: any content comes back, any damage is noticed, and nothing is allocated for
a size that is merely claimed."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from dss.codec import rans
from dss.codec.container import (
    MAGIC,
    MAX_VALUES_PER_BYTE,
    VERSION,
    Content,
    Integers,
    Raw,
    Spheres,
    _varint,
    pack,
    size_of,
    unpack,
)
from dss.geometry.similarity import Similarity
from dss.shell.lattice import in_order
from tests.codec.reader import read

GENERATOR = np.random.default_rng(0)
SIMILARITY = Similarity((1.0, -2.5, 1e-3), 47.11)


def integers(*shape: int, width: float = 10, steps: int = 1) -> Integers:
    values = np.round(GENERATOR.laplace(3, width, shape)).astype(np.int64)
    return Integers(values, GENERATOR.integers(0, 256, steps, np.uint8))


def spheres(count: int, *bits: int) -> Spheres:
    rows = GENERATOR.integers(0, 1 << bits[0], (count, 3))
    columns = GENERATOR.integers(100, 130, (count, len(bits) - 1))
    rows = np.concatenate([rows, columns], 1)
    return Spheres(rows[in_order(rows, bits[0])], bits)


RECORDS = [
    spheres(40, 8, 5, 2),
    spheres(3, 16, 10),
    spheres(30, 2, 0, 0),  # several in a cell
    Raw(GENERATOR.integers(0, 40, 500).astype(np.uint8)),
    Raw(GENERATOR.integers(0, 256, 500).astype(np.uint8)),  # shorter as it is
    Raw(GENERATOR.standard_normal((2, 3)).astype(np.float32)),
    Raw(np.array(0.9, np.float32)),
    integers(60, 8, steps=8),
    integers(20, 30, width=300),
    integers(1),
    integers(),
    Integers(np.full((7, 5), -4), np.array([9], np.uint8)),
    Integers(np.zeros((0, 3), np.int64), np.zeros(3, np.uint8)),
]
CONTENT = Content(["plain", 8, True, "x", 0.5], SIMILARITY, b"\1\2\3\4\5\6\7\0", RECORDS)


def test_any_content_comes_back():
    content = unpack(pack(CONTENT))
    assert (content.settings, content.similarity, content.mesh) == (
        CONTENT.settings,
        CONTENT.similarity,
        CONTENT.mesh,
    )
    for one, other in zip(content.records, CONTENT.records, strict=True):
        assert type(one) is type(other) and one.values.dtype == other.values.dtype
        assert np.array_equal(one.values, other.values)
        if isinstance(one, Integers):
            assert np.array_equal(one.steps, other.steps)
        if isinstance(one, Spheres):
            assert one.bits == other.bits


def test_the_other_reader_agrees():
    file = read(pack(CONTENT))
    assert file.settings == CONTENT.settings and file.mesh == CONTENT.mesh
    assert (file.center, file.scale) == (SIMILARITY.center, SIMILARITY.scale)
    for tensor, record in zip(file.tensors, RECORDS, strict=True):
        if isinstance(record, Raw):
            assert np.array_equal(tensor, record.values) and tensor.dtype == record.values.dtype


def test_the_size_is_that_of_the_ideal_code():
    records = [spheres(128, 8, 5, 2), integers(128, 16, steps=16), integers(64, 40), integers(64)]
    empty = len(pack(Content(["plain"], SIMILARITY, b"", [])))
    ideal = sum(map(size_of, records))
    size = len(pack(Content(["plain"], SIMILARITY, b"", records)))
    assert 0.99 * ideal < size - empty < 1.02 * ideal


def test_bytes_without_a_pattern_cost_no_more_than_they_are():
    noise, pattern = (Raw(GENERATOR.integers(0, top, 3000).astype(np.uint8)) for top in (256, 3))
    assert size_of(noise) < 3010 and size_of(pattern) < 0.35 * 3000


def test_the_same_content_gives_the_same_bytes():
    assert pack(CONTENT) == pack(unpack(pack(CONTENT)))


def test_an_integer_out_of_reach_is_refused():
    far = Integers(np.array([0, 0, rans.MAX_REACH + 1]), np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="reach"):
        pack(Content([], SIMILARITY, b"", [far]))


def test_too_many_values_for_too_few_bytes_are_refused():
    zeros = Integers(np.zeros(100_000, np.int64), np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="possible"):
        pack(Content([], SIMILARITY, b"", [zeros]))


def test_tables_are_bounded_together(monkeypatch):
    """Five bytes of a file could else ask for a table of 32,767 symbols each."""
    table = b"\0\0" + _varint(rans.MAX_REACH) + b"\1\1"
    columns = b"\1" + b"\1\2\1" + _varint(60) + 60 * table
    tracemalloc.start()
    with pytest.raises(ValueError, match="possible"):
        unpack(with_checksum(HEAD + columns + b"\1" * 99))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    monkeypatch.setattr("dss.codec.container.MAX_SYMBOLS", 40)
    with pytest.raises(ValueError, match="possible"):
        pack(Content([], SIMILARITY, b"", [integers(9, 9, steps=9)]))


def with_checksum(head: bytes) -> bytes:
    return head + struct.pack("<I", zlib.crc32(head))


HUGE = [10**6, 10**9, 2**62]
HEAD = MAGIC + bytes([VERSION]) + struct.pack("<4d", 0, 0, 0, 1) + b"\2[]\0"
CLAIMS = {
    "records": lambda n: _varint(n),
    "elements": lambda n: b"\1" + b"\0\1" + _varint(n) + b"\0" * 5,
    "rows": lambda n: b"\1" + b"\1\2" + _varint(n) + b"\1" + b"\0" * 5,
    "columns": lambda n: b"\1" + b"\1\2" + b"\1" + _varint(n) + b"\0" * 5,
    "product": lambda n: b"\1" + b"\0\5" + _varint(1000) * 5 + b"\0" * 5,
    "dimensions": lambda n: b"\1" + b"\0" + _varint(n) + b"\1" * 5,
    "reach": lambda n: b"\1" + b"\0\1\1" + b"\0\0" + _varint(n) + b"\0\0",
    "spheres": lambda n: b"\1" + b"\2\0\10" + _varint(n),
    "bits": lambda n: b"\1" + b"\2\0" + _varint(n) + b"\1",
    "bytes": lambda n: b"\1" + b"\3\1" + _varint(n),
    "floats": lambda n: b"\1" + b"\4\1" + _varint(n),
    "kind": lambda n: b"\1" + _varint(n),
}


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("claim", CLAIMS)
def test_nothing_is_allocated_for_a_claim(claim, size):
    data = with_checksum(HEAD + CLAIMS[claim](size) + b"\1" * 8)
    tracemalloc.start()
    with pytest.raises(ValueError, match="possible|claims|early|place"):
        unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("size", HUGE)
def test_nothing_is_allocated_for_claimed_settings(size):
    head = MAGIC + bytes([VERSION]) + struct.pack("<4d", 0, 0, 0, 1)
    for rest in (_varint(size) + b"[]", b"\2[]" + _varint(size)):
        with pytest.raises(ValueError, match="possible"):
            unpack(with_checksum(head + rest + b"\0" * 8))


def test_values_are_bounded_by_the_length_of_the_file():
    data = with_checksum(HEAD + b"\1" + b"\0\1" + _varint(MAX_VALUES_PER_BYTE * 60) + b"\0\0\0\0\0")
    with pytest.raises(ValueError, match="possible"):
        unpack(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no .dss file"),
        (b"DSS", "no .dss file"),
        (b"solid ball\nfacet", "no .dss file"),
        (MAGIC, "version"),
        (MAGIC + b"\2" + b"\0" * 60, "version"),
        (MAGIC + b"\1" + b"\0" * 60, "checksum"),
        (with_checksum(MAGIC + b"\1" + b"\0" * 36), "scale"),
        (with_checksum(MAGIC + b"\1" + struct.pack("<4d", 0, 0, np.nan, 1)), "scale"),
        (with_checksum(MAGIC + b"\1" + struct.pack("<4d", 0, 0, 0, 1)), "early"),
        (with_checksum(HEAD + b"\0" + b"\0\0\0\1" * 2), "wrong place"),
    ],
)
def test_garbage_is_named(data, reason):
    with pytest.raises(ValueError, match=reason):
        unpack(data)
