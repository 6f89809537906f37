from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dss.config import (
    FitSettings,
    MeshConfig,
    MeshSettings,
    PhotoConfig,
    SamplesSettings,
    SpheresSettings,
    config_from_dict,
    read_yaml,
    save_config,
)
from dss.errors import InputError
from dss.fields.dual_shell import DualShellSettings
from dss.registry import CONFIGS, PLUGINS, load_config

SHIPPED = sorted(CONFIGS.glob("*.yaml"))


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "some.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_no_file_means_the_defaults():
    config = load_config(None)
    assert config == MeshConfig(field=DualShellSettings())
    parts = (config.mesh, config.spheres, config.samples, config.fit)
    assert parts == (MeshSettings(), SpheresSettings(), SamplesSettings(), FitSettings())


def test_file_then_overrides_in_order(yaml_file):
    path = yaml_file("seed: 3\nfit: {epochs: 7, lr: 1e-3}\nmesh:\n  path: some/mesh.ply\n")
    config = load_config(path, ["fit.epochs=8", "fit.epochs=9", "field.local=false", "fit.band=0"])
    assert (config.seed, config.mesh.path) == (3, "some/mesh.ply")
    assert (config.fit.epochs, config.fit.lr) == (9, 1e-3)
    assert config.field.local is False and config.fit.band == 0
    assert config.samples == SamplesSettings()


def test_numbers_become_the_declared_type():
    """YAML reads 1e-3 as text and 1 as an integer; both are fine where a float is expected."""
    for text, value in (("1e-3", 1e-3), ("1", 1.0), ("2.5", 2.5)):
        lr = load_config(None, [f"fit.lr={text}"]).fit.lr
        assert type(lr) is float and lr == value


@pytest.mark.parametrize("path", ["7", "a: b.ply", "a #2.ply", "~", "[x].ply", "k=v.ply", "true"])
def test_a_path_is_taken_literally(path):
    assert load_config(None, [f"mesh.path={path}"]).mesh.path == path


def test_resolved_configuration_reads_back(tmp_path):
    overrides = ["seed=5", "fit.lr=1e-3", "field.owner=smallest"]
    config = load_config(None, [*overrides, "mesh.path=with space: and colon.ply"])
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert config_from_dict(config.model_dump(), "model_dump", PLUGINS) == config


def test_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        load_config(None).seed = 1


def test_data_is_the_mesh_or_the_scene():
    assert load_config("fast", data="a.ply").mesh.path == "a.ply"
    assert load_config("neus_tiny", data="chair").scene.path == "chair"
    assert load_config(None, ["mesh.path=b.ply"], "a=b.ply").mesh.path == "a=b.ply"


def test_a_name_is_found_in_configs_where_no_such_file_is(yaml_file, monkeypatch):
    assert load_config("fast") == load_config(CONFIGS / "fast.yaml")
    path = yaml_file("seed: 3")
    path.rename(path.with_name("fast"))
    monkeypatch.chdir(path.parent)
    assert load_config("fast").seed == 3


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All values of a nested dictionary by dotted key."""
    found = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        found |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    config = load_config(path)
    assert isinstance(config, PhotoConfig if "scene" in read_yaml(path) else MeshConfig)
    given, resolved = leaves(yaml.safe_load(path.read_text())), leaves(config.model_dump())
    assert given and given.items() <= resolved.items()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_read_back(path, tmp_path):
    config = load_config(path)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.epoch=3", "unknown key fit.epoch; did you mean fit.epochs"),
        ("fitt.epochs=3", "unknown key fitt; did you mean fit"),
        ("=3", "unknown key"),
        ("fit.epochs", "expected key.sub=value"),
        ("fit=3", "fit is a section, got '3'"),
        ("seed.sub=3", "seed must be int"),
        ("fit.epochs.sub=3", "fit.epochs must be int"),
        ("fit.epochs=many", "fit.epochs must be int; got 'many'"),
        ("fit.epochs=1.5", "fit.epochs must be int; got 1.5"),
        ("fit.epochs=true", "fit.epochs must be int; got True"),
        ("fit.epochs=", "fit.epochs must be int; got None"),
        ("fit.epochs=[1", "not valid YAML"),
        ("fit.epochs=0", "fit.epochs must be above 0"),
        ("fit.batch_size=-1", "fit.batch_size must be above 0"),
        ("seed=-1", "seed must be at least 0"),
        ("seed=" + "9" * 30, "seed must be at least 0 and at most 1e"),
        ("fit.lr=quick", "fit.lr must be float; got 'quick'"),
        ("fit.lr=nan", "fit.lr must be above 0"),
        ("fit.lr=.inf", "fit.lr must be above 0"),
        ("fit.lr=1" + "0" * 400, "fit.lr must be float"),
        ("fit.lr=true", "fit.lr must be float"),
        ("fit.holdout=0.9", "fit.holdout must be above 0 and at most 0.5"),
        ("mesh.radius=1.1", "mesh.radius must be at least 0.01 and at most 1;"),
        ("fit.mixed_precision=1", "fit.mixed_precision must be bool"),
        ("field.owner=largest", "field.owner must be one of smallest, relative; got 'largest'"),
        ("field.owner=[a]", "field.owner must be one of"),
        ("field.method=nlgod", "unknown field.method nlgod; did you mean nglod"),
        ("field.method=[a]", "unknown field.method"),
        ("field.lods=3", "unknown key field.lods"),  # of another method
        ("field=3", "field is a section, got '3'"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected sections"),
        ("- 1\n- 2\n", "found list"),
        ("fit: [1, 2", "not valid YAML"),
        ("fit:\n", "fit is a section, got None"),
        ("fit: {epoch: 3}", "did you mean fit.epochs"),
        ("1: 2", "unknown key 1"),
        ("mesh: {path: 7}", "mesh.path must be str; got 7"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        (bytes(range(256)) * 4, "not valid YAML"),
    ],
)
def test_bad_files(yaml_file, content, message):
    path = yaml_file(content)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert (
        message in str(caught.value)
        and str(path) in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match="no such configuration file"):
            load_config(path)


def test_photos_have_sections_of_their_own(yaml_file):
    path = yaml_file("scene: {path: chair}\nmodel: {method: volsdf}\n")
    config = load_config(path, ["sampler.method=uniform", "train.lr=1"])
    assert isinstance(config, PhotoConfig) and config.model.method == "volsdf"
    assert config.train.lr == 1.0 and config.render.min_transmittance == 0
    for override, message in (
        ("model.method=nuse", "unknown model.method nuse; did you mean neus"),
        ("sampler.method=x", "unknown sampler.method x"),
        ("mesh.path=a.ply", "unknown key mesh"),
        ("scene.background=grey", "scene.background must be one of white, black, random"),
        ("render.min_transmittance=2", "at least 0 and at most 1"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(path, [override])
