"""By which rule the protocols draw a method."""

import numpy as np
import pytest
import torch

from dss.config import MeshConfig
from dss.evaluation.measure import measure_pictures
from dss.evaluation.protocols import PROTOCOLS, compare
from dss.fields.nglod import NglodField, NglodSettings
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.ops import VoxelHits, octree_reference
from dss.rendering.hit_rules import published_rule, trace_published
from dss.rendering.tracing import trace
from tests.helpers import Analytic, camera_rays, shell_of, sphere

PAPER = PROTOCOLS[0]
STOP = 9e-4
pytestmark = pytest.mark.usefixtures("cache")


def exact_nglod(mesh, distance: MeshDistance, lods: int) -> NglodField:
    """Its octree, walls and tracer, with the exact distance in the place of the decoders."""

    class Exact(NglodField):
        def _decode(self, lod, points, features):
            return distance.sdf(points)

        def trace(self, origins, directions):
            tree = self.packed.nodes, self.packed.depth, self.packed.extent
            rays, probe = (origins, directions), 1 / 192
            query = lambda points, *_: distance.sdf(points)  # noqa: E731
            return VoxelHits(*octree_reference.trace_voxels(query, *tree, *rays, probe))

    settings = NglodSettings(lods=lods, width=4, features=2)
    geometry = NglodField.build_geometry(mesh, distance, MeshConfig(field=settings))
    return Exact(settings, geometry)


@pytest.mark.parametrize("lods", [1, 3])
def test_a_perfect_nglod_gets_a_perfect_score(data, tmp_path, lods):
    """By the truth's tracer it got 0.683 and 0.947: the walls of its voxels were drawn."""
    mesh = load_mesh(data / "thingi32" / "252119.ply")
    distance = MeshDistance(mesh.vertices, mesh.faces)
    (row,) = compare(PAPER, exact_nglod(mesh, distance, lods), distance, 64, 1, tmp_path)
    assert row["ssim_white"] >= 0.99 and row["mask_iou"] > 0.98 and row["depth_error"] < STOP
    assert 0 < row["queries"] < 10


def test_a_field_without_a_tracer_of_its_own_is_bracketed():
    """No tolerance is held against it: a silhouette is no thicker, and a field that
    overestimates loses nothing that the common rule finds."""
    field, pair = Analytic(sphere(), scale=0.2), camera_rays(64)
    exact, found = trace(field, *pair), trace_published(field, *pair)
    assert torch.equal(found.t, exact.t) and torch.equal(found.steps, exact.steps)
    points = (pair[0] + found.t[:, None] * pair[1])[found.hit]
    assert (points.norm(dim=1) - 0.6).abs().max() < 1e-5  # the truth's rule stops 7e-3 before
    assert (found.normal[found.hit] * points).sum(1).min() > 0.59


def test_what_is_reported_names_the_rule(ball, tmp_path, monkeypatch):
    monkeypatch.setattr("dss.evaluation.measure.compare", lambda *_: [{"seconds": 1.0}])
    distance = MeshDistance(ball.vertices, ball.faces)
    mesh = type("Mesh", (), {"vertices": ball.vertices, "faces": ball.faces})
    names = {
        "bracketed": Analytic(sphere()),
        "dual shell": Analytic(sphere(), shell_of(sphere())),
        "octree": exact_nglod(ball, distance, 1),
    }
    for name, field in names.items():
        assert published_rule(field) == name
        result = measure_pictures(field, mesh, tmp_path, 1, 16)
        assert result["paper"]["hit_rule"] == name
        assert result["surface"]["hit_rule"] == "bracketed"
    result = measure_pictures(distance, mesh, tmp_path, 1, 16)
    assert result["paper"]["hit_rule"] == "as the truth" and np.isfinite(result["views"])
