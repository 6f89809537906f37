"""Bodies that are inside out are turned, voids are not, and stray vertices say nothing."""

import itertools

import numpy as np
import pytest
import trimesh

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.geometry.orientation import inverted

BALL = trimesh.creation.icosphere(2)


def ball(radius: float, at: tuple[float, float, float] = (0, 0, 0), turned: bool = False):
    mesh = BALL.copy().apply_scale(radius).apply_translation(at)
    return trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1] if turned else mesh.faces)


def load(path, *parts: trimesh.Trimesh, stray=None):
    whole = trimesh.util.concatenate(parts)
    vertices = whole.vertices if stray is None else np.vstack([whole.vertices, stray])
    lines = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}"]
    lines += [f"property double {axis}" for axis in "xyz"]
    lines += [f"element face {len(whole.faces)}", "property list uchar int vertex_indices"]
    lines += ["end_header", *(" ".join(map(repr, row)) for row in np.asarray(vertices).tolist())]
    lines += ["3 {} {} {}".format(*face) for face in whole.faces.tolist()]
    path.write_text("\n".join([*lines, ""]))
    return load_mesh(path)


def solid_at(mesh, *places) -> list[bool]:
    """Whether places, in the units of the file, lie in the solid."""
    points = mesh.similarity.inverse(np.array(places, float))
    return (MeshDistance(mesh.vertices, mesh.faces).winding(points) > 0.5).tolist()


@pytest.mark.parametrize("radius", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("turned", [(False, True), (True, False), (True, True), (False, False)])
def test_two_bodies(tmp_path, radius, turned):
    """Equal ones, of which one is inverted, had no volume; of others one was lost."""
    parts = ball(1, turned=turned[0]), ball(radius, (4, 0, 0), turned[1])
    mesh = load(tmp_path / "a.ply", *parts)
    assert solid_at(mesh, (0, 0, 0), (4, 0, 0), (2, 0, 0)) == [True, True, False]
    expected = {0: (), 1: ("bodies that were inside out turned: 1",), 2: ("inside out, so turned",)}
    assert mesh.report.repairs == expected[sum(turned)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_voids_stay_voids(tmp_path, turned, order):
    """A solid in a void in a solid, right or inside out as a whole, beside a larger body."""
    onion = [ball(1, turned=turned), ball(0.6, turned=not turned), ball(0.3, turned=turned)]
    parts = [*onion, ball(1.2, (4, 0, 0))]
    mesh = load(tmp_path / "a.ply", *[parts[index] for index in order])
    places = (0, 0, 0), (0.45, 0, 0), (0.8, 0, 0), (4, 0, 0), (1.5, 0, 0)
    assert solid_at(mesh, *places) == [True, False, True, True, False]
    repair = ("bodies that were inside out turned: 3",) if turned else ()
    assert mesh.report.repairs == repair


def test_a_void_in_a_body_with_a_hole(tmp_path):
    outer = ball(1)
    mesh = load(
        tmp_path / "a.ply", trimesh.Trimesh(outer.vertices, outer.faces[1:]), ball(0.5, turned=True)
    )
    assert solid_at(mesh, (0, 0, 0), (0.7, 0, 0)) == [False, True] and not mesh.report.repairs


def test_many_inverted_bodies_are_quick():
    """A sponge of 1,000 voids and 1,000 balls beside it, all inside out."""
    grid = np.stack(np.meshgrid(*[np.arange(10.0)] * 3), -1).reshape(-1, 3)
    small = trimesh.creation.icosahedron().apply_scale(0.3)
    box = trimesh.creation.box((11, 11, 11)).apply_translation([4.5, 4.5, 4.5])
    count, corners = len(small.vertices), [*grid, *(grid + [20, 0, 0])]
    vertices = np.concatenate([box.vertices, *(small.vertices + place for place in corners)])
    faces = [small.faces[:, ::-1] + 8 + count * index for index in range(2000)]
    faces = np.concatenate([box.faces, *faces])
    body = np.repeat(np.arange(2001), [12] + [20] * 2000)
    turned = inverted(vertices, faces, body)
    assert (turned == (body > 1000)).all()


def test_stray_vertices(tmp_path):
    """Vertices that no face uses: far away, or not even numbers."""
    for stray in ([[1e9, 0, 0]], [[np.nan, 0, 0]], [[1e200, 0, 0]]):
        mesh = load(tmp_path / "a.ply", ball(1), stray=stray)
        assert mesh.similarity.scale == pytest.approx(1 / 0.9) and mesh.report.watertight
        assert mesh.report.repairs == ("duplicate or unreferenced vertices removed: 1",)


def test_a_sheet_is_no_body(tmp_path):
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(InputError, match="no volume"):
        load(tmp_path / "a.ply", sheet)
