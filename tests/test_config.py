import dataclasses
from pathlib import Path

import pytest
import yaml
from dss.reconstruction.config import ViewsConfig
from dss.reconstruction.run import is_views

from dss.config import Config, config_from_dict, load_config, save_config
from dss.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "some.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_no_file_means_the_defaults():
    assert load_config(None) == Config()


def test_file_then_overrides_in_order(yaml_file):
    path = yaml_file("seed: 3\nfit: {epochs: 7, rate: 1e-3}\nmesh:\n  path: some/mesh.ply\n")
    config = load_config(path, ["fit.epochs=8", "fit.epochs=9", "field.local=false", "fit.band=0"])
    assert (config.seed, config.mesh.path, config.fit.epochs, config.fit.rate) == (3, "some/mesh.ply", 9, 1e-3)
    assert config.field.local is False and config.fit.band == 0
    assert config.samples == Config().samples


def test_numbers_become_the_declared_type():
    """YAML reads 1e-3 as text and 1 as an integer; both are fine where a float is expected."""
    for text, value in (("1e-3", 1e-3), ("1", 1.0), ("2.5", 2.5)):
        rate = load_config(None, [f"fit.rate={text}"]).fit.rate
        assert type(rate) is float and rate == value


@pytest.mark.parametrize("path", ["7", "a: b.ply", "a #2.ply", "~", "[x].ply", "k=v.ply", "true"])
def test_a_path_is_taken_literally(path):
    assert load_config(None, [f"mesh.path={path}"]).mesh.path == path


def test_resolved_configuration_reads_back(tmp_path):
    config = load_config(None, ["seed=5", "fit.rate=1e-3", "field.owner=smallest", "mesh.path=with space: and colon.ply"])
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert config_from_dict(dataclasses.asdict(config), "asdict") == config


def test_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    config = load_config(path, kind=ViewsConfig if is_views(path) else Config)
    given = yaml.safe_load(path.read_text())
    resolved = dataclasses.asdict(config)
    assert all(resolved[section][key] == value for section, values in given.items() if section != "seed" for key, value in values.items())


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
        ("fit.batch=-1", "fit.batch must be above 0"),
        ("seed=-1", "seed must be at least 0"),
        ("seed=" + "9" * 30, "seed must be at least 0 and at most 1e"),
        ("fit.rate=quick", "fit.rate must be float; got 'quick'"),
        ("fit.rate=nan", "fit.rate must be above 0"),
        ("fit.rate=.inf", "fit.rate must be above 0"),
        ("fit.rate=1" + "0" * 400, "fit.rate must be float"),
        ("fit.rate=true", "fit.rate must be float"),
        ("fit.holdout=0.9", "fit.holdout must be above 0 and at most 0.5"),
        ("mesh.radius=1.1", "mesh.radius must be above 0 and at most 1;"),
        ("fit.mixed=1", "fit.mixed must be bool"),
        ("field.owner=largest", "field.owner must be one of smallest, relative; got 'largest'"),
        ("field.owner=[a]", "field.owner must be one of"),
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
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match="no such configuration file"):
            load_config(path)
