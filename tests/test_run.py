"""Run folders: what is saved is what is loaded, and nothing else is accepted."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dss.checkpoint import REMEDY
from dss.config import MeshConfig, PhotoConfig
from dss.errors import InputError
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.fitting.samples import Samples
from dss.geometry.mesh import load_mesh
from dss.geometry.similarity import Similarity
from dss.log import Log
from dss.progress import Event
from dss.reconstruction.models import build_model
from dss.reconstruction.samplers import build_sampler
from dss.registry import load_config
from dss.run import (
    VERSION,
    MeshRun,
    PhotoRun,
    Source,
    load_samples,
    open_folder,
    open_run,
    save_field,
    save_model,
    save_samples,
)
from dss.shell.dual_shell import DualShell

SHELL = DualShell(
    torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]]),
    torch.tensor([0.4, 0.1]),
    torch.tensor([0.8, 0.5]),
)
SOURCE = Source("some/mesh.ply", "ab" * 32, Similarity((1.0, 2.0, 3.0), 4.5))
CONFIG = MeshConfig(field=DualShellSettings(width=16, latent=4))


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    open_folder(tmp_path / "run", CONFIG)
    save_field(tmp_path / "run", build(CONFIG.field, SHELL.geometry), CONFIG, SOURCE)
    return tmp_path / "run"


def test_a_field_comes_back(tmp_path):
    field = build(CONFIG.field, SHELL.geometry)
    open_folder(tmp_path / "run", CONFIG)
    save_field(tmp_path / "run", field, CONFIG, SOURCE)
    run = open_run(tmp_path / "run")
    assert isinstance(run, MeshRun) and run.folder == tmp_path / "run" and run.file.is_file()
    points = torch.rand(1000, 3) * 2 - 1
    assert torch.equal(run.field.sdf(points), field.sdf(points))
    assert run.config == CONFIG and run.source == SOURCE
    # no temporary file stays
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_samples_come_back(tmp_path):
    rounds = [Samples(torch.rand(n, 3), torch.randint(2, (n,)), torch.rand(n)) for n in (5, 7)]
    save_samples(tmp_path, SOURCE, SHELL.geometry, rounds)
    source, geometry, loaded = load_samples(tmp_path)
    assert source == SOURCE and torch.equal(geometry["shell.outer_radii"], SHELL.outer_radii)
    for one, other in zip(rounds, loaded, strict=True):
        for item in dataclasses.fields(Samples):
            assert torch.equal(getattr(one, item.name), getattr(other, item.name))


def test_a_folder_holds_one_configuration(tmp_path):
    open_folder(tmp_path / "run", CONFIG)
    open_folder(tmp_path / "run", CONFIG)
    save_samples(tmp_path / "run", SOURCE, SHELL.geometry, [])
    with pytest.raises(InputError, match="another configuration"):
        open_folder(tmp_path / "run", CONFIG.model_copy(update={"seed": 1}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not a run folder"):
        open_folder(tmp_path / "other", CONFIG)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        open_run(tmp_path / "nowhere")
    open_folder(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="has not finished"):
        open_run(tmp_path / "run")


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def garbage(path):
    path.write_bytes(b"\x93" * 4000)


def empty(path):
    path.write_bytes(b"")


def pickled(path):
    # a dictionary, by pickle protocol 4
    path.write_bytes(bytes.fromhex("80049505000000000000007d9404752e"))


def misshapen(path):
    tensors = {f"shell.{name}": value for name, value in SHELL.state_dict().items()} | {
        "latents": torch.zeros(2, 9)
    }
    source = dataclasses.asdict(SOURCE)
    about = {"version": VERSION, "config": {"field": {"width": 16, "latent": 4}}, "source": source}
    save_file(tensors, path, {"dss": json.dumps(about)})


def sourceless(path):
    save_file({}, path, {"dss": json.dumps({"version": VERSION, "config": {}})})


def listed(path):
    save_file({}, path, {"dss": json.dumps([1, 2])})


def future(path):
    save_file({"weight": torch.zeros(3)}, path, {"dss": json.dumps({"version": "99"})})


@pytest.mark.parametrize(
    "damage", [foreign, truncated, garbage, empty, pickled, misshapen, sourceless, listed, future]
)
def test_a_damaged_or_foreign_field_is_named_in_one_line(folder, damage):
    damage(folder / "field.safetensors")
    with pytest.raises(InputError, match="field.safetensors") as caught:
        open_run(folder)
    assert "\n" not in str(caught.value)


def test_damaged_samples_are_named(tmp_path):
    save_samples(tmp_path, SOURCE, SHELL.geometry, [])
    path = tmp_path / "samples.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"samples\.npz.*delete"):
        load_samples(tmp_path)


def test_a_moved_or_changed_mesh_is_named(folder, ball, tmp_path):
    run = open_run(folder)
    with pytest.raises(InputError, match=r"some/mesh\.ply.*--data"):
        run.load_mesh()
    ball.export(tmp_path / "other.ply")
    with pytest.raises(InputError, match="not the mesh"):
        run.load_mesh(str(tmp_path / "other.ply"))


def test_a_field_of_an_old_version_is_refused_in_one_clear_line(folder):
    """Version 1 was written before the configuration's keys were renamed."""
    path = folder / "field.safetensors"
    config = {"field": {"method": "dual_shell", "width": 16, "latent": 4}, "fit": {"rate": 0.04}}
    source = {"mesh": "a.ply", "sha256": "", "center": [0.0, 0.0, 0.0], "scale": 1.0}
    about = {"version": "1", "config": config, "source": source}
    save_file({"latents": torch.zeros(2, 4)}, path, {"dss": json.dumps(about)})
    with pytest.raises(InputError) as caught:
        open_run(folder)
    expected = f"{path}: written by another version of dss (1, not {VERSION}); {REMEDY}"
    assert str(caught.value) == expected


