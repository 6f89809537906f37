"""Unfinished trainings on photos: what they belong to."""

from pathlib import Path

import pytest

from dss.checkpoint import load_tensors, save_tensors
from dss.errors import InputError
from dss.pipeline import fit_run
from dss.registry import load_config
from tests.helpers import write_synthetic

TINY = [
    "scene.downscale=1", "model.layers=1", "model.width=8", "model.skip=0", "model.feature=4",
    "model.colour_layers=1", "model.colour_width=8", "sampler.coarse=8", "sampler.fine=8",
    "train.steps=4", "train.rays=16", "train.checkpoint=2", "train.warm_up_steps=0",
]  # fmt: skip


def test_an_unfinished_training_notices_another_scene(tmp_path):
    scene, folder = tmp_path / "scene", tmp_path / "run"
    scene.mkdir()
    write_synthetic(scene, 16)
    config = load_config("neus_tiny", TINY, str(scene))
    fit_run(config, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    cameras, state = Path(scene, "transforms_train.json"), folder / "training.safetensors"
    before = cameras.read_text()
    cameras.write_text(before + " ")
    with pytest.raises(InputError, match=r"scene: not the scene that .*training\.safetensors was"):
        fit_run(config, folder)
    cameras.write_text(before)
    tensors, about = load_tensors(state)
    for known in (about, {name: about[name] for name in about if name != "scene"}):  # an earlier's
        save_tensors(state, tensors, known)
        fit_run(config, folder)
        assert (folder / "model.safetensors").read_bytes() == whole
        (folder / "model.safetensors").unlink()
