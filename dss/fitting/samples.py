"""Training samples: points with the sphere that learns them and their signed distance
(docs/method.md, section 4)."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from dss.config import SamplesSettings
from dss.errors import InputError
from dss.fields.base import Samples
from dss.shell.dual_shell import DualShell

if TYPE_CHECKING:  # the machine that fits may lack Warp and trimesh
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh
    from dss.geometry.points import PointCloud

# the paper enlarges the outer spheres by this, so that its finite differences stay inside
PROBE = 3**0.5 / 192
IMPORTANCE = 100.0  # the paper draws its importance samples with the weights exp(-IMPORTANCE |sdf|)
MIN_SAMPLES = 500  # per sphere
ON_SPHERE = 300  # samples per sphere exactly on its (enlarged) outer radius
NEGLIGIBLE = 15.0  # beyond exp(-NEGLIGIBLE) a weight is not worth a distance
SIDE_NEIGHBOURS = 8  # points that say on which side of the surface a far sample is
# `partition`: share of the samples that is uniform in the interlayer; the rest is near the surface
INTERLAYER_SHARE = 0.25


def draw_samples(
    mesh: "Mesh",
    distance: "MeshDistance",
    shell: DualShell | None,
    config: SamplesSettings,
    owner_rule: str,
    seed: int,
) -> Samples:
    """One round of samples, the same for the same seed.

    `pairs`: as in the paper, every sphere that contains a point learns it. `partition`: each point
    has one owner, by `owner_rule`. `importance`: in the cube, the denser the nearer to the surface
    (Neural Implicit, Key Spheres); owners are -1. `near`: on the surface, near it, and in the cube
    (NGLOD); owners are -1. `surface`: on the surface; owners are -1.
    """
    if shell is None and config.method in ("pairs", "partition"):
        raise InputError(
            f"samples.method={config.method}: needs a field with a shell; choose another method "
            "of sampling"
        )
    generator = np.random.default_rng(seed)
    methods = {
        "pairs": _pairs,
        "partition": _partition,
        "importance": _importance,
        "near": _near,
        "surface": _on_surface,
    }
    return methods[config.method](mesh, distance, shell, config, owner_rule, generator)


def oriented_samples(
    cloud: "PointCloud", count: int, spread: float, uniform_share: float, seed: int
) -> Samples:
    """`count` samples per point of a cloud, each moved along the point's normal by a number of N(0,
    spread).

    A sample learns the signed distance to the tangent plane at the point nearest to it. Where that
    is the point it came from, the distance is the offset; beside folds and thin parts the offset
    would be too large. Its `owner` is the point that it came from.

    As many as `uniform_share` of these are drawn in the cube besides, so that no surface appears
    far from the points. Of them, those beyond the reach of the offsets, 3 `spread`, are kept. They
    belong to the nearest point, and learn the distance to it (too large by little there) with the
    sign that most of the planes of their neighbours give.
    """
    generator, tree = np.random.default_rng(seed), cKDTree(cloud.points)
    offset = generator.normal(0, spread, (len(cloud.points), count, 1))
    moved = (cloud.points[:, None] + offset * cloud.normals[:, None]).reshape(-1, 3)
    _, nearest = tree.query(moved)
    sdf = ((moved - cloud.points[nearest]) * cloud.normals[nearest]).sum(1)

    far = generator.uniform(-1, 1, (round(uniform_share * len(moved)), 3))
    far = far[tree.query(far)[0] > 3 * spread]
    distance, around = tree.query(far, SIDE_NEIGHBOURS)
    side = ((far[:, None] - cloud.points[around]) * cloud.normals[around]).sum(2).mean(1)
    owner = np.concatenate([np.arange(len(cloud.points)).repeat(count), around[:, 0]])
    far_sdf = np.where(side < 0, -1, 1) * distance[:, 0]
    points, values = np.concatenate([moved, far]), np.concatenate([sdf, far_sdf])
    return Samples(_tensor(points), torch.from_numpy(owner), _tensor(values))


def _pairs(
    mesh: "Mesh",
    distance: "MeshDistance",
    shell: DualShell,
    config: SamplesSettings,
    _rule: str,
    generator: np.random.Generator,
) -> Samples:
    """The paper's three techniques; every sphere whose enlarged outer ball contains a point learns
    it."""
    reach = shell.outer_radii + PROBE
    enlarged = DualShell(shell.centers, shell.inner_radii, reach)

    uniform = _tensor(generator.uniform(-0.9, 0.9, (config.count, 3)))
    uniform = uniform[(enlarged.outer_gap(uniform)[0] < 0) & (shell.inner_gap(uniform) > 0)]

    pool = _tensor(generator.uniform(-1, 1, (10 * config.count, 3)))
    weight = torch.exp(-IMPORTANCE * distance.sdf(pool).abs()).double().numpy()
    important = pool[generator.choice(len(pool), config.count, p=weight / weight.sum())]

    traced = _surface(mesh, config.count, generator)

    points = torch.cat([uniform, important, traced])
    sdf = torch.cat([distance.sdf(uniform), distance.sdf(important), torch.zeros(len(traced))])
    item, owner = enlarged.containing(points)

    missing = (MIN_SAMPLES - torch.bincount(owner, minlength=len(shell))).clamp(min=0)
    extra_owner = torch.arange(len(shell)).repeat_interleave(missing + ON_SPHERE)
    on_sphere = torch.cat([torch.arange(int(count) + ON_SPHERE) >= count for count in missing])
    radius = (
        shell.inner_radii[extra_owner]
        + _tensor(generator.random(len(extra_owner))) * (reach - shell.inner_radii)[extra_owner]
    )
    radius = torch.where(on_sphere, reach[extra_owner], radius)
    extra = shell.centers[extra_owner] + radius[:, None] * _directions(len(extra_owner), generator)
    return Samples(
        torch.cat([points[item], extra]),
        torch.cat([owner, extra_owner]),
        torch.cat([sdf[item], distance.sdf(extra)]),
    )


def _partition(
    mesh: "Mesh",
    distance: "MeshDistance",
    shell: DualShell,
    config: SamplesSettings,
    rule: str,
    generator: np.random.Generator,
) -> Samples:
    """Every point has the one owner that will answer for it: mostly surface points moved by a
    fraction of the shell's thickness there, the rest uniform in the interlayer."""
    volume = _interlayer_points(shell, round(config.count * INTERLAYER_SHARE), rule, generator)
    near = torch.empty(0, 3)
    while len(near) < config.count - len(volume):  # those that left the interlayer are drawn again
        surface = _surface(mesh, config.count - len(volume) - len(near), generator)
        thickness = shell.thickness[shell.owner(surface, rule)]
        moved = surface + config.spread * thickness[:, None] * _tensor(
            generator.standard_normal(surface.shape)
        )
        near = torch.cat(
            [near, moved[(shell.outer_gap(moved)[0] < 0) & (shell.inner_gap(moved) > 0)]]
        )
    points = torch.cat([near, volume])
    return Samples(points, shell.owner(points, rule), distance.sdf(points))


