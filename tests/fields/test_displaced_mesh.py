"""A displaced mesh against exact distances, the closed form of a sphere, and other libraries."""

import numpy as np
import pytest
import torch
import trimesh

from dss.codec.descent import descend
from dss.codec.pack import decode_field, encode_field, parts_of
from dss.config import FitSettings, MeshConfig, SamplesSettings
from dss.errors import InputError
from dss.fields.base import Samples
from dss.fields.displaced_mesh import DisplacedMeshField, DisplacedMeshSettings, closest_shares
from dss.fitting.fit import fit
from dss.fitting.samples import draw_samples
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.geometry.similarity import Similarity

SETTINGS = DisplacedMeshSettings(faces=160)
IDENTITY = Similarity((0.0, 0.0, 0.0), 1.0)


@pytest.fixture(scope="module")
def sphere(ball, tmp_path_factory):
    path = tmp_path_factory.mktemp("ball") / "ball.ply"
    ball.export(path)
    return load_mesh(path)


@pytest.fixture(scope="module")
def geometry(sphere):
    distance = MeshDistance(sphere.vertices, sphere.faces)
    return DisplacedMeshField.build_geometry(sphere, distance, MeshConfig(field=SETTINGS))


@pytest.fixture
def field(geometry):
    return DisplacedMeshField(SETTINGS, geometry).eval()


@pytest.fixture
def bumpy(field):
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return field


def cube(count: int) -> torch.Tensor:
    return 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) - 1


def test_closest_points_of_triangles_are_those_of_trimesh():
    generator = np.random.default_rng(0)
    corners = generator.uniform(-1, 1, (5000, 3, 3))
    corners[:50, 2] = corners[:50, 1]  # with no area
    points = generator.uniform(-2, 2, (5000, 3))
    corners, points = torch.from_numpy(corners), torch.from_numpy(points)
    share, flat = closest_shares(points, corners)
    expected = trimesh.triangles.closest_point(corners[50:].numpy(), points[50:].numpy())
    found = (share[:, :, None] * corners).sum(1)
    assert np.allclose(found[50:], expected, atol=1e-9)
    assert torch.allclose(share.sum(1), torch.ones(5000).double()) and not flat[:50].any()
    ends = corners[:50, :2]  # of the segments
    away, along = points[:50] - ends[:, 0], ends[:, 1] - ends[:, 0]
    part = ((away * along).sum(1) / along.square().sum(1)).clamp(0, 1)
    assert torch.allclose(found[:50], ends[:, 0] + part[:, None] * along)