def test_a_run_of_photos_comes_back(tmp_path):
    config = load_config("neus_tiny", ["model.layers=2", "model.width=16"], "gone")
    assert isinstance(config, PhotoConfig)
    torch.manual_seed(0)
    model, sampler = build_model(config.model), build_sampler(config.sampler)
    open_folder(tmp_path / "run", config)
    saved = save_model(tmp_path / "run", model, sampler, config, SOURCE)
    run = open_run(tmp_path / "run")
    assert isinstance(run, PhotoRun) and (run.config, run.source) == (config, SOURCE)
    assert run.similarity == SOURCE.similarity and run.background.shape == (3,)
    points = torch.rand(100, 3) - 0.5
    assert torch.equal(run.model.sdf(points), saved.model.sdf(points))
    path = tmp_path / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="model.safetensors.*damaged"):
        open_run(tmp_path / "run")


def test_the_log_tells_the_caller_and_tensorboard(tmp_path):
    events = []
    with Log(tmp_path, "fit", 10, events.append) as log:
        log.scalars(3, {"loss": 0.12345, "lr": torch.tensor(1e-3)})
        log.picture(3, "normals", lambda: np.zeros((8, 8, 3), np.uint8))
    assert events == [Event("fit", 3, 10, "loss 0.123, lr 0.001")]
    (file,) = (tmp_path / "log").iterdir()
    assert file.name.startswith("events.out.tfevents") and b"normals" in file.read_bytes()


def test_the_truth_of_a_run_is_found_where_it_is_now(ball_run):
    run, path = open_run(ball_run), ball_run.parent / "ball.ply"
    with pytest.raises(
        InputError, match="moved.ply, which is not there; name its place with --data"
    ):
        run.load_truth()
    mesh = load_mesh(path)
    for found in (run.load_truth(str(path)), run.load_mesh(str(path))):
        assert np.array_equal(found.vertices, mesh.vertices)
    path.rename(path.with_name("moved.ply"))
    assert run.load_truth().sha256 == mesh.sha256
    assert run.surface(32).is_watertight
