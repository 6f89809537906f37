"""Rays in an octree: the reference with exact decoders against the truth, the kernel against the
reference, the decoder against the field, and what is refused."""

import math

import numpy as np
import pytest
import torch
import trimesh
from torch.nn.functional import normalize

from dss import ops
from dss.config import MeshConfig
from dss.errors import InputError
from dss.evaluation.images import ssim_gray
from dss.fields import build
from dss.fields.nglod import PROBE, NglodField, NglodSettings
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.ops import octree_reference as plain
from dss.rendering.cameras import paper_cameras
from dss.rendering.images import normal_map
from dss.rendering.mesh_buffers import render_mesh
from kernels import build as kernels

STOP = 3 * plain.STOP  # 9e-4
NOT_FINITE = [math.nan, math.inf, -math.inf, 3e38]


def field_of(mesh: trimesh.Trimesh, **settings) -> NglodField:
    config = MeshConfig(field=NglodSettings(**settings))
    torch.manual_seed(0)
    distance = MeshDistance(mesh.vertices, mesh.faces)
    field = build(config.field, NglodField.build_geometry(mesh, distance, config))
    with torch.no_grad():
        for table in field.features:  # as large as after a fit
            table *= 30
        surface = torch.from_numpy(np.asarray(mesh.vertices)).float()
        field.decoders[-1][2].bias -= field(surface).median()  # there is a zero set
    return field.requires_grad_(False)


def exactly_traced(field: NglodField, distance, origins, directions) -> ops.VoxelHits:
    """With the exact distance in the place of the decoders."""
    tree = field.packed.nodes, field.packed.depth, field.packed.extent
    found = plain.trace_voxels(
        lambda points, *_: distance(points), *tree, origins, directions, PROBE
    )
    return ops.VoxelHits(*found)


@pytest.fixture(scope="module")
def ball_field(ball) -> NglodField:
    return field_of(ball, lods=3, width=24, features=6)


