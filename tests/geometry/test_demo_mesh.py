import numpy as np
import pymeshlab
import pytest
import trimesh

from dss.geometry import demo_mesh
from dss.geometry.distance import MeshDistance


@pytest.fixture(scope="module")
def mesh() -> trimesh.Trimesh:
    return demo_mesh.demo_mesh()


def test_is_one_solid_with_handles(mesh):
    assert len(mesh.faces) == 50_000
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    assert mesh.body_count == 1
    genus = 1 - mesh.euler_number // 2
    assert genus > 20  # the cage's holes and the handles


def test_triangles_are_sound(mesh):
    assert mesh.area_faces.min() > 1e-6
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces))
    meshes.compute_selection_by_self_intersections_per_face()
    assert meshes.current_mesh().selected_face_number() == 0


def test_is_the_same_at_every_call(mesh):
    again = demo_mesh.demo_mesh()
    assert np.array_equal(mesh.vertices, again.vertices) and np.array_equal(mesh.faces, again.faces)


def test_encloses_what_the_field_says(mesh):
    """The field is evaluated near the surface only; a part that was skipped or cut would show as
    wrong signs."""
    points = (np.random.default_rng(0).random((200_000, 3)) * 2 - 1) * demo_mesh.EXTENT
    field = demo_mesh._ornament(demo_mesh._cylindrical(points))
    clear = np.abs(field) > 0.01  # smoothing and decimation move the surface by less
    winding = MeshDistance(mesh.vertices, mesh.faces).winding(points[clear].astype(np.float32))
    assert np.array_equal(winding > 0.5, field[clear] < 0)
