"""The operators: the reference against closed forms and brute force, the compiled kernels against
the reference, and what they refuse."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dss import ops
from dss.errors import InputError
from dss.fields import build
from dss.fields.base import Field
from dss.fields.dual_shell import DualShellSettings
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.ops import reference as plain
from dss.rendering import tracing
from dss.rendering.cameras import fibonacci
from dss.shell.dual_shell import DualShell
from dss.shell.io import read_h5
from kernels import build as kernels

RULES = {"every": 0, "smallest": 1, "relative": 2}
PAPER = {
    "owner": "smallest",
    "local": False,
    "octaves": 6,
    "activation": "leaky_relu",
    "output": "tanh",
}
NETWORKS = [
    {"width": 32, "layers": 2, "octaves": 4},
    # not a multiple of the vector length
    {
        "width": 40,
        "layers": 3,
        "octaves": 6,
        "activation": "leaky_relu",
    },
    {"width": 128, "layers": 1, **PAPER},
    {"width": 7, "layers": 4, "octaves": 1, "local": False, "output": "tanh"},
]


def compiled(name, *arguments):
    if "compiled" not in kernels.load()["cpu"]:
        pytest.skip("no compiler")
    return getattr(torch.ops.dss, name).default(*arguments)


def on_cuda(name, *arguments):
    def moved(value, device):
        if isinstance(value, tuple):
            return tuple(moved(item, device) for item in value)
        return value.to(device) if isinstance(value, torch.Tensor) else value

    assert "compiled" in kernels.load()["cuda"], "the reference would be compared with itself"
    return moved(
        getattr(torch.ops.dss, name).default(*(moved(value, "cuda") for value in arguments)), "cpu"
    )


def reference(name, *arguments):
    return getattr(plain, name)(*arguments)


BACKENDS = [reference, compiled, pytest.param(on_cuda, marks=pytest.mark.cuda)]
KERNELS = BACKENDS[1:]


def random_shell(count: int = 150, seed: int = 0, min_radius: float = 0.03) -> DualShell:
    generator = torch.Generator().manual_seed(seed)
    inner = torch.rand(count, generator=generator) * 0.12 + min_radius
    thickness = torch.rand(count, generator=generator) * 0.08 + 0.01
    return DualShell(
        torch.rand(count, 3, generator=generator) * 1.4 - 0.7, inner, inner + thickness
    )


def dense_shell() -> DualShell:
    """A row of 60 large overlapping spheres with tiny inner ones: rays along it pass far more than
    25 intervals."""
    centers = torch.stack([torch.linspace(-0.6, 0.6, 60), torch.zeros(60), torch.zeros(60)], 1)
    return DualShell(centers, torch.full((60,), 0.01), torch.linspace(0.2, 0.3, 60))


def ring(count: int = 40) -> DualShell:
    """The torus of radii 0.6 and 0.2."""
    angle = torch.arange(count) * (2 * math.pi / count)
    centers = torch.stack([angle.cos() * 0.6, angle.sin() * 0.6, 0 * angle], 1)
    return DualShell(centers, torch.full((count,), 0.19), torch.full((count,), 0.23))


def torus(points):
    return torch.stack([points[:, :2].norm(dim=1) - 0.6, points[:, 2]], 1).norm(dim=1) - 0.2


def rays(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """From far outside, from anywhere inside the cube (inside spheres too), along the axes, looking
    away."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(4, count, 3, generator=generator)
    eyes = normalize(random[0], dim=1) * 4
    inside = random[1].clamp(-0.8, 0.8)
    axes = torch.eye(3)[torch.arange(count) % 3] * (torch.arange(count) % 2 * 2 - 1)[:, None]
    origins = torch.cat([eyes, inside, inside - 2 * axes, eyes])
    directions = torch.cat([0.4 * random[2] - eyes, random[3], axes, eyes])
    return origins, normalize(directions, dim=1)


def network(shell: DualShell, seed: int = 0, **options) -> tuple[Field, ops.Network]:
    torch.manual_seed(seed)
    field = build(DualShellSettings(**{"latent": 4, **options}), shell.geometry)
    return field, field.network()


