"""DeepSDF's network against its published size and its description; surfaces from points."""

import json

import numpy as np
import pytest
import torch
import trimesh

from dss.config import MeshConfig
from dss.errors import InputError
from dss.fields import build
from dss.fields.deepsdf import DeepSdfSettings
from dss.fitting.fit import split
from dss.fitting.samples import oriented_samples
from dss.geometry.points import load_points
from dss.pipeline import fit_run
from dss.registry import load_config

CONFIG = "deepsdf_points"
SHORT = [
    "samples.count=200",
    "samples.uniform_share=0.2",
    "field.width=64",
    "field.dropout=0",
    "field.activation=silu",
    "fit.epochs=8",
    "fit.resample=1",
    "fit.holdout=0.05",
    "fit.batch_size=800",
    "fit.lr=3e-3",
    "fit.schedule=cosine",
    "fit.loss=l2",
    "fit.checkpoint=1000",
]


def test_the_published_network_has_its_size():
    field = build(load_config(CONFIG).field, {})
    # docs/method.md, section 10
    assert sum(parameter.numel() for parameter in field.parameters()) == 1_580_540
    assert sum(field.storage().values()) == 4 * 1_580_540


def test_the_published_network_is_what_its_description_says():
    torch.manual_seed(0)
    field = build(DeepSdfSettings(width=16), {}).eval()
    with torch.no_grad():
        for layer in field.hidden:
            layer.parametrizations.weight.original0.mul_(
                1 + torch.rand_like(layer.parametrizations.weight.original0)
            )
    points = torch.rand(20, 3) - 0.5
    x = points
    for number, layer in enumerate(field.hidden, 1):
        magnitude, direction = (
            layer.parametrizations.weight.original0,
            layer.parametrizations.weight.original1,
        )
        x = x @ (magnitude * direction / direction.norm(dim=1, keepdim=True)).T + layer.bias
        x = torch.where(x > 0, x, 0.25 * x)
        if number == 4:
            assert x.shape[1] == 13
            x = torch.cat([x, points], 1)
    assert torch.allclose(
        field(points), torch.tanh(x @ field.last.weight.T + field.last.bias)[:, 0], atol=1e-6
    )


def test_dropout_is_for_training_only():
    field, points = build(DeepSdfSettings(width=32), {}), torch.rand(50, 3)
    assert not torch.equal(field.train()(points), field(points))
    assert torch.equal(field.eval()(points), field(points))


def test_the_held_out_points_are_never_learnt(data):
    cloud = load_points(data / "point_clouds" / "sphere.pts")
    rounds = [oriented_samples(cloud, 10, 0.05, 0.1, seed) for seed in (1, 2)]
    parts = [split(samples, 0.2, 0, by_owner=True) for samples in rounds]
    kept, out = ({tuple(part[side].owner.unique().tolist()) for part in parts} for side in (0, 1))
    assert len(kept) == len(out) == 1  # the same in every round
    assert (
        not set(*kept) & set(*out) and len(set(*out)) == 30 and len(set(*kept) | set(*out)) == 152
    )


@pytest.fixture(scope="module")
def ellipsoid(tmp_path_factory):
    """A cloud with three different half axes, away from the origin."""
    direction = np.random.default_rng(0).normal(size=(300, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    axes = np.array([3.0, 2.0, 1.5])
    points, normals = direction * axes, direction / axes
    path = tmp_path_factory.mktemp("cloud") / "ellipsoid.pts"
    np.savetxt(path, np.hstack([points + [10, 20, 30], normals]))
    return path


@pytest.fixture(scope="module")
def run(ellipsoid):
    folder = ellipsoid.parent / "run"
    fit_run(load_config(CONFIG, SHORT, str(ellipsoid)), folder)
    return folder


def test_points_become_a_mesh_in_their_units(run, script):
    exported = run.parent / "decoded.ply"
    code, out, error = script("eval", run, "--resolution", 64, "--export", exported)
    assert code == 0, error
    assert "surface mean" in out
    mesh = trimesh.load(exported)
    assert mesh.is_watertight and mesh.body_count == 1
    # not mirrored, and not permuted: each axis has its own length and place
    assert mesh.bounds == pytest.approx(np.array([[7, 18, 28.5], [13, 22, 31.5]]), abs=0.06)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 9, rel=0.03)
    metrics = json.loads((run / "eval.json").read_text())
    assert metrics["surface_mean"] < 5e-3 and metrics["bodies"] == 1
    assert metrics["normal_error_deg"] < 6


def test_a_true_mesh_is_measured_in_the_cloud_s_frame(run, script, fewer_points):
    truth = trimesh.creation.icosphere(subdivisions=4)
    truth.apply_scale([3.0, 2.0, 1.5])
    truth.apply_translation([10, 20, 30])
    truth.export(run.parent / "truth.ply")
    code, _, error = script("eval", run, "--resolution", 64, "--mesh", run.parent / "truth.ply")
    assert code == 0, error
    metrics = json.loads((run / "eval.json").read_text())
    assert metrics["surface_mean"] < 1e-2 and metrics["iou_uniform"] > 0.95


def test_pictures_need_a_true_mesh(run, script):
    """There is only a cloud to compare with; the remedy is named."""
    for name, *options in (("eval_ssim",), ("render", "--mode", "error")):
        code, _, error = script(name, run, *options)
        assert code == 2 and "was fitted to a point cloud; name the true mesh with --data" in error


def test_bad_input(tmp_path, ellipsoid):
    bare = tmp_path / "bare.xyz"
    np.savetxt(bare, np.loadtxt(ellipsoid)[:, :3])
    few = tmp_path / "few.pts"
    np.savetxt(few, np.loadtxt(ellipsoid)[:5])
    for number, (config, path, overrides, message) in enumerate((
        (CONFIG, bare, ["samples.normals=file"], "has no normals"),
        (CONFIG, few, [], "5 distinct points are too few"),
        ("fast", ellipsoid, ["samples.method=oriented"], "is built on a mesh"),
    )):  # fmt: skip
        with pytest.raises(InputError, match=message):
            fit_run(load_config(config, overrides, str(path)), tmp_path / str(number))


def test_settings_are_checked():
    for override, message in (
        ("field.activation=relu", "must be one of prelu, silu"),
        ("field.dropout=1.5", "at most 0.9"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(CONFIG, [override])
    assert isinstance(load_config(CONFIG), MeshConfig)
