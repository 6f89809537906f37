"""Where a surface is the boundary of its solid, and what is said where it is not."""

import numpy as np
import pytest
import trimesh

from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import MeshReport, load_mesh, surface_samples
from dss.geometry.sides import Shares, interior, shares


def surface(vertices, faces) -> Shares:
    return shares(MeshDistance(np.asarray(vertices), np.asarray(faces)))


def report(boundary: int = 0, nonmanifold: int = 0) -> MeshReport:
    return MeshReport(100, 200, 1, boundary, nonmanifold, ())


def test_a_closed_surface_is_all_boundary(ball, box):
    for mesh in (ball, box):
        assert surface(mesh.vertices, mesh.faces) == Shares(0, 0, 0)


def test_inside_out(ball):
    assert surface(ball.vertices, ball.faces[:, ::-1]) == Shares(0, 0, 1)


def test_holes(ball):
    height = ball.triangles_center[:, 2]
    assert surface(ball.vertices, ball.faces[height > 0.8]).doubtful > 0.99
    assert surface(ball.vertices, ball.faces[height < 0.85]).doubtful < 0.01
    assert 0.3 < surface(ball.vertices, ball.faces[height < -0.3]).doubtful < 1


def test_a_solid_within_the_solid(ball):
    """A fifth of the surface is inside, which leaves no sign in doubt."""
    vertices = np.concatenate([ball.vertices, 0.5 * ball.vertices])
    faces = np.concatenate([ball.faces, ball.faces + len(ball.vertices)])
    found = surface(vertices, faces)
    assert found.interior == pytest.approx(0.2, abs=0.01)
    assert found.doubtful == found.exterior == 0
    assert not found.warnings(report()) and "20% of the surface lies inside" in found.note
    points, face = surface_samples(vertices, faces, 5000)
    hidden = interior(MeshDistance(vertices, faces), points, face)
    np.testing.assert_array_equal(hidden, np.linalg.norm(points, axis=1) < 0.6)


def test_every_fault_has_its_name_and_remedy():
    assert Shares(0.005, 0.005, 0.005).warnings(report(8, 8)) == []
    assert Shares(0.005, 0.005, 0.005).note == ""
    cases = {
        "close the holes (8 boundary edges)": (Shares(0.2, 0, 0), report(8)),
        "remove the extra faces at 9 non-manifold edges": (Shares(0.2, 0, 0), report(0, 9)),
        "thicken what has no thickness": (Shares(0.2, 0, 0), report()),
        "turn the faces of these bodies": (Shares(0, 0, 0.2), report(8)),
    }
    for remedy, (found, about) in cases.items():
        (text,) = found.warnings(about)
        assert remedy in text and "20%" in text and "\n" not in text
        assert ("holes" in text) == ("holes" in remedy)


@pytest.mark.parametrize("name", ["53159", "96481", "252119", "76277"])
def test_real_meshes_leave_nothing_in_doubt(data, name):
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    found = shares(MeshDistance(mesh.vertices, mesh.faces))
    assert max(found.doubtful, found.interior, found.exterior) < 0.01
    assert not found.warnings(mesh.report) and not found.note


def test_overlapping_boxes():
    first, second = trimesh.creation.box((6, 2, 2)), trimesh.creation.box((2, 6, 2.2))
    both = trimesh.util.concatenate([first, second])
    # Four squares of the first and two of the second, 2 x 2 each, of 56 + 59.2
    found = surface(both.vertices / 10, both.faces)
    assert found.interior == pytest.approx(24 / 115.2, abs=0.01) and found.doubtful < 0.01