@pytest.fixture(scope="module")
def fitted() -> Field:
    """A small field fitted to the torus in its ring, with errors of a few thousandths."""
    shell = ring()
    field, _ = network(shell, width=32, octaves=3)
    optimizer = torch.optim.Adam(field.parameters(), 5e-3)
    for _ in range(200):
        sphere = torch.randint(len(shell), (1024,))
        points = normalize(torch.randn(1024, 3), dim=1)
        points = (
            shell.centers[sphere]
            + points
            * (shell.inner_radii[sphere] + torch.rand(1024) * shell.thickness[sphere])[:, None]
        )
        loss = (field(points, shell.owner(points, "relative")) - torus(points)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field


@pytest.fixture(scope="module")
def real(data) -> Field:
    """The paper's kind of field, small, fitted for a moment to a real mesh in the authors' 128
    spheres."""
    shell = read_h5(
        *(data / "shells" / f"thingi32_{kind}128" / "53159.h5" for kind in ("inner", "safe"))
    )
    mesh = load_mesh(data / "thingi32" / "53159.ply")
    distance = MeshDistance(mesh.vertices, mesh.faces)
    places, _ = surface_samples(mesh.vertices, mesh.faces, 20_000, 0)
    points = torch.from_numpy(places).float() + 0.01 * torch.randn(
        20_000, 3, generator=torch.Generator().manual_seed(0)
    )
    points = points[shell.owner(points, "smallest") >= 0]
    truth, owner = distance.sdf(points), shell.owner(points, "smallest")
    field, _ = network(shell, width=48, **PAPER)
    optimizer = torch.optim.Adam(field.parameters(), 5e-3)
    for _ in range(150):
        batch = torch.randint(len(points), (2048,))
        loss = (field(points[batch], owner[batch]) - truth[batch]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field


class Plain(Field):
    """The same field through plain torch: without the operators that know its network."""

    def __init__(self, field: Field):
        super().__init__(field.shell, field.owner_rule)
        self.field = field

    def forward(self, points, owner=None):
        track = torch.is_grad_enabled()
        with torch.enable_grad():
            value = self.field(points, owner)
        return value if track else value.detach()


# --------------------------------------------------------------------------------------- intervals


def brute_force(
    shell: DualShell, origin: np.ndarray, direction: np.ndarray
) -> tuple[list[tuple[float, float, int]], float]:
    """One ray in float64, by the quadratic equation: sorted (start, end, sphere) and stop."""
    offset = origin - shell.centers.double().numpy()
    a, b = direction @ direction, offset @ direction
    found = []
    for radii in (shell.inner_radii, shell.outer_radii):
        square = b * b - a * ((offset**2).sum(1) - radii.double().numpy() ** 2)
        crossed = np.nonzero((square > 0) & (-b + np.sqrt(square.clip(0)) > 0) & (a > 0))[0]
        middle, half = -b[crossed] / a, np.sqrt(square[crossed]) / a
        found.append(
            [
                (max(m - h, 0.0), m + h, j)
                for m, h, j in zip(middle, half, crossed.tolist(), strict=True)
            ]
        )
    inner, outer = found
    stop = min((near for near, _, _ in inner), default=math.inf)
    return sorted((near, min(far, stop), j) for near, far, j in outer if near < stop), stop


def check_intervals(backend, shell, origins, directions):
    """As sets exactly those of brute force, but for spheres that the ray only touches."""
    offsets, start, end, sphere, stop = backend(
        "shell_intervals", *shell.packed, origins, directions, 0
    )
    assert offsets[0] == 0 and offsets[-1] == len(start) == len(end) == len(sphere)
    for i in range(len(origins)):
        expected, expected_stop = brute_force(
            shell, origins[i].double().numpy(), directions[i].double().numpy()
        )
        mine = slice(offsets[i], offsets[i + 1])
        got = {
            j: (a, b)
            for a, b, j in zip(
                start[mine].tolist(), end[mine].tolist(), sphere[mine].tolist(), strict=True
            )
        }
        assert len(got) == offsets[i + 1] - offsets[i], "a sphere twice"
        assert (start[mine].diff() >= 0).all()
        assert float(stop[i]) == pytest.approx(expected_stop, abs=5e-5)
        for near, far, j in expected:
            if far - near > 2e-3:
                assert got.pop(j) == pytest.approx((near, far), abs=5e-5)
            else:
                got.pop(j, None)
        assert all(0 < b - a < 2e-3 for a, b in got.values()), (
            "only a tangent sphere may be too many"
        )
    return offsets.diff()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "make",
    [
        random_shell,
        dense_shell,
        lambda: random_shell(1),
        lambda: random_shell(700, min_radius=0.005),
    ],
)
def test_intervals_are_those_of_brute_force(backend, make):
    origins, directions = rays(40)
    # t counts in units of the direction
    directions = directions * torch.linspace(0.5, 2, len(directions))[:, None]
    directions[7] = 0
    counts = check_intervals(backend, make(), origins, directions)
    assert counts[7] == 0 and (counts.max() > 25 or make is not dense_shell)


@pytest.mark.parametrize("backend", BACKENDS)
def test_intervals_of_a_real_shell_are_those_of_brute_force(backend, real):
    counts = check_intervals(backend, real.shell, *rays(60, seed=5))
    assert counts.max() > 5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["smallest", "relative"])