def _importance(
    mesh: "Mesh",
    distance: "MeshDistance",
    shell: DualShell | None,
    config: SamplesSettings,
    _rule: str,
    generator: np.random.Generator,
) -> Samples:
    """Points drawn, with replacement, from ten times as many uniform ones; and a share of the
    uniform ones themselves."""
    reach = NEGLIGIBLE / config.focus
    pool = _tensor(2 * generator.random((10 * config.count, 3), np.float32) - 1)
    sdf = distance.sdf(pool, reach).cpu()
    chances = torch.exp(-config.focus * sdf.abs()).double().where(sdf.abs() < reach, 0).cumsum(0)
    if not chances[-1]:
        raise InputError(
            f"samples.focus={config.focus:g}: none of {len(pool):,} points is near enough to the "
            "surface; lower it, or raise samples.count"
        )
    uniform = round(config.uniform_share * config.count)
    drawn = torch.from_numpy(generator.random(config.count - uniform)) * chances[-1]
    index = torch.cat([torch.searchsorted(chances, drawn, right=True), torch.arange(uniform)])
    points, sdf = pool[index], sdf[index]
    sdf[len(drawn) :] = distance.sdf(points[len(drawn) :]).cpu()
    return Samples(points, torch.full((len(points),), -1), sdf)


def _near(
    mesh: "Mesh",
    distance: "MeshDistance",
    shell: DualShell | None,
    config: SamplesSettings,
    _rule: str,
    generator: np.random.Generator,
) -> Samples:
    """Two fifths of the points on the surface, two fifths moved from it by N(0, spread) per axis,
    one fifth uniform in the cube."""
    part = config.count // 5
    surface = _surface(mesh, 4 * part, generator)
    near = surface[2 * part :] + config.spread * _tensor(generator.standard_normal((2 * part, 3)))
    uniform = _tensor(generator.uniform(-1, 1, (config.count - 4 * part, 3)))
    points, sdf = torch.cat([surface[: 2 * part], near, uniform]), torch.zeros(config.count)
    sdf[2 * part :] = distance.sdf(points[2 * part :]).cpu()
    return Samples(points, torch.full((len(points),), -1), sdf)


def _on_surface(
    mesh: "Mesh",
    distance: "MeshDistance",
    shell: DualShell | None,
    config: SamplesSettings,
    _rule: str,
    generator: np.random.Generator,
) -> Samples:
    """Points of the surface."""
    points = _surface(mesh, config.count, generator)
    return Samples(points, torch.full((len(points),), -1), torch.zeros(len(points)))


def _interlayer_points(
    shell: DualShell, count: int, rule: str, generator: np.random.Generator
) -> Tensor:
    """About `count` points uniform in the interlayer: uniform in each sphere's own layer, kept
    where it is the owner."""
    low, high = shell.inner_radii.double() ** 3, shell.outer_radii.double() ** 3
    candidates = 1 << 16
    found = [torch.empty(0, 3)]
    while sum(map(len, found)) < count:
        sphere = torch.from_numpy(
            generator.choice(len(shell), candidates, p=((high - low) / (high - low).sum()).numpy())
        )
        radius = (
            (low[sphere] + (high - low)[sphere] * torch.from_numpy(generator.random(candidates)))
            .pow(1 / 3)
            .float()
        )
        points = shell.centers[sphere] + radius[:, None] * _directions(candidates, generator)
        found.append(points[(shell.owner(points, rule) == sphere) & (shell.inner_gap(points) > 0)])
    return torch.cat(found)[:count]


def _surface(mesh: "Mesh", count: int, generator: np.random.Generator) -> Tensor:
    from dss.geometry.mesh import surface_samples

    return _tensor(
        surface_samples(mesh.vertices, mesh.faces, count, int(generator.integers(2**32)))[0]
    )


def _directions(count: int, generator: np.random.Generator) -> Tensor:
    return torch.nn.functional.normalize(_tensor(generator.standard_normal((count, 3))), dim=1)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))
