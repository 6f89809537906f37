import h5py
import pytest
import torch
import trimesh

from dss.fields.mesh import MeshField
from dss.geometry.distance import MeshDistance
from dss.rendering.cameras import turntable
from dss.rendering.tracing import trace
from dss.shell.dual_shell import DualShell
from tests.helpers import Analytic, box, camera_rays, shell_of, sphere, torus


def ray_sphere(origins, directions, radius):
    """Closed form in float64: first intersection with a sphere about the origin, inf on a miss."""
    o, d = origins.double(), directions.double()
    b = (o * d).sum(1)
    disc = b**2 - (o * o).sum(1) + radius**2
    return torch.where(disc > 0, -b - disc.clamp(min=0).sqrt(), torch.inf)


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_sphere_depth_and_normals(shell, scale):
    origins, directions = camera_rays()
    field = Analytic(sphere(), shell_of(sphere()) if shell else None, scale)
    hits = trace(field, origins, directions)
    expected = ray_sphere(origins, directions, 0.6)
    # Away from the silhouette
    clear = ((torch.linalg.cross(origins, directions).norm(dim=1)) - 0.6).abs() > 1e-4
    assert torch.equal(hits.hit[clear], expected.isfinite()[clear])
    both = hits.hit & clear
    slant = -(hits.normal * directions).sum(1)[both]
    # Beside the silhouette depth is that much less certain
    assert ((hits.t[both] - expected[both]).abs() * slant).max() < 3e-6
    torch.testing.assert_close(
        hits.normal[both], (origins + hits.t[:, None] * directions)[both] / 0.6, atol=1e-4, rtol=0
    )
    assert hits.t[~hits.hit].isinf().all() and (hits.normal[~hits.hit] == 0).all()
    assert hits.steps[both].float().mean() < 40


@pytest.mark.parametrize("distance", [sphere(), box(), torus()])
def test_shell_gives_the_same_hits_as_plain_tracing(distance):
    for index in range(3):
        origins, directions = camera_rays(64, index)
        plain = trace(Analytic(distance), origins, directions)
        shelled = trace(Analytic(distance, shell_of(distance)), origins, directions)
        assert (plain.hit != shelled.hit).sum() <= 2  # grazing rays only
        both = plain.hit & shelled.hit
        assert both.float().mean() > 0.05
        torch.testing.assert_close(plain.t[both], shelled.t[both], atol=2e-5, rtol=0)
        assert shelled.steps.sum() < plain.steps.sum()


def test_hit_points_lie_on_the_surface():
    origins, directions = camera_rays(64)
    for distance in (box(), torus()):
        hits = trace(Analytic(distance, shell_of(distance)), origins, directions)
        assert distance(origins + hits.t[:, None] * directions)[hits.hit].abs().max() < 1e-5


@pytest.mark.parametrize("shell", [False, True])
def test_rays_from_inside(shell):
    """From inside the solid: t = 0.

    From inside an outer sphere but outside the solid: the surface ahead, or nothing.
    """
    field = Analytic(sphere(), shell_of(sphere()) if shell else None)
    origins = torch.tensor(
        [[0.0, 0, 0], [0.59, 0, 0], [0.605, 0, 0], [0.605, 0, 0], [5.0, 0, 0], [5.0, 0, 0]]
    )
    directions = torch.tensor(
        [[1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [1, 0, 0], [1, 0, 0], [-1, 0, 0]]
    )
    hits = trace(field, origins, directions)
    assert hits.hit.tolist() == [True, True, True, False, False, True]
    torch.testing.assert_close(
        hits.t[hits.hit], torch.tensor([0, 0, 0.005, 4.4]), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("shell", [False, True])
def test_degenerate_rays(shell):
    field = Analytic(box(), shell_of(box()) if shell else None)
    empty = trace(field, torch.zeros(0, 3), torch.zeros(0, 3))
    assert [len(getattr(empty, name)) for name in ("hit", "t", "normal", "steps")] == [0] * 4
    axis = trace(
        field,
        torch.tensor([[3.0, 0, 0], [3.0, 0.41, 0], [-1.0, 1.0, 1.0]]),
        torch.tensor([[-1.0, 0, 0]] * 3),
    )
    assert axis.hit.tolist() == [True, False, False]
    torch.testing.assert_close(axis.t[0], torch.tensor(2.5), atol=2e-6, rtol=0)


def test_grazing_along_a_face_ends():
    """A ray along a face at less than the least step: no hit, no endless loop."""
    hits = trace(
        Analytic(box()), torch.tensor([[3.0, 0.4 + 1e-5, 0]]), torch.tensor([[-1.0, 0, 0]])
    )
    assert not hits.hit.item() and hits.steps.item() < 10_000


def test_rays_that_are_not_finite():
    rays = torch.full((2, 3), torch.nan), torch.tensor([[1.0, 0, 0]] * 2)
    for field in (Analytic(box()), Analytic(box(), shell_of(box()))):
        assert not trace(field, *rays).hit.any()


def test_non_finite_field_is_a_miss():
    hits = trace(Analytic(lambda points: points[:, 0] * torch.nan), *camera_rays(8))
    assert not hits.hit.any()


def test_entering_an_inner_sphere_is_a_hit():
    """Even where the field sees no surface: fact 5 of the shell."""
    shell = DualShell(torch.zeros(1, 3), torch.tensor([0.5]), torch.tensor([0.6]))
    hits = trace(
        Analytic(lambda points: 0.3 + 0 * points.sum(1), shell),
        torch.tensor([[3.0, 0, 0]]),
        torch.tensor([[-1.0, 0, 0]]),
    )
    torch.testing.assert_close(hits.t, torch.tensor([2.5]))


@pytest.mark.parametrize("name", ["53159", "252119"])
def test_exact_distance_through_the_shell_equals_plain_tracing_and_raycast(data, name):
    mesh = trimesh.load(data / f"thingi32/{name}.ply", process=False)
    distance = MeshDistance(mesh.vertices, mesh.faces)
    inner, outer = (
        h5py.File(data / f"shells/thingi32_{part}512/{name}.h5")["data"][:]
        for part in ("inner", "safe")
    )
    shell = DualShell(inner[:, :3], abs(inner[:, 3]), outer[:, 3])
    origins, directions = turntable(5, 96)[2].rays()
    plain, shelled = (
        trace(MeshField(distance), origins, directions),
        trace(MeshField(distance, shell), origins, directions),
    )
    t, face = distance.raycast(origins, directions)
    for hits in (plain, shelled):
        # The authors' shells leak a little; and silhouettes
        assert (hits.hit != t.isfinite()).sum() <= 3
        both = hits.hit & t.isfinite()
        assert ((hits.t - t)[both].abs() < 1e-4).float().mean() > 0.999
        assert ((hits.t - t)[both].abs() < 1e-5).float().mean() > 0.99
        assert ((hits.normal * distance.normals[face]).sum(1)[both] > 0.999).float().mean() > 0.95
    assert shelled.steps.sum() < plain.steps.sum()
