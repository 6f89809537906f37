"""Samples of a ball in hand-made shells, where every distance has a closed form."""

import numpy as np
import pytest
import torch

from dss.config import SamplesSettings
from dss.fitting.samples import MIN_SAMPLES, ON_SPHERE, PROBE, draw_samples
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.shell.dual_shell import DualShell


@pytest.fixture(scope="module")
def setting(tmp_path_factory, ball):
    """The ball of radius 0.9, a large sphere at its centre, and six overlapping ones around it."""
    path = tmp_path_factory.mktemp("samples") / "ball.ply"
    ball.export(path)
    mesh = load_mesh(path)
    centers = torch.cat([torch.zeros(1, 3), 0.5 * torch.eye(3), -0.5 * torch.eye(3)])
    inner = torch.tensor([0.6] + [0.3] * 6)
    return (
        mesh,
        MeshDistance(mesh.vertices, mesh.faces),
        DualShell(centers, inner, torch.tensor([0.95] + [0.6] * 6)),
    )


@pytest.mark.parametrize("method", ["pairs", "partition"])
def test_distances_are_exact_and_draws_repeat(setting, method):
    config = SamplesSettings(method=method, count=4000)
    samples = draw_samples(*setting, config, "relative", seed=3)
    # the mesh lies up to 2e-4 inside
    assert torch.allclose(samples.sdf, samples.points.norm(dim=1) - 0.9, atol=4e-4)
    again = draw_samples(*setting, config, "relative", seed=3)
    other = draw_samples(*setting, config, "relative", seed=4)
    assert torch.equal(samples.points, again.points) and torch.equal(samples.sdf, again.sdf)
    assert not torch.equal(samples.points[:100], other.points[:100])


@pytest.mark.parametrize("focus", [20.0, 60.0])
def test_importance_weighs_uniform_points_by_their_distance(setting, focus):
    mesh, distance, _ = setting
    config = SamplesSettings(method="importance", count=20_000, focus=focus, uniform_share=0.25)
    samples = draw_samples(mesh, distance, None, config, "relative", seed=5)
    assert (
        len(samples) == 20_000 and (samples.owner == -1).all() and samples.points.abs().max() <= 1
    )
    assert torch.allclose(samples.sdf, samples.points.norm(dim=1) - 0.9, atol=4e-4)
    pool = np.random.default_rng(0).uniform(-1, 1, (400_000, 3))
    sdf = np.linalg.norm(pool, axis=1) - 0.9
    weight = np.exp(-focus * np.abs(sdf))
    drawn, uniform = samples.sdf[:15_000].numpy(), samples.sdf[15_000:].numpy()
    for power in (1, 2):
        assert (drawn**power).mean() == pytest.approx(
            (weight * sdf**power).sum() / weight.sum(), abs=2e-3
        )
        assert (uniform**power).mean() == pytest.approx((sdf**power).mean(), abs=0.015)


def test_pairs_give_every_containing_sphere_each_point(setting):
    mesh, distance, shell = setting
    samples = draw_samples(
        mesh, distance, shell, SamplesSettings(method="pairs", count=4000), "smallest", seed=0
    )
    reach = shell.outer_radii.numpy() + PROBE
    assert (
        np.linalg.norm(samples.points - shell.centers[samples.owner], axis=1)
        < reach[samples.owner] + 1e-6
    ).all()
    assert (torch.bincount(samples.owner, minlength=7) >= MIN_SAMPLES + ON_SPHERE).all()
    # the points of the technique `trace`, each drawn once
    on_surface = samples.points[samples.sdf == 0].numpy()
    points, counts = np.unique(on_surface, axis=0, return_counts=True)
    containing = (np.linalg.norm(points[:, None] - shell.centers.numpy(), axis=2) < reach).sum(1)
    assert len(points) >= 3990 and containing.max() >= 2 and (counts == containing).all()


def test_partition_gives_each_point_to_its_owner_and_stays_in_the_interlayer(setting):
    mesh, distance, shell = setting
    samples = draw_samples(
        mesh, distance, shell, SamplesSettings(count=20_000, spread=0.2), "relative", seed=0
    )
    assert len(samples) == 20_000
    assert torch.equal(samples.owner, shell.owner(samples.points, "relative"))
    assert (shell.inner_gap(samples.points) > 0).all() and (samples.owner >= 0).all()


def test_the_volume_part_is_uniform_in_the_interlayer(setting):
    from dss.fitting.samples import _interlayer_points

    _, _, shell = setting
    drawn = _interlayer_points(shell, 60_000, "relative", np.random.default_rng(0))
    cube = torch.rand(2_000_000, 3, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    reference = cube[(shell.outer_gap(cube)[0] < 0) & (shell.inner_gap(cube) > 0)]
    bins = [
        torch.histc(points.norm(dim=1), 12, 0.3, 1.2) / len(points) for points in (drawn, reference)
    ]
    assert torch.allclose(*bins, atol=0.006)  # three standard deviations of the smaller sample
