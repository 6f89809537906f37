"""From a mesh, a cloud or photos to a run: what is made, what is reported, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dss.errors import InputError
from dss.fields.neural_implicit import NeuralImplicitField, NeuralImplicitSettings
from dss.pipeline import fit_run, import_weights
from dss.progress import Event
from dss.registry import load_config
from dss.run import MeshRun, PhotoRun, open_run
from tests.helpers import write_synthetic

TINY = [
    "spheres.method=farthest",
    "spheres.count=8",
    "spheres.resolution=24",
    "samples.count=2000",
    "field.width=8",
    "field.latent=2",
    "fit.epochs=4",
    "fit.resample=2",
    "fit.batch_size=512",
    "fit.checkpoint=2",
]
TINY_PHOTOS = [
    "scene.downscale=1",
    "model.layers=1",
    "model.width=16",
    "model.skip=0",
    "model.feature=4",
    "model.colour_layers=1",
    "model.colour_width=16",
    "sampler.coarse=8",
    "sampler.fine=8",
    "train.steps=4",
    "train.rays=16",
    "train.checkpoint=2",
    "train.warm_up_steps=0",
]


@pytest.fixture
def box_path(tmp_path, box):
    box.export(tmp_path / "box.ply")
    return str(tmp_path / "box.ply")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, box):
    """A run that nothing interrupted, and its events."""
    folder, events = tmp_path_factory.mktemp("whole"), []
    box.export(folder / "box.ply")
    config = load_config(None, TINY, str(folder / "box.ply"))
    return fit_run(config, folder / "run", progress=events.append), events


def equal(one, other) -> bool:
    """Whether two fields have the same parameters, bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_events_of_a_fit_come_in_order(whole):
    _, events = whole
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["mesh", "shell", "samples", "fit", "field"]
    kinds = [event.stage for event in events]
    assert kinds == sorted(kinds, key=stages.index)  # no stage comes back
    assert all(0 <= event.done <= event.total for event in events)
    by_stage = {stage: [event for event in events if event.stage == stage] for stage in stages}
    assert [len(by_stage[stage]) for stage in ("mesh", "shell", "field")] == [1, 1, 1]
    assert "12 faces" in by_stage["mesh"][0].text
    assert by_stage["shell"][0].text.startswith("8 spheres, thickness 0.")
    *rounds, last = by_stage["samples"]
    assert [(event.done, event.total) for event in rounds] == [(0, 2), (1, 2)]
    assert last == Event("samples", 1, 1, "2,000 x 2 rounds")
    epochs = [(event.done, event.total) for event in by_stage["fit"]]
    assert epochs == [(done, 4) for done in (1, 2, 3, 4)]
    assert "loss" in by_stage["fit"][0].text and "KiB" in by_stage["field"][0].text


def test_what_a_run_consists_of(whole):
    run, _ = whole
    assert isinstance(run, MeshRun) and run.source.path == run.config.mesh.path
    names = {path.name for path in run.folder.iterdir()}
    expected = {"config.yaml", "samples.npz", "field.safetensors", "training.safetensors"}
    assert names == expected | {"log", "fit.json"}
    facts = json.loads((run.folder / "fit.json").read_text())
    assert facts["samples"] == 7600 and facts["fit_seconds"] > 0


def test_a_finished_run_is_opened(whole):
    run, events = whole[0], []
    again = fit_run(run.config, run.folder, progress=events.append)
    assert [event.stage for event in events] == ["samples", "field"]
    assert events[-1] == Event("field", 1, 1, "already fitted")
    assert equal(again.field, run.field)


def test_a_fit_that_was_interrupted_goes_on(whole, tmp_path):
    """The mesh is needed for the samples only, and these are kept."""
    run, folder = whole[0], tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "samples.npz"):
        shutil.copy(run.folder / name, folder)
    mesh = Path(run.config.mesh.path)
    mesh.rename(mesh.with_name("moved.ply"))

    def interrupt(event):
        if event.stage == "fit" and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(run.config, folder, progress=interrupt)
    with pytest.raises(InputError, match="its fit has not finished"):
        open_run(folder)
    events = []
    resumed = fit_run(run.config, folder, progress=events.append)
    mesh.with_name("moved.ply").rename(mesh)
    assert [event.done for event in events if event.stage == "fit"] == [3, 4]
    assert json.loads((folder / "fit.json").read_text()) == {"samples": 7600}
    assert equal(resumed.field, run.field)