def rays(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """From outside, from inside, and along the axes."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(3, count, 3, generator=generator)
    eyes, axes = normalize(random[0], dim=1) * 3, torch.eye(3)[torch.arange(count) % 3]
    origins = torch.cat([eyes, 0.4 * random[1], 0.4 * random[1] - 3 * axes])
    directions = torch.cat([0.4 * random[2] - eyes, random[2], axes])
    return origins, normalize(directions, dim=1)


@pytest.mark.parametrize("lods", [1, 2, 3])
def test_with_exact_decoders_the_rays_hit_the_true_surface(data, lods):
    """The paper's protocol shows no walls of voxels, which it once did."""
    mesh = load_mesh(data / "thingi32" / "252119.ply")
    distance = MeshDistance(mesh.vertices, mesh.faces)
    field, (camera,) = field_of(mesh, lods=lods, width=16, features=2), paper_cameras(64, 1)
    truth = render_mesh(distance, camera, "paper")
    origins, directions = camera.rays()
    found = exactly_traced(field, distance.sdf, origins, directions)
    hit = found.t.isfinite()
    points = origins[hit] + found.t[hit, None] * directions[hit]
    assert distance.sdf(points).abs().max() <= STOP
    assert abs(int(hit.sum()) - int(truth.hit.sum())) <= 3 and hit.sum() > 250
    ours = normal_map(found.normal.view(64, 64, 3).numpy(), hit.view(64, 64).numpy(), 1.0)
    assert ssim_gray(ours, normal_map(truth.normal, truth.hit, 1.0)) >= 0.99


def test_with_exact_decoders_a_ball_is_hit_in_closed_form(ball_field):
    origins, directions = rays()
    found = exactly_traced(ball_field, lambda points: points.norm(dim=1) - 0.9, origins, directions)
    outside = origins.norm(dim=1) > 0.95
    b = (origins * directions).sum(1)
    disc = b.square() - origins.square().sum(1) + 0.81
    true = torch.where((disc > 0) & (b < 0), -b - disc.clamp(min=0).sqrt(), torch.inf)
    clear = outside & (disc.abs() > 4 * STOP)  # of the silhouette
    assert torch.equal(found.t[clear].isfinite(), true[clear].isfinite())
    hit = clear & found.t.isfinite()
    points = origins + found.t[:, None] * directions
    assert hit.sum() > 3000 and (points[hit].norm(dim=1) - 0.9).abs().max() <= STOP
    assert (found.normal * normalize(points, dim=1))[hit].sum(1).min() > 0.999


def test_the_voxels_on_a_ray_are_those_of_brute_force(ball_field):
    tree, (origins, directions) = ball_field.packed, rays(100)
    found = plain.passes(tree.nodes, tree.depth, tree.extent, origins, directions)
    size, cells = 2**tree.depth, ball_field.cells
    low = (cells * 2 / size - 1) * tree.extent
    a = (low - origins[:, None]) / directions[:, None]
    b = (low + 2 / size * tree.extent - origins[:, None]) / directions[:, None]
    entry = a.minimum(b).amax(2).clamp(min=0)
    exit = a.maximum(b).amin(2)
    expected = exit > entry + 1e-6
    pairs = torch.zeros(len(origins), len(cells), dtype=torch.bool)
    pairs[found.ray, found.voxel] = True
    assert not (expected & ~pairs).any() and (pairs & ~(exit > entry - 1e-6)).sum() == 0
    assert torch.equal(found.cell, cells[found.voxel])
    same = found.ray[1:] == found.ray[:-1]
    assert (found.entry[1:] >= found.exit[:-1] - 1e-6)[same].all()  # front to back


@pytest.mark.parametrize("options", [{"lods": 3}, {"lods": 1}, {"lods": 2, "width": 13}])
def test_the_kernel_hits_what_the_reference_hits(ball, options):
    if "compiled" not in kernels.load()["cpu"]:
        pytest.skip("no compiler")
    field = field_of(ball, **{"width": 32, "features": 6, **options})
    got, expected = both(field, *rays())
    assert got.t.isfinite().float().mean() > 0.1
    alike = (got.t - expected.t).abs() < 1e-5
    alike |= got.t.isinf() & expected.t.isinf()
    assert alike.float().mean() > 0.995  # rounding decides at a stop
    for mine, theirs in zip(got[1:], expected[1:], strict=True):
        same = mine == theirs if mine.dim() == 1 else (mine - theirs).abs().amax(1) < 2e-3
        assert same[alike].float().mean() > 0.99


@pytest.mark.parametrize("grow_every", [0, 10])
def test_the_decoder_s_table_is_the_field(ball, grow_every):
    """Folded over all levels that have joined and through the first layer, exactly."""
    ball_field = field_of(ball, lods=3, width=24, features=6, grow_every=grow_every)
    points = torch.rand(20_000, 3) * 1.8 - 0.9
    depth = ball_field._depth(points / ball_field.extent)
    points = points[depth == 3]
    cell, _ = ball_field._cell(2, points / ball_field.extent)
    number = torch.full((16, 16, 16), -1)
    number[ball_field.cells.unbind(1)] = torch.arange(len(ball_field.cells))
    query = plain.decoded(*ball_field.packed[1:], *ball_field.decoder())
    values = query(points, number[cell.unbind(1)], cell)
    torch.testing.assert_close(values, ball_field(points), atol=1e-5, rtol=0)


def test_where_the_prediction_is_cut_by_a_wall_the_ray_hits_it(ball):
    """Published renderers step back and forth there until they give up."""
    field = field_of(ball, lods=1, width=16, features=2)
    with torch.no_grad():
        for parameter in field.decoders.parameters():
            parameter.zero_()
        field.decoders[0][2].bias.fill_(-0.5)
    origins, directions = torch.tensor([[3.0, 0.1, 0.1]]), torch.tensor([[-1.0, 0.0, 0.0]])
    for found in both(field, origins, directions):
        assert found.t.item() == pytest.approx(3 - 0.9) and found.steps.item() == 1


def both(field: NglodField, *pair: torch.Tensor) -> list[ops.VoxelHits]:
    """By the kernel, where there is one, and by the reference."""
    with ops.eager():
        expected = field.trace(*pair)
    return [field.trace(*pair), expected]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("which", [0, 1])
def test_rays_that_are_not_finite_or_have_no_direction_are_misses(ball_field, value, which):
    pair = [part[:90].clone() for part in rays()]
    alone = both(ball_field, *pair)
    pair[which][::3, 1] = value
    pair[1][1::3] = 0
    for found, good in zip(both(ball_field, *pair), alone, strict=True):
        for first in (0, 1):
            bad = [part[first::3] for part in found]
            assert (bad[0] == math.inf).all() and (bad[1] == -1).all() and not bad[2].any()
            assert not bad[3].any() and not bad[4].any()
        assert torch.equal(found.t[2::3], good.t[2::3])  # the others do not notice


def test_t_counts_lengths_of_the_direction(ball_field):
    origins, directions = rays(200)
    once, twice = (both(ball_field, origins, k * directions)[0].t for k in (1, 2))
    hit = once.isfinite()
    assert hit.sum() > 50 and torch.allclose(once[hit], 2 * twice[hit], atol=1e-4)


def test_a_decoder_that_is_nan_is_a_miss_and_ends(ball_field):
    octree, decoder = ball_field.packed, ball_field.decoder()
    bad, pair = ops.Decoder(decoder.table, decoder.output * math.nan), rays(100)
    for plainly in (False, True):
        with ops.eager() if plainly else torch.no_grad():
            found = ops.octree_trace(octree, bad, *pair, PROBE)
        assert found.t.isinf().all() and found.steps.max() <= plain.MAX_QUERIES


def test_an_empty_octree_and_no_rays(ball_field):
    octree = ops.pack_octree(np.zeros(1, np.uint8), np.zeros((0, 8), int), 3, 0.9)
    decoder, pair = ops.Decoder(torch.zeros(0, 16), torch.zeros(17)), rays(50)
    none = torch.zeros(0, 3)
    for plainly in (False, True):
        with ops.eager() if plainly else torch.no_grad():
            found = ops.octree_trace(octree, decoder, *pair, PROBE)
            assert found.t.isinf().all() and not found.steps.any()
            assert ball_field.trace(none, none).normal.shape == (0, 3)


def test_it_is_registered_as_torch_wants_it(ball):
    field, pair = field_of(ball, lods=1, width=16, features=2), rays(20)
    arguments = (*field.packed, *field.decoder(), *pair, PROBE)
    torch.library.opcheck(torch.ops.dss.octree_trace.default, arguments)


def test_bad_input_is_named(ball_field):
    octree, decoder, pair = ball_field.packed, ball_field.decoder(), rays(10)
    bad = {
        r"pack_octree: 1 nodes, 3 voxels": lambda: ops.pack_octree(
            np.ones(1, np.uint8), np.zeros((3, 8)), 1, 1.0
        ),
        r"octree_trace: directions must have the shape \(30, 3\)": lambda: ops.octree_trace(
            octree, decoder, pair[0], pair[1][:5], PROBE
        ),
        r"octree_trace: decoder.output must have the shape \(25\)": lambda: ops.octree_trace(
            octree, decoder._replace(output=decoder.output[1:]), *pair, PROBE
        ),
        r"octree.corners must be 0 to 9, got 0 to": lambda: ops.octree_trace(
            octree, decoder._replace(table=decoder.table[:10]), *pair, PROBE
        ),
    }
    for message, call in bad.items():
        with pytest.raises(InputError, match=message):
            call()
