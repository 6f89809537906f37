"""Run folders: what is saved is what is loaded, and nothing else is accepted."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dss.config import Config
from dss.errors import InputError
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.fitting.samples import Samples
from dss.run import Source, load_run, load_samples, open_folder, save_field, save_samples
from dss.shell.dual_shell import DualShell

SHELL = DualShell(torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]]), torch.tensor([0.4, 0.1]), torch.tensor([0.8, 0.5]))
SOURCE = Source("some/mesh.ply", "ab" * 32, (1.0, 2.0, 3.0), 4.5)
CONFIG = Config(field=DualShellSettings(width=16, latent=4))


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
    run = load_run(tmp_path / "run")
    points = torch.rand(1000, 3) * 2 - 1
    assert torch.equal(run.field.sdf(points), field.sdf(points))
    assert run.config == CONFIG and run.source == SOURCE
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]  # no temporary file stays


def test_samples_come_back(tmp_path):
    rounds = [Samples(torch.rand(n, 3), torch.randint(2, (n,)), torch.rand(n)) for n in (5, 7)]
    save_samples(tmp_path, SOURCE, SHELL.geometry, rounds)
    source, geometry, loaded = load_samples(tmp_path)
    assert source == SOURCE and torch.equal(geometry["shell.outer_radii"], SHELL.outer_radii)
    for one, other in zip(rounds, loaded, strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.owner, other.owner) and torch.equal(one.sdf, other.sdf)


def test_a_folder_holds_one_configuration(tmp_path):
    open_folder(tmp_path / "run", CONFIG)
    open_folder(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="another configuration"):
        open_folder(tmp_path / "run", Config())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not a run folder"):
        open_folder(tmp_path / "other", CONFIG)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        load_run(tmp_path / "nowhere")
    open_folder(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="has not finished"):
        load_run(tmp_path / "run")


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def garbage(path):
    path.write_bytes(b"\x93" * 4000)


def empty(path):
    path.write_bytes(b"")


def pickled(path):
    path.write_bytes(bytes.fromhex("80049505000000000000007d9404752e"))  # a dictionary, by pickle protocol 4


def misshapen(path):
    tensors = {f"shell.{name}": value for name, value in SHELL.state_dict().items()} | {"latents": torch.zeros(2, 9)}
    about = {"version": "1", "config": {"field": {"width": 16, "latent": 4}}, "source": SOURCE.__dict__}
    save_file(tensors, path, {"dss": json.dumps(about)})


def future(path):
    save_file({"weight": torch.zeros(3)}, path, {"dss": json.dumps({"version": "99"})})


@pytest.mark.parametrize("damage", [foreign, truncated, garbage, empty, pickled, misshapen, future])
def test_a_damaged_or_foreign_field_is_named_in_one_line(folder, damage):
    damage(folder / "field.safetensors")
    with pytest.raises(InputError, match="field.safetensors") as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


def test_damaged_samples_are_named(tmp_path):
    save_samples(tmp_path, SOURCE, SHELL.geometry, [])
    path = tmp_path / "samples.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"samples\.npz.*delete"):
        load_samples(tmp_path)


def test_a_moved_or_changed_mesh_is_named(folder, ball, tmp_path):
    run = load_run(folder)
    with pytest.raises(InputError, match=r"some/mesh\.ply.*--mesh"):
        run.load_mesh()
    ball.export(tmp_path / "other.ply")
    with pytest.raises(InputError, match="not the mesh"):
        run.load_mesh(str(tmp_path / "other.ply"))
