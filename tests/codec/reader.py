"""A second reader of .dss files, written from docs/format.md alone: numpy, and nothing of dss."""

import json
import struct
import zlib
from dataclasses import dataclass
from math import comb

import numpy as np


@dataclass
class File:
    settings: list
    center: tuple
    scale: float
    mesh: bytes
    tensors: list  # one array per record; of spheres the list of centres and columns


def starts(sizes):
    return np.concatenate([[0], np.cumsum(sizes)]).astype(int)


class Symbols:
    def __init__(self, data):
        self.x, self.rest = int.from_bytes(data[:4], "big"), iter(data[4:])

    def take(self, start, size, slot):
        self.x = size * (self.x // 65536) + slot - start
        while self.x < 1 << 24:
            self.x = 256 * self.x + next(self.rest)

    def symbol(self, bounds):
        slot = self.x % 65536
        found = int(np.searchsorted(bounds, slot, "right")) - 1
        self.take(int(bounds[found]), int(bounds[found + 1] - bounds[found]), slot)
        return found

    def bits(self, count):
        value = 0
        while count:
            group = min(16, count)
            slot, size = self.x % 65536, 65536 >> group
            self.take(slot // size * size, size, slot)
            value, count = value << group | slot // size, count - group
        return value


def rho(c):
    return 2**20 - (16 + c % 16) * 2 ** (c // 16) if c else 2**20


def table_bounds(reach, decay, curve):
    weights, r = [1 << 32], rho(decay)
    for _ in range(reach):
        weights.append(weights[-1] * r >> 20)
        r = r * rho(curve) >> 20
    total = 2 * sum(weights) - weights[0]
    side = [1 + w * (65536 - 2 * reach - 1) // total for w in weights]
    sizes = side[:0:-1] + side
    sizes[reach] += 65536 - sum(sizes)
    return starts(sizes)


def halving_bounds(n):
    spare = 65536 - n - 1
    sizes = [1 + spare * comb(n, k) // 2 ** (n + 1) + spare // (2 * n + 2) for k in range(n + 1)]
    sizes[n // 2] += 65536 - sum(sizes)
    return starts(sizes)


def read_columns(symbols, tables, rows):
    bounds = [table_bounds(*table[2:]) for table in tables]
    low = [table[1] - table[2] for table in tables]
    values = [[symbols.symbol(b) + m for b, m in zip(bounds, low)] for _ in range(rows)]  # noqa: B905
    return np.array(values, dtype=np.int64).reshape(rows, len(tables))


def read_cells(symbols, count, depth):
    done, groups = [], [(0, count)]
    for left in range(depth, 0, -1):
        halves = []
        for prefix, n in groups:
            if n > 1:
                zeros = symbols.symbol(halving_bounds(n))
                halves += [(2 * prefix, zeros), (2 * prefix + 1, n - zeros)]
        done += [prefix << left | symbols.bits(left) for prefix, n in groups if n == 1]
        groups = [group for group in halves if group[1]]
    return sorted(done + [prefix for prefix, n in groups for _ in range(n)])


def read_bytes(symbols, count):
    counts, result = [1] * 256, []
    for _ in range(count):
        below, total = starts(counts), sum(counts)
        result.append(symbols.symbol(below * (65536 - 256) // total + np.arange(257)))
        counts[result[-1]] += 24
        if sum(counts) > 8192:
            counts = [(c + 1) // 2 for c in counts]
    return result


def scale_value(code, bits):
    return (2**bits + code % 2**bits) * 2.0 ** (code // 2**bits - bits - 17)


def read(data):
    assert data[:5] == b"DSSF\1"
    assert zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0]
    place = 37

    def take(count):
        nonlocal place
        place += count
        return data[place - count : place]

    def number():
        (byte,) = take(1)
        return byte if byte < 128 else byte - 128 + 128 * number()

    def table():
        (step,), z, reach = take(1), number(), number()
        middle = z // 2 if z % 2 == 0 else -(z + 1) // 2
        return (step, middle, reach, *take(2))

    *center, scale = struct.unpack("<4d", data[5:37])
    settings, mesh = json.loads(take(number())), take(number())
    heads = []
    for _ in range(number()):
        (kind,) = take(1)
        numbers = [number() for _ in range(number() + (kind == 2))]
        if kind == 2:
            heads.append((kind, (number(),), [table() for _ in numbers[1:]], numbers))
        else:
            tables = {0: 1, 1: numbers[-1] if numbers else 0}.get(kind, 0)
            heads.append((kind, numbers, [table() for _ in range(tables)], None))
    symbols, tensors = Symbols(data[place:-4]), []
    for kind, shape, tables, bits in heads:
        count = int(np.prod(shape))
        if kind == 2:
            cells = read_cells(symbols, count, 3 * bits[0])
            digits = [format(cell, f"0{3 * bits[0]}b") for cell in cells]
            places = np.array([[int(text[axis::3], 2) for axis in range(3)] for text in digits])
            codes = read_columns(symbols, tables, count)
            columns = [
                np.array([scale_value(int(c), b) for c in column], np.float32)
                for column, b in zip(codes.T, bits[1:], strict=True)
            ]
            tensors.append([((2 * places + 1) / 2.0 ** bits[0] - 1).astype(np.float32), *columns])
        elif kind in (3, 5):
            plain = kind == 5
            values = (
                [symbols.bits(8) for _ in range(count)] if plain else read_bytes(symbols, count)
            )
            tensors.append(np.array(values, np.uint8).reshape(shape))
        elif kind == 5:
            plain = [symbols.bits(8) for _ in range(count)]
            tensors.append(np.array(plain, np.uint8).reshape(shape))
        elif kind == 4:
            words = np.array([symbols.bits(32) for _ in range(count)], np.uint32)
            tensors.append(words.view(np.float32).reshape(shape))
        else:
            values = read_columns(symbols, tables, count // len(tables)).astype(np.float32)
            steps = [(8 + t[0] % 8) * 2.0 ** (t[0] // 8 - 26) for t in tables]
            tensors.append((values * np.array(steps, np.float32)).reshape(shape))
    assert symbols.x == 1 << 24 and next(symbols.rest, None) is None
    return File(settings, tuple(center), scale, mesh, tensors)
