import pytest
import torch

from dss.config import load_config
from dss.errors import InputError
from dss.reconstruction.models import MODELS, build_model
from dss.reconstruction.models.base import inverse_cdf
from dss.reconstruction.samplers import SAMPLERS, build_sampler
from tests.helpers import NETWORK

PLUGINS = {
    name: {method: kind.Settings for method, kind in known.items()}
    for name, known in (("model", MODELS), ("sampler", SAMPLERS))
}


def test_models_and_samplers_are_found_by_themselves():
    assert set(MODELS) == {"neus", "volsdf", "unisurf", "neuralwarp"}
    assert set(SAMPLERS) == {"uniform", "occupancy", "shell", "sphere_cloud", "voxels"}
    for method, kind in MODELS.items():
        assert (
            type(build_model(kind.Settings(**NETWORK))) is kind and kind.Settings().method == method
        )
    for method, kind in SAMPLERS.items():
        assert type(build_sampler(kind.Settings())) is kind and kind.Settings().method == method


def test_each_has_its_own_settings(tmp_path):
    path = tmp_path / "photos.yaml"
    path.write_text("scene: {}\nmodel: {method: volsdf}\nsampler: {method: shell, step: 1e-2}")
    config = load_config(path, ["model.beta=0.2"], PLUGINS)
    assert config.model.beta == 0.2 and config.sampler.step == 0.01
    for override, message in (
        ("sampler.method=shel", "unknown sampler.method shel; did you mean shell?"),
        ("sampler.voxels=4", "unknown key sampler.voxels"),
        ("model.sharpness=1", "unknown key model.sharpness"),
        ("sampler.eps=0.6", "sampler.eps must be above 0 and at most 0.5"),
        ("sampler.coarse=1", "sampler.coarse must be at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(path, [override], PLUGINS)


def test_inverse_cdf_is_uniform_where_the_weight_is():
    t = torch.linspace(0, 1, 5)[None]
    values, found = inverse_cdf(
        t, torch.tensor([[0.0, 1, 1, 0]]), 4, torch.zeros(1, 5, dtype=torch.int64)
    )
    torch.testing.assert_close(
        values, torch.tensor([[0.3125, 0.4375, 0.5625, 0.6875]]), atol=1e-4, rtol=0
    )
    assert found.tolist() == [[1, 1, 2, 2]]