def test_a_mesh_with_large_holes_is_warned_of(tmp_path, ball):
    half = trimesh.Trimesh(ball.vertices, ball.faces[ball.triangles_center[:, 2] > 0.1])
    half.export(tmp_path / "half.ply")
    events = []
    config = load_config("neural_implicit_8x32", [], str(tmp_path / "half.ply"))
    NeuralImplicitField(config.field, {}).to_weights(tmp_path / "net.h5")
    import_weights(tmp_path / "net.h5", config, tmp_path / "run", progress=events.append)
    (warning,) = (event for event in events if event.stage == "warning")
    assert "inside and outside are ambiguous on" in warning.text


def test_weights_are_imported_with_the_settings_that_the_field_has(tmp_path, box_path):
    torch.manual_seed(0)
    field = NeuralImplicitField(NeuralImplicitSettings(), {})
    field.to_weights(tmp_path / "net.h5")
    events, folder = [], tmp_path / "run"
    config = load_config("neural_implicit_8x32", [], box_path)
    run = import_weights(tmp_path / "net.h5", config, folder, progress=events.append)
    assert [event.stage for event in events] == ["mesh", "field"]
    assert run.config == config == load_config(folder / "config.yaml")
    points = torch.rand(100, 3)
    assert torch.equal(open_run(folder).field.sdf(points), field.sdf(points))
    other = load_config("neural_implicit_8x32", ["seed=1"], box_path)
    with pytest.raises(InputError, match="another configuration"):
        import_weights(tmp_path / "net.h5", other, folder)


def test_a_cloud_becomes_a_run(tmp_path, ball):
    points = ball.vertices[::40]
    np.savetxt(tmp_path / "cloud.xyz", np.hstack([points, points / 0.9]))
    tiny = ["samples.count=20", "field.width=32", "fit.epochs=2", "fit.lr=1e-3"]
    config = load_config("deepsdf_points_smooth", tiny, str(tmp_path / "cloud.xyz"))
    events = []
    run = fit_run(config, tmp_path / "run", progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["cloud", "samples", "fit", "field"]
    assert events[0].text == f"{len(points):,} points, given normals"
    assert len(run.load_truth().points) == len(points)
    with pytest.raises(InputError, match="was fitted to a point cloud; name the true mesh"):
        run.load_mesh()


def test_a_cloud_is_drawn_from_a_mesh(tmp_path, box_path):
    tiny = ["samples.points=50", "samples.count=20", "field.width=16", "fit.epochs=2"]
    config = load_config("deepsdf_points_smooth", tiny, box_path)
    events = []
    fit_run(config, tmp_path / "run", progress=events.append)
    assert events[0] == Event("cloud", 1, 1, "50 points, given normals")


def test_photos_become_a_run(tmp_path):
    (tmp_path / "scene").mkdir()
    scene = write_synthetic(tmp_path / "scene", 16)
    config = load_config("neus_tiny", TINY_PHOTOS, str(scene))
    events, folder = [], tmp_path / "run"
    run = fit_run(config, folder, progress=events.append)
    assert isinstance(run, PhotoRun) and run.config == config
    assert list(dict.fromkeys(event.stage for event in events)) == ["scene", "train", "model"]
    assert events[0].text.startswith("6 photos of 16x16; unit ball of radius ")
    assert events[-2].done == events[-2].total == 4
    names = {path.name for path in folder.iterdir()}
    files = {"config.yaml", "fit.json", "model.safetensors", "training.safetensors"}
    assert names == files | {"log"}
    events.clear()
    again = fit_run(config, folder, progress=events.append)
    assert events[-1] == Event("model", 1, 1, "already trained")
    for one, other in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_refused(tmp_path, box_path):
    for number, (name, overrides, data, message) in enumerate(
        (
            (None, [], "gone.ply", "gone.ply"),
            ("neus_tiny", [], "gone", "no such folder"),
            ("nglod_1", ["samples.method=pairs"], box_path, "needs a field with a shell"),
        )
    ):
        with pytest.raises(InputError, match=message):
            fit_run(load_config(name, overrides, data), tmp_path / str(number))
