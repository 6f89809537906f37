"""The bytes of a .dss file, and what they stand for: integers, and the facts that give them
meaning. docs/format.md is the specification.

Nothing here knows of fields. What is read is checked before it is used: the checksum first, then
that the values are no more than so long a file can hold, and the tables no larger than
MAX_SYMBOLS.
"""

import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from dss.codec import rans
from dss.codec.rans import MAX_REACH, Decoder, Slot
from dss.codec.spheres import MAX_SPHERES, decode_centers, encode_centers
from dss.geometry.similarity import Similarity
from dss.shell.lattice import in_order, morton

MAGIC, VERSION = b"DSSF", 1
MAX_BYTES = 1 << 24  # of a file
MAX_VALUES_PER_BYTE = 64  # of a file: a value of a tensor costs an eighth of a bit at least
MAX_SYMBOLS = 1 << 20  # of all tables of a file together
MAX_INTEGER = (1 << 23) - 1  # of the middle of a table: float32 holds it and its neighbours exactly
MAX_HEADER = 1 << 12  # bytes of the settings
HASH_BYTES = 8  # of the SHA-256 of what the field was fitted to
INTEGERS, COLUMNS, SPHERES, BYTES, FLOATS, PLAIN = range(6)  # kinds of records
BYTE_GAIN = 24  # added to the frequency of a byte whenever it occurs
MAX_BYTE_TOTAL = 1 << 13  # of the frequencies, which are halved beyond it


@dataclass(frozen=True)
class Integers:
    """A tensor of integers times steps: values int64, steps (1,) or, of columns (n, d), (d,) bytes
    that name the steps."""

    values: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class Spheres:
    """Rows (S, 3 + k) int64 of a lattice, in the order of `lattice.in_order`: centres, and k
    further columns, such as radii and thicknesses.

    `bits` (1 + k,) are those of a coordinate, and those of the scales of the columns.
    """

    values: np.ndarray
    bits: tuple[int, ...]


@dataclass(frozen=True)
class Raw:
    """An array of uint8, or of float32 as it is."""

    values: np.ndarray


Record = Integers | Spheres | Raw


@dataclass(frozen=True)
class Content:
    """What a file holds. `settings` is the method's name and its settings in their order; `mesh`
    the first bytes of the SHA-256 of what was fitted, or none."""

    settings: list[Any]
    similarity: Similarity
    mesh: bytes
    records: list[Record]


def pack(content: Content) -> bytes:
    """The bytes of a file. Raises ValueError where the content is more than a file may hold."""
    text = json.dumps(content.settings, separators=(",", ":")).encode()
    numbers = *content.similarity.center, content.similarity.scale
    head = MAGIC + bytes([VERSION]) + struct.pack("<4d", *numbers)
    head += _varint(len(text)) + text + _varint(len(content.mesh)) + content.mesh
    head += _varint(len(content.records))
    slots = []
    for record in content.records:
        facts, symbols = _encoded(record)
        head += facts
        slots += symbols
    data = head + rans.encode(slots)
    data += struct.pack("<I", zlib.crc32(data))
    unpack(data)  # what no reader would accept is not written
    return data


def size_of(record: Record) -> float:
    """The bytes that a record takes in a file, by the ideal code length of its symbols."""
    facts, symbols = _encoded(record)
    return len(facts) + rans.bits(symbols) / 8