@pytest.mark.parametrize("make", [random_shell, dense_shell])
def test_a_partition_has_the_right_owner_and_covers_the_union(backend, rule, make):
    check_partition(backend, make(), rule, *rays(300))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["smallest", "relative"])
def test_a_partition_of_a_real_shell_has_the_right_owner(backend, rule, real):
    check_partition(backend, real.shell, rule, *rays(300, seed=6))


def check_partition(backend, shell, rule, origins, directions):
    offsets, start, end, sphere, stop = backend(
        "shell_intervals", *shell.packed, origins, directions, RULES[rule]
    )
    ray = torch.arange(len(origins)).repeat_interleave(offsets.diff())
    same = ray[1:] == ray[:-1]
    assert (start[1:] >= end[:-1])[same].all() and (end >= start).all() and (end <= stop[ray]).all()
    centers, radii = shell.centers.double(), shell.outer_radii.double()
    for part in (0.05, 0.5, 0.95):
        t = start.double().lerp(end.double(), part)
        points = origins[ray].double() + t[:, None] * directions[ray]
        distance = torch.cdist(points, centers)
        score = torch.where(
            distance < radii,
            distance / radii if rule == "relative" else radii.expand_as(distance),
            torch.inf,
        )
        mine = score.gather(1, sphere[:, None])[:, 0]
        # nearly equal scores: a seam, up to rounding
        assert ((mine - score.amin(1) < 1e-5) | (end - start < 1e-4)).all()
    # the union of all outer spheres, by brute force, has the length of the partition
    total = torch.zeros(len(origins)).index_add_(0, ray, end - start)
    for i in range(len(origins)):
        length, reach = 0.0, 0.0
        for a, b, _ in brute_force(
            shell, origins[i].double().numpy(), directions[i].double().numpy()
        )[0]:
            length += max(0.0, b - max(a, reach))
            reach = max(reach, b)
        assert float(total[i]) == pytest.approx(length, abs=1e-4)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("rule", ["smallest", "relative"])
@pytest.mark.parametrize("make", [random_shell, dense_shell])
def test_kernels_cut_rays_where_the_reference_does(backend, rule, make):
    shell, (origins, directions) = make(), rays(100)
    arguments = (*shell.packed, origins, directions, RULES[rule])
    got = ops.Intervals(*backend("shell_intervals", *arguments))
    expected = ops.Intervals(*plain.shell_intervals(*arguments))
    torch.testing.assert_close(got.stop, expected.stop, atol=1e-5, rtol=0)
    for i in (expected.end - expected.start > 1e-3).nonzero()[:, 0].tolist():
        ray = expected.ray[i]
        mine = slice(got.offsets[ray], got.offsets[ray + 1])
        starts, ends = got.start[mine] - expected.start[i], got.end[mine] - expected.end[i]
        distance = starts.abs().maximum(ends.abs())[got.sphere[mine] == expected.sphere[i]]
        # Most are within 1e-6; a seam is less certain where a ray is nearly tangent to a sphere, or
        # where it passes two spheres that are nearly the same.
        assert distance.min() < 2e-4


def test_merged_intervals_are_disjoint_and_cover_the_same():
    shell, (origins, directions) = random_shell(), rays(100)
    found = ops.shell_intervals(shell.packed, origins, directions)
    merged = found.merged()
    assert torch.equal(found.ray.bincount(minlength=len(origins)), found.offsets.diff())
    assert len(merged.start) < len(found.start) and torch.equal(merged.stop, found.stop)
    for i in range(len(origins)):
        expected = []  # start, end, sphere
        for k in range(found.offsets[i], found.offsets[i + 1]):
            start, end, sphere = found.start[k].item(), found.end[k].item(), found.sphere[k].item()
            if expected and start <= expected[-1][1]:
                expected[-1][1] = max(end, expected[-1][1])
            else:
                expected.append([start, end, sphere])
        mine = slice(merged.offsets[i], merged.offsets[i + 1])
        parts = (merged.start, merged.end, merged.sphere)
        got = zip(*(part[mine].tolist() for part in parts), strict=True)
        assert [list(item) for item in got] == expected
    none = ops.shell_intervals(shell.packed, origins[:0], directions[:0])
    assert none.merged() is none and none.ray.shape == (0,)


