"""What ships to be compared is there, and the paper's numbers stand beside ours."""

import pytest

from dss.config import MeshConfig, PhotoConfig
from dss.experiments import presets
from dss.experiments.compare import Result
from dss.experiments.mesh_methods import Fitted, Truth, configured
from dss.experiments.photo_methods import EqualSeconds, Trained
from dss.experiments.presets import PRESETS, PUBLISHED, configured_models
from dss.fields import build
from dss.registry import CONFIGS, load_config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_what_is_there(name):
    preset = PRESETS[name]
    for entry in preset.entries:
        if isinstance(entry, Fitted):
            config = load_config(entry.config or entry.name, list(entry.overrides))
            assert isinstance(config, MeshConfig)
        if isinstance(entry, EqualSeconds):
            entry = entry.of
        if isinstance(entry, Trained):
            config = load_config(entry.config or entry.name, list(entry.overrides))
            assert isinstance(config, PhotoConfig)
    names = [entry.name for entry in (*preset.always, *preset.entries)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["geometry", "ablations"])
def test_guided_and_plain_see_the_same_rays(name):
    for entry in PRESETS[name].entries:
        if isinstance(entry, Trained):
            train = load_config(entry.config, list(entry.overrides)).train
            assert (train.steps, train.rays, train.pixels) == (3000, 128, "photo")


def test_ablations_are_told_apart():
    """Each leaves out one thing, and has a row of equal seconds."""
    entries = {entry.name: entry for entry in presets.ABLATIONS.entries}
    base = load_config("neus_spheres_tiny", list(presets.EQUAL)).sampler
    for entry in presets.ABLATED:
        sampler = load_config(entry.config, list(entry.overrides)).sampler
        if sampler.method == base.method:
            changed = [key for key, value in sampler if value != getattr(base, key)]
            assert len(changed) == (entry.name != "spheres")
        assert entries[f"{entry.name}, equal seconds"].like.name == "plain"


def test_quick_fits_see_as_many_samples():
    """Four million, but of `pairs` and `oriented`, whose counts are before expansion."""
    for entry in presets.QUICK.entries:
        if isinstance(entry, Fitted) and entry.name != "dss_2x128" and "DeepSDF" not in entry.name:
            config = load_config(entry.config or entry.name, list(entry.overrides))
            assert config.fit.epochs * config.samples.count == 4_000_000
            assert config.fit.resample == config.fit.epochs
    shares = {
        load_config(entry.config or entry.name, list(entry.overrides)).fit.holdout
        for entry in presets.QUICK.entries
        if isinstance(entry, Fitted)
    }
    assert shares == {0.01}  # what is held out is not learnt


def test_a_quick_row_has_the_network_of_its_name():
    """Whoever reads `nglod_3` thinks of the published one, and so on."""
    for entry in presets.QUICK.entries:
        if isinstance(entry, Fitted):
            config = load_config(entry.config or entry.name, list(entry.overrides))
            if entry.name in configured():
                assert config.field == load_config(entry.name).field
            else:
                assert entry.name == "DeepSDF 8x128 SiLU, 5,000 points"
                assert (config.field.width, config.field.activation) == (128, "silu")
                assert (config.samples.points, config.fit.loss) == (5000, "l2")
                field = build(config.field, {})
                assert sum(parameter.numel() for parameter in field.parameters()) == 100_219


def test_the_paper_s_numbers():
    assert PUBLISHED["dss_2x128"].row() == {
        "bytes": 189 * 1024,
        "chamfer_rays": 2.53e-5,
        "ssim_paper": 0.978,
        "thickness_mean": 0.0344,
    }
    expected = {"bytes": 2446 * 1024, "chamfer": 2.71e-5, "ssim_paper": 0.988}
    assert PUBLISHED["nglod_5"].row() == expected
    assert len(PUBLISHED) == 10


def test_the_paper_s_tables_are_beside_ours():
    names = {name for part in presets.PAPER_TABLES.values() for name in part}
    assert PUBLISHED.keys() <= names == {entry.name for entry in presets.PAPER.entries}
    measured = [Result(name, "53159", {"bytes": 1024}) for name in (Truth().name, *sorted(names))]
    tables = presets.paper_tables(measured)
    assert list(tables) == list(presets.PAPER_TABLES)
    first, second = tables.values()
    assert {"ground truth", "dss_2x128", "DSS 2x128, published", "fast"} <= first.keys()
    assert {"ground truth", "DSS 4x128, 1024 spheres, published"} <= second.keys()
    assert "nglod_3" not in second


def test_every_configuration_is_a_method():
    fields, models = configured(), configured_models()
    assert not fields.keys() & models.keys()
    assert fields.keys() | models.keys() >= {path.stem for path in CONFIGS.glob("*.yaml")} - {
        "quickstart"
    }
    assert {"fast", "nglod_5"} <= fields.keys() and {"neus", "neus_shell_tiny"} <= models.keys()