def unpack(data: bytes) -> Content:
    """What the bytes of a file stand for. Raises ValueError where they are not such a file."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES:,} bytes")
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("no .dss file")
    if data[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):
        raise ValueError(f"not of version {VERSION} of the format")
    if len(data) < 12 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise ValueError("its checksum is not that of its contents")
    reader = _Reader(data[:-4], len(MAGIC) + 1)
    numbers = struct.unpack("<4d", reader.take(32))
    if not (all(map(math.isfinite, numbers)) and numbers[3] > 0):
        raise ValueError("its scale and shift are none")
    settings = json.loads(reader.take(reader.number(MAX_HEADER)))
    mesh = reader.take(reader.number(HASH_BYTES))
    budget, spare = MAX_VALUES_PER_BYTE * len(data), MAX_SYMBOLS
    shapes = []
    for _ in range(reader.number(len(data))):
        shapes.append(_Facts.read(reader, budget, spare))
        budget -= shapes[-1].count
        spare -= sum(table.size for table in shapes[-1].tables)
    decoder = Decoder(reader.rest())
    records = [facts.decode(decoder) for facts in shapes]
    decoder.finish()
    return Content(settings, Similarity(numbers[:3], numbers[3]), mesh, records)


@dataclass(frozen=True)
class _Table:
    """Of a column of integers: the byte of its step, the most likely integer, how far the others
    reach from it, and the bytes of `rans.peaked`."""

    step: int
    center: int
    reach: int
    decay: int
    curve: int

    @classmethod
    def of(cls, values: np.ndarray, step: int) -> "_Table":
        """The table that needs the fewest bits for integers (n,)."""
        center = int(np.sort(values)[len(values) // 2]) if len(values) else 0
        reach = int(np.abs(values - center).max(initial=0))
        if reach > MAX_REACH:
            raise ValueError(f"its integers reach {reach} from their middle, beyond {MAX_REACH}")
        return cls(step, center, reach, *rans.best_peaked(values - center, reach))

    @property
    def size(self) -> int:
        """Symbols."""
        return 2 * self.reach + 1

    def cumulative(self) -> list[int]:
        return rans.peaked(self.reach, self.decay, self.curve)

    def write(self) -> bytes:
        zigzag = 2 * self.center if self.center >= 0 else -2 * self.center - 1
        head = bytes([self.step]) + _varint(zigzag) + _varint(self.reach)
        return head + bytes([self.decay, self.curve])

    @classmethod
    def read(cls, reader: "_Reader", spare: int) -> "_Table":
        """A table of at most `spare` symbols."""
        step, zigzag = reader.byte(), reader.number(2 * MAX_INTEGER)
        center = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
        reach = reader.number(min(MAX_REACH, (spare - 1) // 2))
        return cls(step, center, reach, reader.byte(), reader.byte())


@dataclass(frozen=True)
class _Facts:
    """What the head of a file tells of a record."""

    kind: int
    shape: tuple[int, ...]
    tables: list[_Table]
    bits: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @classmethod
    def read(cls, reader: "_Reader", budget: int, spare: int) -> "_Facts":
        """With at most so many values, and symbols of tables."""
        kind = reader.number(PLAIN)
        if kind == SPHERES:
            bits = tuple(reader.number(16) for _ in range(1 + reader.number(8)))
            shape = reader.number(MAX_SPHERES), len(bits) + 2
        else:
            bits, shape = (), tuple(reader.number(budget) for _ in range(reader.number(8)))
        if math.prod(shape) > budget:
            raise ValueError("it claims more values than so short a file can hold")
        if kind == COLUMNS and len(shape) != 2:
            raise ValueError("columns of a tensor that has none")
        if kind == SPHERES and not bits[0]:
            raise ValueError("a lattice of no bits")
        count = {INTEGERS: 1, COLUMNS: shape[-1] if shape else 0, SPHERES: len(bits) - 1}
        tables = []
        for _ in range(count.get(kind, 0)):
            tables.append(_Table.read(reader, spare))
            spare -= tables[-1].size
        return cls(kind, shape, tables, bits)

    def decode(self, decoder: Decoder) -> Record:
        if self.kind == FLOATS:
            numbers = [decoder.read_bits(32) for _ in range(self.count)]
            return Raw(np.array(numbers, np.uint32).view(np.float32).reshape(self.shape))
        if self.kind in (BYTES, PLAIN):
            if self.kind == BYTES:
                values = _decode_bytes(decoder, self.count)
            else:
                values = [decoder.read_bits(8) for _ in range(self.count)]
            return Raw(np.array(values, np.uint8).reshape(self.shape))
        if self.kind == SPHERES:
            numbers = decode_centers(decoder, self.shape[0], 3 * self.bits[0])
            columns = self._integers(decoder, self.shape[0])
            return Spheres(np.column_stack([_separated(numbers, self.bits[0]), columns]), self.bits)
        steps = np.array([table.step for table in self.tables], np.uint8)
        values = self._integers(decoder, self.count // max(1, len(self.tables)))
        return Integers(values.reshape(self.shape), steps)

    def _integers(self, decoder: Decoder, rows: int) -> np.ndarray:
        """Integers (rows, tables), row by row."""
        tables = [table.cumulative() for table in self.tables]
        symbols = decoder.read(tables, rows * len(tables)) if tables else []
        first = np.array([table.center - table.reach for table in self.tables], np.int64)
        return np.array(symbols, np.int64).reshape(rows, len(tables)) + first


class _Reader:
    """The head of a file, front to back. Raises ValueError where it ends too early."""

    def __init__(self, data: bytes, place: int):
        self.data, self.place = data, place

    def take(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise ValueError("it ends too early")
        self.place += count
        return self.data[self.place - count : self.place]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, limit: int) -> int:
        """A number of 7 bits per byte, the lowest first, up to `limit`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if value > limit or shift > 63:
                raise ValueError(f"it has a {value} where at most {limit} is possible")
            if byte < 128:
                return value

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.place)


