"""A coded field of the demo mesh, kept in the repository: what it decodes to is recorded, and no
damage to it goes unnoticed.

golden.dss: train.py --config compact_shell_8k spheres.count=64 field.latent=6 field.width=32
fit.epochs=30 fit.resample=30 fit.rate_weight=1e-8 samples.count=500000
"""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dss.codec.container import unpack
from dss.codec.pack import decode_field, encode_field
from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.shell.certify import certify, solid
from dss.shell.lattice import Lattice
from tests.codec.reader import read

FOLDER = Path(__file__).parent
DATA = (FOLDER / "golden.dss").read_bytes()
RECORDED = json.loads((FOLDER / "golden.json").read_text())
POINTS = [[0.1 * x, 0.05 * x - 0.3, 0.4 - 0.08 * x] for x in range(-9, 10)]


@pytest.fixture(scope="module")
def coded():
    return decode_field(DATA, "golden.dss")


def test_every_parameter_is_the_recorded_one(coded):
    """To the last bit, on every platform."""
    sums = {
        name: hashlib.sha256(value.numpy().astype("<f4").tobytes()).hexdigest()[:16]
        for name, value in coded.field.state_dict().items()
    }
    assert sums == RECORDED["tensors"]


def test_distances_are_the_recorded_ones(coded):
    """Their sums are rounded as the platform does."""
    sdf = coded.field.sdf(torch.tensor(POINTS)).tolist()
    assert sdf == pytest.approx(RECORDED["sdf"], abs=1e-5)


def test_facts_are_the_recorded_ones(coded):
    facts = {
        "settings": coded.settings.model_dump(),
        "mesh": coded.mesh,
        "center": list(coded.similarity.center),
        "scale": coded.similarity.scale,
    }
    assert facts == RECORDED["facts"]


def test_it_is_encoded_to_the_same_bytes(coded):
    lattice = Lattice(*unpack(DATA).records[0].bits)
    sha256 = coded.mesh + "00" * 24
    inputs = coded.field, coded.settings, coded.similarity, sha256, lattice
    assert encode_field(*inputs) == DATA


def test_the_other_reader_agrees_bit_for_bit(coded):
    file, state = read(DATA), coded.field.state_dict()
    centers, inner, thickness = file.tensors[0]
    spheres = (centers, inner, inner + thickness)
    for name, value in zip(coded.field.geometry_keys, spheres, strict=True):
        assert np.array_equal(state.pop(name).numpy(), value)
    for value, tensor in zip(state.values(), file.tensors[1:], strict=True):
        assert np.array_equal(value.numpy(), tensor)
    assert (file.center, file.scale) == (coded.similarity.center, coded.similarity.scale)


def test_the_decoded_shell_encloses_the_mesh(coded):
    mesh = load_mesh("demo")
    assert certify(mesh.vertices, mesh.faces, coded.field.shell) == 0
    assert solid(MeshDistance(mesh.vertices, mesh.faces), coded.field.shell).all()


def test_every_flipped_bit_is_noticed():
    assert 8 * len(DATA) > 10_000
    for bit in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError, match=r"golden\.dss: not a \.dss file, or damaged") as error:
            decode_field(bytes(damaged), "golden.dss")
        assert "\n" not in str(error.value)


def test_every_truncation_is_noticed():
    for end in range(len(DATA)):
        with pytest.raises(InputError, match=r"golden\.dss"):
            decode_field(DATA[:end], "golden.dss")


def test_damage_behind_a_right_checksum_is_no_crash(coded):
    """Whoever writes the checksum anew gets an error, or some field; nothing else is raised."""
    generator, fields = np.random.default_rng(1), 0
    for place in [*range(5, 220, 2), *generator.integers(220, len(DATA) - 4, 30)]:
        damaged = bytearray(DATA[:-4])
        damaged[place] ^= 1 << int(generator.integers(8))
        damaged += struct.pack("<I", zlib.crc32(damaged))
        try:
            field = decode_field(bytes(damaged), "golden.dss").field
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert all(value.isfinite().all() for value in field.state_dict().values())
            fields += 1
    assert fields < 100  # the frame, the hash, steps and centres: what has no redundancy


@pytest.mark.parametrize("length", [0, 1, 5, 40, 3000])
def test_random_bytes_are_no_file(length):
    data = np.random.default_rng(length).bytes(length)
    for head in (b"", DATA[:5], DATA[:100]):
        with pytest.raises(InputError, match="damaged"):
            decode_field(head + data, "x.dss")
