"""Configurations that no one wrote in earnest: one line each, and at once."""

import time

import pytest

from dss import registry
from dss.config import MeshConfig
from dss.errors import InputError
from dss.fields import METHODS, build
from dss.pipeline import fit_run
from dss.reconstruction.models import build_model
from dss.registry import load_config

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


def refusal(path, content: str | bytes) -> str:
    """The error of a configuration file, which must be one short line within a second."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert time.perf_counter() - start < 1
    message = str(caught.value)
    assert "\n" not in message and len(message) < len(str(path)) + 400
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: " + "9" * 5000, "a number of 5000 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5002 digits"),
        ("seed: 0x" + "f" * 900, "seed must be at least 0"),
        ("0x" + "f" * 900 + ": 3", "unknown key 5104866514"),
        ("seed: 0x_", "not valid YAML"),
        ("fit: {lr: 1" + ":59" * 300 + ".5}", "not valid YAML"),
        ("[" * 5000, "more than 8 levels"),
        ("- " * 5000, "more than 8 levels"),
        ("{a: " * 4000, "more than 8 levels"),
        ("seed: !!float abc", "tags"),
        ("seed: !!int abc", "tags"),
        ("seed: !!timestamp abc", "tags"),
        ("seed: !!binary '*'", "tags"),
        ("? !!set {a}\n: 3", "tags"),
        (BOMB, "aliases"),
        ("fit: &fit {epochs: 3, more: *fit}", "aliases"),
        ("{<<: {seed: 1}}", "unknown key <<"),
        ("seed: 2020-13-45", "seed must be int; got '2020-13-45'"),
        ("2020-01-01: 3", "unknown key 2020-01-01"),
        ("seed: " + "x" * 20_000, "more than 16,384 characters"),
        ("seed: " + "x" * 16_000, "seed must be int; got 'xxx"),
        ("x" * 16_000 + ": 3", "not valid YAML"),
        ("? " + "x" * 16_000 + "\n: 3", "unknown key xxx"),
        ('"a\\nb": 3', "unknown key a b"),
        ("seed: [" + "1, " * 5_000 + "]", "seed must be int; got [1, 1"),
        ("field: {method: [a]}", "unknown field.method ['a']"),
        ("field: {method: {a: b}}", "unknown field.method"),
        ("field: {method: 3}", "unknown field.method 3"),
        ("field: [a]", "field is a section, got ['a']"),
        ("spheres: {method: [cover]}", "spheres.method must be one of"),
        ("mesh: {path: [a]}", "mesh.path must be str"),
        ("scene: [a]", "scene is a section"),
        ("scene: {}\nsampler: {method: [a]}", "unknown sampler.method"),
        ("[a]: 3", "unhashable key"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_a_monstrous_file_is_one_line_at_once(tmp_path, content, message):
    assert message in refusal(tmp_path / "some.yaml", content)


def test_an_endless_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "some.yaml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="no such configuration file"):
        load_config(tmp_path / "some.yaml")


def test_a_date_is_a_text(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("mesh: {path: 2020-01-01}\n")
    assert load_config(path).mesh.path == "2020-01-01"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.epochs=" + "9" * 5000, "a number of 5000 digits"),
        ("fit.epochs=" + "[" * 5000, "more than 8 levels"),
        ("fit.epochs=!!float abc", "tags"),
        ("fit.epochs=2020-01-01", "fit.epochs must be int"),
        ("\udcff=3", "unknown key"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_monstrous_override_is_one_line(override, message):
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert message in str(caught.value) and len(str(caught.value)) < 400


MACHINE = 24 * 10**9  # bytes


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("fast", "samples.method=near", "samples.method=near: dual_shell cannot learn from"),
        ("fast", "samples.method=importance", "for field.method=dual_shell choose pairs or part"),
        ("fast", "samples.method=oriented", "samples.method=oriented: dual_shell is built on a"),
        ("nglod_1", "samples.method=pairs", "needs a field with a shell"),
        (
            "compact_shell_8k",
            "fit.keep=best",
            "the epochs of a coded field differ in bytes, too; choose last",
        ),
        ("key_spheres", "samples.method=oriented", "choose importance or near"),
        ("fast", "fit.plateau_factor=1", "fit.plateau_factor must be above 0 and below 1; got 1"),
        ("fast", "samples.count=1", "samples.count must be at least 2 and"),
        ("key_spheres", "samples.focus=1e12", "samples.focus must be above 0 and at most 10000"),
        ("fast", "samples.spread=100", "samples.spread must be above 0 and at most 4; got 100"),
        ("fast", "mesh.radius=1e-300", "mesh.radius must be at least 0.01 and at most 1"),
        ("fast", "spheres.resolution=10000", "spheres.resolution must be above 0 and at most 2048"),
        ("deepsdf_points", "field.width=3", "field.width must be at least 4"),
        ("fast", "samples.count=10_000_000_000", "samples.count=10000000000 in 2 rounds: need 480"),
        ("fast", "fit.resample=1 fit.epochs=1_000_000", "in 1000000 rounds: need"),
        ("fast", "field.width=100000", "field of fit.starts=1: need 16"),
        ("fast", "field.latent=1_000_000_000", "field of fit.starts=1: need"),
        ("fast", "field.octaves=1_000_000_000", "field of fit.starts=1: need"),
        ("fast", "field.layers=1_000_000", "field.layers must be above 0 and at most 1000"),
        ("fast", "fit.starts=1_000_000_000", "field of fit.starts=1000000000: need"),
        ("deepsdf_points", "field.width=100000", "need"),
        ("key_spheres", "field.width=100000", "need"),
        ("neural_implicit_8x32", "field.width=100000", "need"),
        ("nglod_1", "field.features=20_000_000", "need"),
        ("neus_tiny", "model.width=100000", "model: need"),
        ("neus_tiny", "model.colour_width=100000", "model: need"),
        ("neus_tiny", "model.layers=1_000_000", "model.layers must be above 0"),
        ("neus_tiny", "train.rays=10_000_000_000", "train.rays=10000000000: need 240 GB"),
        ("neus_tiny", "sampler.coarse=10_000_000_000", "sampler of train.rays=192: need 46,080 GB"),
        ("neus_tiny", "sampler.fine=10_000_000_000", "sampler of train.rays=192: need 23,040 GB"),
        ("neus_shell", "sampler.coarse=10_000_000_000", "sampler of train.rays=512: need"),
        ("neus_shell_tiny", "sampler.step=1e-9", "sampler of train.rays=192: need"),
        (
            "neus_spheres_tiny",
            "sampler.spheres=1_000_000_000",
            "sampler of train.rays=128: need 44",
        ),
        ("neus_occupancy_tiny", "sampler.step=1e-9", "sampler of train.rays=192: need"),
        ("neus_fast_tiny", "sampler.grid=10_000", "sampler.grid must be above 0 and at most 1024"),
        ("neus_shell_tiny", "sampler.resolution=10_000", "sampler.resolution must be above 0"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(monkeypatch, name, override, message):
    monkeypatch.setattr("dss.registry.machine_memory", lambda: MACHINE)
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_config(name, override.split())
    assert time.perf_counter() - start < 1
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_machine_has_memory():
    assert 10**8 < registry.machine_memory() < 10**15


def test_what_ships_fits(monkeypatch):
    """What is known to be needed is an estimate from below."""
    monkeypatch.setattr("dss.registry.machine_memory", lambda: 2 * 10**9)
    for path in registry.CONFIGS.glob("*.yaml"):
        config = load_config(path)
        if isinstance(config, MeshConfig) and not METHODS[config.field.method].geometry_keys:
            field = build(config.field, {})
            count = sum(parameter.numel() for parameter in field.parameters())
            assert 0.5 * count < config.field.least_parameters() <= count
        elif not isinstance(config, MeshConfig):
            model = build_model(config.model)
            count = sum(parameter.numel() for parameter in model.parameters())
            assert 0 < config.model.least_parameters() <= count


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fast", "samples.spread=4"),
        ("fast", "samples.method=pairs samples.count=2"),
        ("fast", "samples.count=2"),
        ("fast", "mesh.radius=0.01"),
        ("nglod_1", "samples.count=2"),
        ("neural_implicit_8x32", "samples.count=2 samples.focus=1"),
        ("key_spheres", "samples.count=20 samples.focus=1 spheres.resolution=32"),
        ("deepsdf_points", "samples.count=2 field.width=4 samples.points=40"),
    ],
)
def test_what_is_at_the_bounds_works_or_is_one_line(tmp_path, box, name, settings):
    box.export(tmp_path / "box.ply")
    small = ["samples.count=400", "fit.epochs=1", "fit.resample=1", "fit.starts=1"]
    if name == "fast":
        small += ["spheres.method=farthest", "spheres.count=8", "spheres.resolution=24"]
    config = load_config(name, [*small, *settings.split()], str(tmp_path / "box.ply"))
    try:
        fit_run(config, tmp_path / "run")
    except InputError as error:
        assert "\n" not in str(error)


def test_a_focus_that_no_point_is_near_enough_for_is_one_line(tmp_path, box):
    box.export(tmp_path / "box.ply")
    settings = ["samples.count=2", "samples.focus=10000", "fit.epochs=1", "fit.resample=1"]
    config = load_config("neural_implicit_8x32", settings, str(tmp_path / "box.ply"))
    with pytest.raises(InputError, match="samples.focus=10000: none of 20 points is near enough"):
        fit_run(config, tmp_path / "run")