def _encoded(record: Record) -> tuple[bytes, list[Slot]]:
    """A record's part of the head, and its symbols."""
    if isinstance(record, Spheres):
        depth = 3 * record.bits[0]
        numbers, columns = morton(record.values, record.bits[0]), record.values[:, 3:]
        order = in_order(record.values, record.bits[0])
        if len(numbers) > MAX_SPHERES or (order != np.arange(len(order))).any():
            raise ValueError(f"its spheres are more than {MAX_SPHERES}, or not in order")
        head = bytes([SPHERES]) + _varint(len(record.bits) - 1)
        head += b"".join(map(_varint, record.bits)) + _varint(len(numbers))
        steps = np.zeros(columns.shape[1], np.uint8)
        facts, symbols = _encoded_columns(columns, steps)
        return head + facts, encode_centers(numbers, depth) + symbols
    shape = record.values.shape
    dimensions = _varint(len(shape)) + b"".join(map(_varint, shape))
    if isinstance(record, Raw):
        if record.values.dtype == np.uint8:
            return _encoded_bytes(dimensions, record.values.ravel())
        numbers = record.values.astype(np.float32).ravel().view(np.uint32).tolist()
        slots = [slot for number in numbers for slot in rans.bit_slots(number, 32)]
        return bytes([FLOATS]) + dimensions, slots
    by_column = len(record.steps) > 1
    columns = record.values.reshape(-1, len(record.steps))
    facts, symbols = _encoded_columns(columns, record.steps)
    return bytes([COLUMNS if by_column else INTEGERS]) + dimensions + facts, symbols


def _encoded_columns(columns: np.ndarray, steps: np.ndarray) -> tuple[bytes, list[Slot]]:
    """The tables of integers (n, k), and their symbols row by row."""
    tables = [_Table.of(column, int(step)) for column, step in zip(columns.T, steps, strict=True)]
    symbols = [
        rans.slots(table.cumulative(), (column - table.center + table.reach).tolist())
        for table, column in zip(tables, columns.T, strict=True)
    ]
    rows = [slot for row in zip(*symbols, strict=True) for slot in row]
    return b"".join(table.write() for table in tables), rows


def _encoded_bytes(dimensions: bytes, values: np.ndarray) -> tuple[bytes, list[Slot]]:
    """Bytes (n,) as they are, as of a file that is compressed already, or by their frequencies,
    whichever is shorter."""
    plain = [slot for value in values.tolist() for slot in rans.bit_slots(value, 8)]
    modelled = _encode_bytes(values)
    if rans.bits(modelled) < rans.bits(plain):
        return bytes([BYTES]) + dimensions, modelled
    return bytes([PLAIN]) + dimensions, plain


def _encode_bytes(values: np.ndarray) -> list[Slot]:
    """Symbols of bytes (n,), each by the frequencies of those before it."""
    model, result = _ByteModel(), []
    for value in values.tolist():
        result += rans.slots(model.cumulative(), [value])
        model.update(value)
    return result


def _decode_bytes(decoder: Decoder, count: int) -> list[int]:
    model, result = _ByteModel(), []
    for _ in range(count):
        result += decoder.read([model.cumulative()], 1)
        model.update(result[-1])
    return result


class _ByteModel:
    """Frequencies of bytes that follow what occurs."""

    def __init__(self) -> None:
        self.counts = np.ones(256, np.int64)

    def cumulative(self) -> list[int]:
        """As `rans.cumulative`: the counts' share of what is left after 1 for each byte."""
        below = np.append(0, self.counts.cumsum())
        spare = rans.TOTAL - 256
        return (below * spare // below[-1] + np.arange(257)).tolist()

    def update(self, value: int) -> None:
        self.counts[value] += BYTE_GAIN
        if self.counts.sum() > MAX_BYTE_TOTAL:
            self.counts = (self.counts + 1) // 2


def _separated(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The coordinates (S, 3) of Morton numbers (S,)."""
    result = np.zeros((len(numbers), 3), np.int64)
    for bit in reversed(range(bits)):
        for axis in range(3):
            result[:, axis] = result[:, axis] << 1 | numbers >> (3 * bit + 2 - axis) & 1
    return result


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])