def test_triangles_that_coding_made_a_line_are_edges():
    """The plane of such a triangle is rounding, and points far away would seem to lie in it."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.rand(1000, 2, 3, generator=generator)
    middle = ends.mean(1, keepdim=True)  # rounded, so the area is not quite zero
    points = 2 * torch.rand(1000, 3, generator=generator) - 1
    share, flat = closest_shares(points, torch.cat([ends, middle], 1))
    closest = (share[:, :, None] * torch.cat([ends, middle], 1)).sum(1)
    line = ends[:, 1] - ends[:, 0]
    along = ((points - ends[:, 0]) * line).sum(1) / line.square().sum(1)
    expected = ends[:, 0] + along.clamp(0, 1)[:, None] * line
    assert not flat.any()
    assert (closest - expected).norm(dim=1).max() < 1e-5


@pytest.mark.parametrize("displacement", [0.0, 0.01])
def test_a_constant_displacement_is_an_offset_of_the_coarse_mesh(field, displacement):
    torch.nn.init.constant_(field.corner_heights, displacement / float(field.unit))
    points = cube(20_000)
    coarse = MeshDistance(field.coarse.vertices, field.coarse.faces).sdf(points)
    assert torch.allclose(field.sdf(points), coarse - displacement, atol=2e-6)


def test_the_coarse_mesh_has_so_many_faces_near_the_surface(field):
    assert len(field.coarse.faces) == 160 and field.coarse.is_watertight
    points, _ = trimesh.sample.sample_surface(field.coarse, 5000, seed=0)
    assert np.abs(np.linalg.norm(points, axis=1) - 0.9).max() < 0.05


def test_a_quadratic_displacement_is_met_exactly(field):
    coarse, matrix = field.coarse, np.random.default_rng(0).normal(size=(3, 3))

    def height(points):
        return 0.05 * np.einsum("...i,ij,...j", points, matrix, points)

    corners = height(coarse.vertices)
    middles = np.empty(len(coarse.edges_unique))
    ends = coarse.vertices[coarse.edges.reshape(-1, 3, 2)]
    middles[field.edges.numpy()] = height(ends.mean(2)) - height(ends).mean(2)
    for parameter, values in zip(field.parameters(), (corners, middles), strict=True):
        parameter.data = torch.from_numpy(values / float(field.unit)).float()
    points, faces = trimesh.sample.sample_surface(coarse, 5000, seed=0)
    found = -field(torch.from_numpy(points).float(), 2 * torch.from_numpy(faces))
    assert np.abs(found.detach().numpy() - height(points)).max() < 1e-6


def test_its_errors_are_linear_in_the_heights(bumpy):
    points = cube(2000)
    samples = bumpy.owned(Samples(points, None, torch.linspace(-1, 1, 2000)))
    terms = bumpy.linear_terms(samples)
    before = bumpy(samples.points, samples.owner).detach()
    assert torch.equal(terms.error, before - samples.sdf)
    change = torch.randn(82 + 240, generator=torch.Generator().manual_seed(2))
    torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(bumpy.parameters()) + change, bumpy.parameters()
    )
    found = bumpy(samples.points, samples.owner).detach() - before
    assert torch.allclose(found, (terms.slope * change[terms.parameter]).sum(1), atol=1e-6)


def test_the_displacement_is_continuous_across_edges(bumpy):
    edges, pairs = bumpy.coarse.face_adjacency_edges, bumpy.coarse.face_adjacency
    ends = torch.tensor(bumpy.coarse.vertices[edges], dtype=torch.float32)
    for part in (0.1, 0.5, 0.8):
        point = torch.lerp(ends[:, 0], ends[:, 1], part)
        sides = [bumpy(point, 2 * torch.tensor(pairs[:, side])) for side in (0, 1)]
        assert torch.allclose(*sides, atol=1e-6) and sides[0].std() > 1e-4


def test_gradient_equals_finite_differences(bumpy):
    points, step = cube(2000), 1e-3
    gradient = bumpy.gradient(points)
    assert gradient.isfinite().all() and bumpy.gradient(points[:0]).shape == (0, 3)
    with torch.no_grad():
        steps = step * torch.eye(3)
        numeric = torch.stack([bumpy(points + s) - bumpy(points - s) for s in steps], 1) / (
            2 * step
        )
    gap = (gradient - numeric).norm(dim=1)
    assert gap.median() < 1e-3  # a few points change their triangle


def test_a_fit_finds_the_sphere(sphere, geometry, tmp_path):
    distance = MeshDistance(sphere.vertices, sphere.faces)
    config = MeshConfig(
        field=SETTINGS,
        samples=SamplesSettings(method="surface", count=20_000),
        fit=FitSettings(epochs=20, resample=20, batch_size=1024, lr=4e-2, band=0),
    )
    samples = draw_samples(sphere, distance, None, config.samples, "relative", 0)
    radius = samples.points.norm(dim=1)
    assert (radius - 0.9).abs().max() < 3e-4 and not samples.sdf.any()
    owned = DisplacedMeshField(SETTINGS, geometry).owned(samples)
    start = DisplacedMeshField(SETTINGS, geometry)
    fitted = fit(config, geometry, [owned], torch.device("cpu"), tmp_path / "s", lambda *_: None)
    on_sphere = 0.9 * torch.nn.functional.normalize(cube(5000), dim=1)
    error, coarse = fitted.sdf(on_sphere).abs().mean(), start.sdf(on_sphere).abs().mean()
    assert error < 0.1 * coarse


@pytest.mark.parametrize(("band", "calls"), [(0.0, 1), (0.01, 0)])
def test_the_integers_of_a_coded_fit_are_moved_where_its_loss_is_plain(
    sphere, geometry, tmp_path, monkeypatch, band, calls
):
    config = MeshConfig(
        field=SETTINGS,
        samples=SamplesSettings(method="surface", count=2000),
        fit=FitSettings(epochs=4, batch_size=1024, band=band, rate_weight=1e-7),
    )
    distance = MeshDistance(sphere.vertices, sphere.faces)
    samples = draw_samples(sphere, distance, None, config.samples, "relative", 0)
    rounds = [DisplacedMeshField(SETTINGS, geometry).owned(samples)]
    seen = []

    def recorded(field, terms, weight):
        before = torch.nn.utils.parameters_to_vector(field.parameters())
        descend(field, terms, weight)
        after = torch.nn.utils.parameters_to_vector(field.parameters())
        change = (terms.slope * (after - before)[terms.parameter]).sum(1)
        seen.append((terms.error.abs().mean(), (terms.error + change).abs().mean(), weight))

    monkeypatch.setattr("dss.fitting.fit.descend", recorded)
    fit(config, geometry, rounds, torch.device("cpu"), tmp_path / "state", lambda *_: None)
    assert len(seen) == calls
    assert all(after < before and weight == 1e-7 for before, after, weight in seen)


def test_a_file_comes_back_and_is_mostly_what_draco_takes(bumpy):
    field = bumpy
    data = encode_field(field, SETTINGS, IDENTITY)
    coded = decode_field(data, "x.dss")
    assert torch.equal(coded.field.mesh, field.mesh) and coded.settings == SETTINGS
    points = cube(1000)
    assert torch.allclose(coded.field.sdf(points), field.sdf(points), atol=2e-4)
    parts = parts_of(data, field)
    assert parts["geometry"] == pytest.approx(field.mesh.nbytes, abs=8)
    assert encode_field(coded.field, coded.settings, coded.similarity) == data


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_coarse_mesh_is_an_error(field, damage):
    mesh = field.mesh.clone()
    field.mesh = {
        "cut": mesh[: len(mesh) // 2],
        "noise": torch.randint(0, 256, mesh.shape, dtype=torch.uint8),
        "empty": mesh[:0],
    }[damage]
    data = encode_field(field, SETTINGS, IDENTITY)
    with pytest.raises(InputError, match=r"x\.dss: not a \.dss file, or damaged"):
        decode_field(data, "x.dss")


def test_what_is_resident_is_the_decoded_mesh(field):
    coarse = 12 * (82 + 160) + 24 * (2 * 160 - 1)
    learnt = 4 * sum(parameter.numel() for parameter in field.parameters())
    assert field.resident_bytes() == coarse + learnt
