"""DualShell against loops over points and spheres, and closed forms."""

import numpy as np
import pytest
import torch

from dss.shell.dual_shell import DualShell


@pytest.fixture
def shell():
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(30, generator=generator) * 0.2 + 0.02
    return DualShell(
        torch.rand(30, 3, generator=generator) - 0.5,
        inner,
        inner + 0.02 + 0.1 * torch.rand(30, generator=generator),
    )


@pytest.fixture
def points():
    return torch.rand(3000, 3, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1


def distances(shell, points):
    return np.linalg.norm(points.double().numpy()[:, None] - shell.centers.double().numpy(), axis=2)


def test_gaps_and_containment(shell, points):
    distance = distances(shell, points)
    inner, outer = distance - shell.inner_radii.numpy(), distance - shell.outer_radii.numpy()
    np.testing.assert_allclose(shell.inner_gap(points), inner.min(1), atol=1e-6)
    gap, nearest = shell.outer_gap(points)
    np.testing.assert_allclose(gap, outer.min(1), atol=1e-6)
    np.testing.assert_array_equal(nearest, outer.argmin(1))
    point, sphere = shell.containing(points)
    expected = np.nonzero(outer < 0)
    np.testing.assert_array_equal(point, expected[0])
    np.testing.assert_array_equal(sphere, expected[1])


def test_owner(shell, points):
    distance, radii = distances(shell, points), shell.outer_radii.numpy()
    smallest, relative = (
        shell.owner(points, "smallest").tolist(),
        shell.owner(points, "relative").tolist(),
    )
    for index, row in enumerate(distance):
        inside = np.flatnonzero(row < radii)
        assert smallest[index] == (min(inside, key=lambda i: radii[i]) if len(inside) else -1)
        assert relative[index] == ((row / radii).argmin() if len(inside) else -1)
    assert len(set(smallest)) > 10 and -1 in smallest


def test_exterior_is_outside_and_pockets_are_not():
    """Balls on a sphere of radius 0.6 that close off its middle."""
    angle = np.arange(300) * np.pi * (3 - 5**0.5)
    height = np.linspace(-1, 1, 300)
    ring = np.sqrt(1 - height**2)
    centers = 0.6 * np.stack([ring * np.cos(angle), ring * np.sin(angle), height], 1)
    shell = DualShell(centers, np.full(300, 0.1), np.full(300, 0.15))
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(2)) * 3 - 1.5
    exterior, radius, gap = shell.exterior(points), points.norm(dim=1), shell.outer_gap(points)[0]
    assert not exterior[radius < 0.6].any() and (gap[radius < 0.4] > 0).any()
    assert not exterior[gap <= 0].any()
    assert exterior[radius > 0.85].all()


def test_statistics_of_concentric_and_far_spheres():
    shell = DualShell([[0, 0, 0], [1, 0, 0]], [0.3, 0.1], [0.4, 0.15])
    statistics = shell.statistics()
    assert statistics["mean"] == pytest.approx(0.075) and statistics["max"] == pytest.approx(0.1)
    volume = 4 / 3 * np.pi * (0.4**3 - 0.3**3 + 0.15**3 - 0.1**3)
    assert statistics["volume"] == pytest.approx(volume, rel=0.03)
    assert shell.statistics() == statistics


def test_buffers_are_float32_and_travel_in_the_state():
    shell = DualShell(np.zeros((2, 3)), np.ones(2), np.full(2, 2.0))
    assert len(shell) == 2 and all(buffer.dtype == torch.float32 for buffer in shell.buffers())
    assert set(shell.state_dict()) == {"centers", "inner_radii", "outer_radii"}
    torch.testing.assert_close(shell.thickness, torch.ones(2))
