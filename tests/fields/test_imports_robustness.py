"""Weight and shell files of others that hold something odd: one line, and no other file is read."""

import os

import h5py
import numpy as np
import pytest
import torch

from dss.errors import InputError
from dss.fields.key_spheres import read_spheres, read_weights
from dss.fields.neural_implicit import NeuralImplicitField, NeuralImplicitSettings
from dss.shell.io import read_h5

SETTINGS = NeuralImplicitSettings(layers=1, width=3)


def recursive():
    tree = {}
    tree["tree"] = tree
    return tree


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.empty(3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8),
        lambda: torch.rand(3) * 1j,
        lambda: torch.zeros(3, dtype=torch.bool),
        lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        recursive,
    ],
    ids=["sparse", "csr", "meta", "quantised", "complex", "bool", "nested", "views", "recursive"],
)
def test_tensors_that_are_no_dense_floats(tmp_path, make):
    path = tmp_path / "net.pth"
    torch.save({"net": make()}, path)  # noqa: TID251
    with pytest.raises(InputError, match=r"net\.pth: ") as error:
        read_weights(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_bomb_of_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("dss.fields.key_spheres.MAX_BYTES", 1 << 10)
    torch.save({"net": torch.zeros(10_000)}, tmp_path / "net.pth")  # noqa: TID251
    with pytest.raises(InputError, match="longer than 1,024 bytes"):
        read_weights(tmp_path / "net.pth")


def readers():
    return {
        "net.pth": read_weights,
        "net.safetensors": read_weights,
        "spheres.txt": read_spheres,
        "net.h5": lambda path: NeuralImplicitField.from_weights(path, SETTINGS, {}),
        "shell.h5": lambda path: read_h5(path, path),
    }


@pytest.mark.parametrize("name", readers())
@pytest.mark.parametrize("kind", ["pipe", "device", "long", "null"])
def test_pipes_devices_and_impossible_names(tmp_path, name, kind):
    path = tmp_path / {"long": "x" * 300 + name, "null": "\0" + name}.get(kind, name)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="(?i)no such"):
        readers()[name](path)


@pytest.mark.parametrize("row", ["200 0 0 1 0", "1 1 1 1e300 0", "-300 1 1 1 0", "1 1 1 1e999 0"])
def test_spheres_outside_the_grid(tmp_path, row):
    path = tmp_path / "spheres.txt"
    path.write_text(f"1\n{row}\n0\n")
    with pytest.raises(InputError, match=r"spheres\.txt: a sphere"):
        read_spheres(path)


@pytest.fixture
def outside(tmp_path):
    """A file whose bytes must not become numbers of another."""
    path = tmp_path / "outside"
    path.write_bytes(np.ones((4, 4)).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.ones((4, 4))
    return path


@pytest.mark.parametrize(
    "kind", ["external", "virtual", "link", "complex", "text", "bomb", "huge", "group"]
)
def test_datasets_that_are_no_numbers_of_their_file(tmp_path, outside, kind):
    path = tmp_path / "shell.h5"
    with h5py.File(path, "w") as file:
        match kind:
            case "external":
                file.create_dataset("data", (4, 4), "f8", external=[(str(outside), 0, 128)])
            case "virtual":
                layout = h5py.VirtualLayout((4, 4), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "data", (4, 4))
                file.create_virtual_dataset("data", layout)
            case "link":
                file["data"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")
            case "complex":
                file["data"] = np.ones((4, 4)) * 1j
            case "text":
                file["data"] = np.full((4, 4), b"1")
            case "bomb":
                file.create_dataset("data", (1 << 30, 4), "f8", compression="gzip")
            case "huge":
                file["data"] = np.full((4, 4), 1e300)
            case "group":
                file.create_group("data")
    with pytest.raises(InputError, match=r"shell\.h5"):
        read_h5(path, path)


def test_keras_weights_in_another_file(tmp_path):
    path = tmp_path / "net.h5"
    NeuralImplicitField(SETTINGS, {}).to_weights(path)
    with h5py.File(path, "a") as file:
        file.move("dense", "moved")
        (tmp_path / "other.h5").write_bytes(b"")
        with h5py.File(tmp_path / "other.h5", "w") as other:
            file.copy("moved", other, "dense")
        file["dense"] = h5py.ExternalLink("other.h5", "dense")
    with pytest.raises(InputError, match="lie in another file"):
        NeuralImplicitField.from_weights(path, SETTINGS, {})