# ------------------------------------------------------------------------------------------ points


@pytest.mark.parametrize("backend", BACKENDS)
def test_owner_and_union_sdf_are_those_of_brute_force(backend):
    for shell in (
        random_shell(),
        dense_shell(),
        random_shell(9),
        random_shell(700, min_radius=0.005),
    ):
        points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(2)) * 2.4 - 1.2
        distance = np.linalg.norm(
            points.double().numpy()[:, None] - shell.centers.double().numpy(), axis=2
        )
        radius = shell.outer_radii.double().numpy()
        clear = (np.abs(distance - radius) > 1e-6).all(1)
        for rule, score in (
            ("smallest", np.broadcast_to(radius, distance.shape)),
            ("relative", distance / radius),
        ):
            score = np.where(distance < radius, score, 10 + np.arange(len(shell)))
            expected = np.where(score.min(1) < 10, score.argmin(1), -1)
            tie = np.diff(np.sort(score, 1)[:, :2], axis=1)[:, 0] < 1e-6
            got = backend("shell_owner", *shell.packed, points, RULES[rule]).numpy()
            assert ((got == expected) | tie | ~clear).all()
        for inner, radii in ((True, shell.inner_radii), (False, shell.outer_radii)):
            gap, nearest = backend("shell_union_sdf", *shell.packed, points, inner)
            expected = distance - radii.double().numpy()
            np.testing.assert_allclose(gap.numpy(), expected.min(1), atol=1e-6)
            np.testing.assert_allclose(
                np.take_along_axis(expected, nearest.numpy()[:, None], 1)[:, 0],
                expected.min(1),
                atol=1e-6,
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", NETWORKS)
def test_field_and_gradient_are_those_of_the_module_and_of_autograd(backend, options):
    shell = random_shell(30)
    field, net = network(shell, **options)
    points = torch.rand(1001, 3) * 2 - 1
    owner = torch.randint(len(shell), (1001,))
    value, gradient = backend("shell_field", shell.packed.spheres, *net, points, owner, True)
    truth = points.double().requires_grad_()
    expected = copy.deepcopy(field).double()(truth, owner)
    (slope,) = torch.autograd.grad(expected.sum(), truth)
    torch.testing.assert_close(value.double(), expected.detach(), atol=2e-6, rtol=1e-5)
    error = (gradient - slope).norm(dim=1) / (1 + slope.norm(dim=1))
    # the rest: beside a kink of the leaky rectifier
    assert error.median() < 1e-6 and (error < 1e-4).float().mean() > 0.995
    assert backend("shell_field", shell.packed.spheres, *net, points, owner, False)[1].shape == (
        0,
        3,
    )


def test_the_gradient_of_the_reference_is_exact_in_float64():
    shell = random_shell(30)
    for options in NETWORKS:
        field = copy.deepcopy(network(shell, **options)[0]).double()
        points = (torch.rand(200, 3, dtype=torch.float64) * 2 - 1).requires_grad_()
        owner = torch.randint(len(shell), (200,))
        (slope,) = torch.autograd.grad(field(points, owner).sum(), points)
        got = plain.shell_field(
            field.shell.packed.spheres, *field.network(), points.detach(), owner, True
        )[1]
        torch.testing.assert_close(got, slope, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["smallest", "relative"])
def test_total_distance_is_the_field_s_composition(backend, rule):
    shell = random_shell()
    field, net = network(shell, width=32, owner=rule)
    points = torch.rand(4000, 3) * 2.4 - 1.2
    got = backend("shell_sdf", *shell.packed, *net, points, RULES[rule])
    expected = Field._completed(Plain(field), points)
    outside = shell.outer_gap(points)[0] > 0
    torch.testing.assert_close(got[~outside], expected[~outside], atol=1e-5, rtol=0)
    # the field knows more about the sign
    torch.testing.assert_close(got[outside].abs(), expected[outside].abs(), atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------- tracing


def balls(shell: DualShell) -> ops.Network:
    """A network whose output is 0: the field is the distance to the spheres midway between inner
    and outer ones."""
    sizes = (1, 16, 1, True, True, True)
    return ops.Network(torch.zeros(len(shell), 16), torch.zeros(16 * 6 + 17), sizes, 1.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["every", "relative"])
@pytest.mark.parametrize("count", [1, 300])
def test_hits_of_a_union_of_balls_are_in_closed_form(backend, rule, count):
    shell = random_shell(count)
    shell = DualShell(shell.centers, torch.full((count,), 0.12), torch.full((count,), 0.18))
    origins, directions = (part[:2000] for part in rays(2000))  # from outside
    got = ops.Traced(
        *backend(
            "shell_trace",
            *shell.packed,
            *balls(shell),
            origins,
            directions,
            RULES[rule],
            True,
            False,
            1e-5,
        )
    )
    o, d, c = origins.double(), directions.double(), shell.centers.double()
    along = ((c - o[:, None]) * d[:, None]).sum(2)
    half = (
        (0.15**2 - ((c - o[:, None]) - along[..., None] * d[:, None]).square().sum(2))
        .clamp(min=0)
        .sqrt()
    )
    t, sphere = torch.where(half > 0, along - half, torch.inf).min(1)
    clear = half.amax(1) > 1e-2
    assert clear.sum() > 40 and torch.equal(got.t.isfinite()[clear], t.isfinite()[clear])
    points = o + got.t.double()[:, None] * d
    distance = (points[clear, None] - c).norm(dim=2) - 0.15
    assert distance.amin(1).abs().max() < 1e-5  # on the surface
    slant = half.gather(1, sphere[:, None])[:, 0] / 0.15
    first = clear & (slant > 0.1)
    assert ((got.t - t).abs() * slant)[first].max() < 1e-5
    normal = (points - c[got.sphere])[clear] / 0.15
    torch.testing.assert_close(got.normal[clear].double(), normal, atol=1e-4, rtol=0)
    offsets, start, end, owner, _ = plain.shell_intervals(
        *shell.packed, origins, directions, RULES[rule]
    )
    for i in clear.nonzero()[:50, 0].tolist():
        inside = owner[offsets[i] : offsets[i + 1]] == got.sphere[i]
        low, high = (
            start[offsets[i] : offsets[i + 1]][inside],
            end[offsets[i] : offsets[i + 1]][inside],
        )
        assert ((low - 1e-5 <= got.t[i]) & (got.t[i] <= high + 1e-5)).any()
    miss = ~got.t.isfinite()
    assert (got.sphere[miss] == -1).all() and (got.normal[miss] == 0).all()


def both_trace(backend, shell, net, origins, directions, rule, exact, everywhere=False):
    arguments = (*shell.packed, *net, origins, directions, RULES[rule], exact, everywhere, 1e-5)
    return ops.Traced(*backend("shell_trace", *arguments)), ops.Traced(
        *plain.shell_trace(*arguments)
    )


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_kernels_hit_what_the_reference_hits(backend, exact, rule, fitted):
    fields = [
        fitted,
        network(random_shell(), width=24)[0],
        network(random_shell(seed=1), width=24)[0],
    ]
    for shell, net in ((field.shell, field.network()) for field in fields):
        origins, directions = rays(1500, seed=2)
        got, expected = both_trace(backend, shell, net, origins, directions, rule, exact)
        both = got.t.isfinite() & expected.t.isfinite()
        far = (got.t - expected.t).abs() > (2e-5 if exact else 1e-4)
        assert (
            (got.t.isfinite() != expected.t.isfinite()) | (both & far)
        ).float().mean() < 0.004 and both.sum() > 300
        assert (got.normal - expected.normal)[
            both & ~far & (got.sphere == expected.sphere)
        ].abs().max() < 0.02
        everywhere = ops.Traced(
            *backend(
                "shell_trace",
                *shell.packed,
                *net,
                origins,
                directions,
                RULES[rule],
                exact,
                True,
                1e-5,
            )
        )
        assert torch.equal(everywhere.t, got.t) and torch.equal(everywhere.sphere, got.sphere)
        assert (everywhere.steps >= got.steps).all() and (
            everywhere.intervals >= got.intervals
        ).all()
        if rule == "every":  # but for a tangent sphere
            assert (everywhere.intervals != expected.intervals).float().mean() < 1e-3


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("rule", ["smallest", "relative"])
@pytest.mark.parametrize("name", ["fitted", "real"])
def test_where_kernels_and_reference_differ_there_is_a_silhouette_or_a_seam(
    backend, rule, name, request
):
    field = request.getfixturevalue(name)
    shell, net = field.shell, field.network()
    origins, directions = (
        torch.cat(part)
        for part in zip(*(camera.rays() for camera in fibonacci(3, 80)), strict=True)
    )
    got, expected = both_trace(backend, shell, net, origins, directions, rule, True)
    assert expected.t.isfinite().sum() > 2000
    differ = ((got.t != expected.t) & ~((got.t - expected.t).abs() < 2e-5)).nonzero()[:, 0]
    assert len(differ) < 0.003 * len(origins)
    # around the earlier hit
    t = got.t.minimum(expected.t)[differ, None] + torch.linspace(-4e-4, 2e-3, 241)
    owner, value = along(field, origins[differ], directions[differ], t, rule)
    seam = (owner[:, 1:81] != owner[:, :80]).any(1)
    # out of the solid again, or 2e-3 on less than 2e-4 deep
    silhouette = (value[:, 80:] > 0).any(1) | (value[:, -1] > -2e-4)
    assert (seam | silhouette).all()


def along(field, origins, directions, t, rule):
    """Owner and prediction (k, m) at t (k, m) of rays (k,)."""
    points = (origins[:, None] + t[..., None] * directions[:, None]).view(-1, 3)
    owner = plain.shell_owner(*field.shell.packed, points, RULES[rule])
    value = plain.shell_field(
        field.shell.packed.spheres, *field.network(), points, owner.clamp(min=0), False
    )[0]
    return owner.view(t.shape), value.view(t.shape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normals_are_those_of_autograd_in_float64(backend, fitted):
    origins, directions = (part[:1000] for part in rays(1000, seed=8))
    got = ops.Traced(
        *backend(
            "shell_trace",
            *fitted.shell.packed,
            *fitted.network(),
            origins,
            directions,
            2,
            True,
            False,
            1e-5,
        )
    )
    hit = got.sphere >= 0
    points = (origins + got.t[:, None] * directions)[hit].double().requires_grad_()
    (slope,) = torch.autograd.grad(
        copy.deepcopy(fitted).double()(points, got.sphere[hit]).sum(), points
    )
    assert hit.sum() > 200
    torch.testing.assert_close(got.normal[hit].double(), normalize(slope, dim=1), atol=1e-4, rtol=0)


class Torus(Field):
    def forward(self, points, owner=None):
        return torus(points)


def test_hits_of_a_torus_lie_on_it():
    shell = ring()
    origins, directions = (part[:3000] for part in rays(3000, seed=7))
    got = tracing.trace(Torus(shell), origins, directions)
    points = origins.double() + got.t.double()[:, None] * directions.double()
    assert got.hit.sum() > 500 and torus(points)[got.hit].abs().max() < 1e-5
    offsets, start, end, _, _ = ops.shell_intervals(shell.packed, origins, directions)
    ray = torch.arange(len(origins)).repeat_interleave(offsets.diff())
    within = (start - 1e-5 <= got.t[ray]) & (got.t[ray] <= end + 1e-5)
    assert torch.zeros(len(origins)).index_add_(0, ray, within.float())[got.hit].min() >= 1
    exact = points[got.hit].requires_grad_()
    (slope,) = torch.autograd.grad(torus(exact).sum(), exact)
    torch.testing.assert_close(got.normal[got.hit].double(), slope, atol=1e-4, rtol=0)


def test_depth_is_as_exact_as_stated(fitted):
    origins, directions = (part[:3000] for part in rays(3000, seed=3))
    for tolerance in (1e-3, 1e-5):
        got = ops.shell_trace(
            fitted.shell.packed,
            fitted.network(),
            origins,
            directions,
            "relative",
            tolerance=tolerance,
        )
        hit = got.t.isfinite().nonzero()[:, 0]
        points = (origins + got.t[:, None] * directions)[hit]
        value = fitted(points, got.sphere[hit]).detach()
        slope = (fitted.gradient(points) * directions[hit]).sum(1).abs()
        behind, ahead = (
            fitted.shell.owner(points + step * directions[hit], "relative")
            for step in (-1e-4, 1e-4)
        )
        seam = behind != ahead
        assert ((value.abs() < tolerance * slope + 1e-6) | seam).all()
        assert value.abs().median() < 1e-6


def test_a_field_is_traced_by_its_operator_as_it_is_by_plain_torch(fitted):
    # from inside the solid, and from the pocket in the hole, too
    origins, directions = rays(500, seed=4)
    fused, plain = (
        tracing.trace(fitted, origins, directions),
        tracing.trace(Plain(fitted), origins, directions),
    )
    both = fused.hit & plain.hit
    assert (fused.hit != plain.hit).sum() <= 2 and both.sum() > 300
    assert ((fused.t - plain.t)[both].abs() < 2e-5).float().mean() > 0.995
    assert torch.equal(fused.t == 0, plain.t == 0) and (fused.t == 0).sum() > 10
    points = torch.rand(3000, 3) * 2 - 1
    torch.testing.assert_close(fitted.sdf(points), Plain(fitted).sdf(points), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        fitted.gradient(points), Plain(fitted).gradient(points), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_rays_that_start_in_the_solid_hit_at_once(backend):
    shell = random_shell(20)
    directions = normalize(torch.randn(20, 3), dim=1)
    got = ops.Traced(
        *backend(
            "shell_trace",
            *shell.packed,
            *balls(shell),
            shell.centers.clone(),
            directions,
            2,
            True,
            False,
            1e-5,
        )
    )
    assert (got.t == 0).all() and (got.sphere >= 0).all() and (got.steps == 0).all()


# ---------------------------------------------------------------------- registration and bad input


NOT_FINITE = [math.nan, math.inf, -math.inf, 3e38]  # the last one's square is infinite


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("axis", [0, 2])
def test_a_ray_that_is_not_finite_is_a_miss(backend, value, axis):
    shell = random_shell(200)
    net = network(shell, width=16)[1]
    good = rays(50)
    for bad in (0, 1):  # origin, direction
        pair = [part.clone() for part in good]
        pair[bad][::2, axis] = value
        for rule in RULES.values():
            offsets, *_, stop = backend("shell_intervals", *shell.packed, *pair, rule)
            assert (offsets.diff()[::2] == 0).all() and (stop[::2] == math.inf).all()
            traced = ops.Traced(
                *backend("shell_trace", *shell.packed, *net, *pair, rule, True, False, 1e-5)
            )
            assert (traced.t[::2] == math.inf).all() and (traced.sphere[::2] == -1).all()
            assert (traced.normal[::2] == 0).all() and (traced.steps[::2] == 0).all()
            alone = ops.Traced(
                *backend("shell_trace", *shell.packed, *net, *good, rule, True, False, 1e-5)
            )
            assert torch.equal(traced.t[1::2], alone.t[1::2])  # the others do not notice


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_point_that_is_not_finite_is_infinitely_far_outside(backend, value):
    shell = random_shell(200)
    net = network(shell, width=16)[1]
    points = torch.rand(20, 3)
    points[::2, 1] = value
    for rule in (1, 2):
        assert (backend("shell_owner", *shell.packed, points, rule)[::2] == -1).all()
        assert (backend("shell_sdf", *shell.packed, *net, points, rule)[::2] == math.inf).all()
    for inner in (True, False):
        distance, sphere = backend("shell_union_sdf", *shell.packed, points, inner)
        assert (distance[::2] == math.inf).all() and (sphere[::2] == -1).all()
        assert (sphere[1::2] >= 0).all() and distance[1::2].isfinite().all()


def test_a_failed_build_fails_the_cuda_tests(monkeypatch):
    monkeypatch.setattr(kernels, "load", lambda: {"cuda": "plain torch (log)"})
    with pytest.raises(AssertionError, match="compared with itself"):
        on_cuda("shell_owner", *random_shell(3).packed, torch.zeros(1, 3), 1)


def test_every_operator_is_registered_as_torch_wants_it():
    shell = random_shell(20)
    net = network(shell, width=16)[1]
    points, owner, directions = (
        torch.rand(33, 3),
        torch.zeros(33, dtype=torch.int64),
        normalize(torch.randn(33, 3), dim=1),
    )
    calls = {
        "shell_intervals": (*shell.packed, points - 2, directions, 2),
        "shell_owner": (*shell.packed, points, 1),
        "shell_union_sdf": (*shell.packed, points, True),
        "shell_field": (shell.packed.spheres, *net, points, owner, True),
        "shell_sdf": (*shell.packed, *net, points, 2),
        "shell_trace": (*shell.packed, *net, points - 2, directions, 2, True, False, 1e-5),
    }
    for name, arguments in calls.items():
        operator = getattr(torch.ops.dss, name).default
        torch.library.opcheck(operator, arguments)
        if name != "shell_owner":  # which gives integers
            result = operator(arguments[0].clone().requires_grad_(), *arguments[1:])
            outputs = result if isinstance(result, tuple) else (result,)
            with pytest.raises(RuntimeError, match=f"{name} is not differentiable"):
                sum(output.sum() for output in outputs if output.requires_grad).backward()


def test_nothing_in_nothing_out():
    shell = random_shell(20)
    net = network(shell, width=16)[1]
    none = torch.zeros(0, 3)
    assert ops.shell_owner(shell.packed, none, "relative").shape == (0,)
    assert ops.shell_union_sdf(shell.packed, none, True)[0].shape == (0,)
    assert ops.shell_sdf(shell.packed, net, none, "relative").shape == (0,)
    assert ops.shell_field(shell.packed, net, none, torch.zeros(0, dtype=torch.int64), True)[
        1
    ].shape == (0, 3)
    assert ops.shell_intervals(shell.packed, none, none).offsets.tolist() == [0]
    assert ops.shell_trace(shell.packed, net, none, none, "relative").normal.shape == (0, 3)


def test_what_is_not_contiguous_is_made_so():
    shell = random_shell(20)
    points = torch.rand(3, 50).T
    assert torch.equal(
        ops.shell_owner(shell.packed, points, "relative"),
        ops.shell_owner(shell.packed, points.contiguous(), "relative"),
    )


def test_bad_input_is_named():
    shell, points = random_shell(20), torch.rand(10, 3)
    packed, net = shell.packed, network(shell, width=16)[1]
    other, short = network(random_shell(21), width=16)[1], net._replace(weights=net.weights[:-1])
    owner = torch.zeros(10, dtype=torch.int64)
    bad = {
        r"pack: centers must hold at least one sphere": lambda: ops.pack(
            torch.zeros(0, 3), torch.zeros(0), torch.zeros(0)
        ),
        r"pack: inner_radii must have the shape \(1\)": lambda: ops.pack(
            torch.zeros(1, 3), torch.zeros(2), torch.zeros(1)
        ),
        r"pack: expected finite centers": lambda: ops.pack(
            torch.zeros(1, 3), torch.ones(1), torch.zeros(1)
        ),
        r"shell_owner: points must be torch.float32, got torch.float64": lambda: ops.shell_owner(
            packed, points.double(), "relative"
        ),
        r"shell_owner: points must have the shape \(n, 3\), got \(10, 2\)": lambda: ops.shell_owner(
            packed, points[:, :2], "relative"
        ),
        r"shell_owner: points must be a tensor, got list": lambda: ops.shell_owner(
            packed, [[0, 0, 0]], "relative"
        ),
        r"shell_owner: points must be on cpu": lambda: ops.shell_owner(
            packed, points.to("meta"), "relative"
        ),
        r"shell_owner: rule must be one of smallest, relative; got 'every'": lambda: (
            ops.shell_owner(packed, points, "every")
        ),
        r"shell_intervals: directions must have the shape \(10, 3\)": lambda: ops.shell_intervals(
            packed, points, points[:4]
        ),
        r"shell_field: owner must be torch.int64": lambda: ops.shell_field(
            packed, net, points, owner.int()
        ),
        r"shell_field: owner must be 0 to 19, got 20 to 20": lambda: ops.shell_field(
            packed, net, points, owner + 20
        ),
        r"shell_field: network.table must have the shape \(20, 16\), got \(21, 16\)": lambda: (
            ops.shell_field(packed, other, points, owner)
        ),
        r"shell_sdf: network.weights must have the shape": lambda: ops.shell_sdf(
            packed, short, points, "relative"
        ),
        r"shell_sdf: network.weights must be finite": lambda: ops.shell_sdf(
            packed, net._replace(weights=net.weights * math.nan), points, "relative"
        ),
        r"shell_trace: network must have at least one hidden layer": lambda: ops.shell_trace(
            packed, net._replace(sizes=(0, 16, 1, True, True, True)), points, points, "relative"
        ),
        r"shell_trace: tolerance must lie between": lambda: ops.shell_trace(
            packed, net, points, points, "relative", tolerance=0
        ),
    }
    for message, call in bad.items():
        with pytest.raises(InputError, match=message):
            call()


def test_the_kernels_themselves_refuse_what_would_read_out_of_bounds():
    shell, points = random_shell(20), torch.rand(10, 3)
    spheres, tree = shell.packed
    table, *rest = network(shell, width=16)[1]
    owner = torch.zeros(10, dtype=torch.int64)
    bad = {
        "tree": ("shell_owner", spheres, tree[:1], points, 1),
        "spheres": ("shell_owner", spheres[:, :4].contiguous(), tree, points, 1),
        "points": ("shell_owner", spheres, tree, points.T, 1),
        "table": ("shell_field", spheres, table[:5], *rest, points, owner, False),
        "owner": ("shell_field", spheres, table, *rest, points, owner[:3], False),
        "directions": ("shell_intervals", spheres, tree, points, points[:5], 0),
    }
    for name, call in bad.items():
        with pytest.raises(RuntimeError, match=re.escape(name)):
            compiled(*call)
