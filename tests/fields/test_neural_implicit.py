"""Neural Implicit against Keras' arithmetic, the scores of its authors' weights, and bad files."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dss.config import FitSettings, MeshConfig
from dss.errors import InputError
from dss.evaluation.geometry import inside, iou
from dss.fields.neural_implicit import NeuralImplicitField, NeuralImplicitSettings
from dss.fitting.fit import fit
from dss.fitting.samples import Samples
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples

# Intersection over union on the nodes of linspace(-1, 1, 64)^3, and the bounds of mean |f| on the
# surface (docs/method.md, section 10).
SCORES = {"252119": 0.896, "53159": 0.967, "75656": 0.979, "78671": 0.945, "96481": 0.917}
SURFACE = (0.0019, 0.0035)


def make(**settings) -> NeuralImplicitField:
    torch.manual_seed(0)
    return NeuralImplicitField(NeuralImplicitSettings(**settings), {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A weight file of 11 hidden layers of 5, so that dense_10 and dense_2 have the same shapes."""
    path = tmp_path / "net.h5"
    make(layers=11, width=5).to_weights(path)
    return path


@pytest.mark.parametrize(("layers", "width", "count"), [(8, 32, 7553), (10, 256, 593_409)])
def test_parameters_and_initialisation(layers, width, count):
    field = make(layers=layers, width=width)
    assert sum(parameter.numel() for parameter in field.parameters()) == count
    assert field.storage() == {"mlp": 4 * count}
    kernel = field.mlp[2].weight
    assert kernel.abs().max() <= (
        bound := (6 / (2 * width)) ** 0.5
    ) and kernel.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not field.mlp[2].bias.any()


def test_a_file_is_read_in_the_order_of_its_layers(file):
    points = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32)
    value = points
    with h5py.File(file) as weights:
        for number in range(12):  # as Keras computes it
            name = f"dense_{number}" if number else "dense"
            value = (
                value @ weights[f"{name}/{name}/kernel:0"][()]
                + weights[f"{name}/{name}/bias:0"][()]
            )
            value = np.maximum(value, 0) if number < 11 else np.tanh(value)
    torch.manual_seed(1)
    field = NeuralImplicitField.from_weights(file, NeuralImplicitSettings(layers=11, width=5), {})
    assert np.abs(field.sdf(torch.from_numpy(points)).numpy() - value[:, 0]).max() < 1e-6


def test_an_exported_file_has_the_authors_layout(data, tmp_path):
    theirs = data / "ni_weights" / "53159_sf.h5"
    NeuralImplicitField.from_weights(theirs, NeuralImplicitSettings(), {}).to_weights(
        tmp_path / "ours.h5"
    )

    def content(path: Path) -> dict:
        found = {}
        with h5py.File(path) as file:
            found |= {name: np.asarray(value).tolist() for name, value in file.attrs.items()}

            def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
                found[name] = {key: value.tolist() for key, value in item.attrs.items()}
                if isinstance(item, h5py.Dataset):
                    found[name] |= {"dtype": item.dtype, "values": item[()].tolist()}

            file.visititems(visit)
        return found

    assert content(tmp_path / "ours.h5") == content(theirs)


def test_layers_without_weights_are_skipped(file):
    with h5py.File(file, "a") as weights:
        weights.create_group("input_1").attrs["weight_names"] = np.array([], "S")
        weights.attrs["layer_names"] = np.array([b"input_1", *weights.attrs["layer_names"]], "S")
    NeuralImplicitField.from_weights(file, NeuralImplicitSettings(layers=11, width=5), {})


@pytest.mark.parametrize("name", SCORES)
def test_the_authors_weights_score_as_published(data, name):
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    field = NeuralImplicitField.from_weights(
        data / "ni_weights" / f"{name}_sf.h5", NeuralImplicitSettings(), {}
    )
    axis = np.linspace(-1, 1, 64)
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    assert iou(
        inside(field, nodes), inside(MeshDistance(mesh.vertices, mesh.faces), nodes)
    ) == pytest.approx(SCORES[name], abs=1e-3)
    surface = surface_samples(mesh.vertices, mesh.faces, 20_000)[0].astype(np.float32)
    assert SURFACE[0] < field.sdf(torch.from_numpy(surface)).abs().mean() < SURFACE[1]


def _foreign(path: Path) -> None:
    path.write_bytes(b"not HDF5 at all")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_names(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["layer_names"]


def _layer_missing(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["dense_3"]


def _group_for_weights(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["dense_3/dense_3/kernel:0"]
        file.create_group("dense_3/dense_3/kernel:0")


def _wrong_shape(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["dense_3/dense_3/kernel:0"]
        file["dense_3/dense_3/kernel:0"] = np.zeros((5, 6), np.float32)


def _text(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["dense/dense/kernel:0"]
        file.create_dataset("dense/dense/kernel:0", (3, 5), h5py.string_dtype())


def _not_finite(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["dense_3/dense_3/bias:0"][0] = np.nan


DAMAGES = {
    Path.unlink: "No such file",
    _foreign: "damaged",
    _truncated: "damaged",
    _without_names: "damaged",
    _layer_missing: "damaged",
    _group_for_weights: "damaged",
    _text: "damaged",
    _wrong_shape: "5x6",
    _not_finite: "NaN",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_files_are_named(file, damage):
    damage(file)
    with pytest.raises(InputError, match=f"net.h5.*{DAMAGES[damage]}") as error:
        NeuralImplicitField.from_weights(file, NeuralImplicitSettings(layers=11, width=5), {})
    assert "\n" not in str(error.value)


def test_another_size_is_named_with_the_remedy(file):
    with pytest.raises(
        InputError, match=r"holds 3x5 5 5x5.* not 3x32 .*set field\.layers and field\.width"
    ):
        NeuralImplicitField.from_weights(file, NeuralImplicitSettings(), {})


def ball_samples(count: int = 10_000) -> Samples:
    """Points near a ball of radius 0.6, the denser the nearer."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    sdf = 0.1 * torch.randn(count, generator=generator)
    return Samples(direction * (0.6 + sdf)[:, None], torch.full((count,), -1), sdf)


def test_a_ball_is_learnt(tmp_path):
    options = FitSettings(epochs=12, batch_size=256, optimizer="adam", lr=5e-3, band=0)
    config = MeshConfig(field=NeuralImplicitSettings(layers=2, width=16), fit=options)
    samples = ball_samples()
    field = fit(config, {}, [samples], torch.device("cpu"), tmp_path / "state", lambda *_: None)
    near = samples.sdf.abs() < 0.05
    assert (field(samples.points) - samples.sdf)[near].abs().mean() < 0.008


def test_a_dead_net_is_begun_anew(tmp_path, monkeypatch):
    reset, made = NeuralImplicitField.__init__, []

    def first_dead(field, *arguments):
        reset(field, *arguments)
        if not made:
            # no point wakes a unit, so no gradient ever reaches them
            torch.nn.init.constant_(field.mlp[0].bias, -9)
        made.append(field)

    monkeypatch.setattr(NeuralImplicitField, "__init__", first_dead)
    options = FitSettings(epochs=5, optimizer="adam", lr=5e-3, batch_size=512, band=0)
    config = MeshConfig(field=NeuralImplicitSettings(layers=2, width=16), fit=options)
    epochs = []
    fit(
        config,
        {},
        [ball_samples()],
        torch.device("cpu"),
        tmp_path / "state",
        lambda epoch, *_: epochs.append(epoch),
    )
    assert len(made) == 2 and epochs == [1, 2, 3, 1, 2, 3, 4, 5]
