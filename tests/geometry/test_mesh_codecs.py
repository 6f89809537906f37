"""The classic control: quadric decimation and Draco, on a sphere and on files that are not
Draco's."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dss.errors import InputError
from dss.geometry import mesh_codecs
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh_codecs import (
    decode,
    draco,
    load_draco,
    refined,
    save_draco,
    surface_error,
    tuned,
)
from dss.geometry.simplify import simplify


def test_fewer_faces_keep_the_shape(ball):
    few = simplify(ball, 500)
    assert len(few.faces) == 500 and few.is_watertight and few.euler_number == 2
    assert few.volume == pytest.approx(ball.volume, rel=0.01)
    assert MeshDistance(ball.vertices, ball.faces).exact(few.vertices).max() < 0.01


def test_a_mesh_that_is_small_enough_stays(box):
    same = simplify(box, 12)
    assert np.array_equal(same.vertices, box.vertices) and np.array_equal(same.faces, box.faces)


def test_what_an_earlier_call_chose_does_not_count(ball):
    """pymeshlab takes the values of its last call for the defaults of the next one."""
    meshes = [simplify(ball, 500, *chosen) for chosen in ((), (0.05, True), ())]
    assert np.array_equal(meshes[0].vertices, meshes[2].vertices)
    assert not np.array_equal(meshes[0].vertices, meshes[1].vertices)


@pytest.mark.parametrize("bits", [8, 11, 16])
def test_draco_moves_a_vertex_by_half_a_step_at_most(ball, tmp_path, bits):
    path = tmp_path / "ball.drc"
    save_draco(ball, path, bits)
    decoded = load_draco(path)
    # Faces still look outwards
    assert decoded.is_watertight and len(decoded.faces) == len(ball.faces) and decoded.volume > 0
    gap = cKDTree(ball.vertices).query(decoded.vertices)[0].max()
    assert gap <= 3**0.5 * 0.5 * 1.8 / (2**bits - 1) + 1e-6
    assert path.stat().st_size < ball.vertices.astype(np.float32).nbytes / 2


def test_more_bits_and_more_faces_take_more_bytes(ball, tmp_path):
    def weight(faces: int, bits: int) -> int:
        save_draco(simplify(ball, faces), tmp_path / "x.drc", bits)
        return (tmp_path / "x.drc").stat().st_size

    assert weight(500, 8) < weight(500, 12) < weight(2000, 12)


@pytest.fixture
def fewer(monkeypatch):
    monkeypatch.setattr(mesh_codecs, "SAMPLES", 5000)
    monkeypatch.setattr(mesh_codecs, "TUNED_BITS", (8, 10, 14))


@pytest.mark.parametrize(("size", "move"), [(600, False), (1200, False), (1200, True)])
def test_the_tuned_control_has_the_size_and_beats_others_of_it(ball, fewer, size, move):
    truth = MeshDistance(ball.vertices, ball.faces)
    mesh, bits = tuned(ball, size, move)
    # moved vertices take other bytes, for which the number of faces is not chosen again
    assert len(draco(mesh, bits)) == pytest.approx(size, rel=0.1 if move else 0.03)
    error = surface_error(decode(draco(mesh, bits)), truth)
    for other in {8, 10, 14} - {bits}:
        faces = round(len(mesh.faces) * size / len(draco(mesh, other)))
        rival = simplify(ball, faces, 0.1)
        rival = refined(rival, truth) if move else rival
        assert error < surface_error(decode(draco(rival, other)), truth)


def test_refined_vertices_are_nearer_to_the_surface(ball, fewer):
    truth = MeshDistance(ball.vertices, ball.faces)
    few = simplify(ball, 200)
    moved = refined(few, truth)
    assert np.array_equal(moved.faces, few.faces) and moved.is_watertight
    assert surface_error(moved, truth) < 0.7 * surface_error(few, truth)


@pytest.mark.parametrize("content", [None, b"", b"not Draco", "cut"])
def test_bad_files_are_named(ball, tmp_path, content):
    path = tmp_path / "bad.drc"
    if content == "cut":
        save_draco(ball, path, 11)
        path.write_bytes(path.read_bytes()[:1000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="bad.drc") as error:
        load_draco(path)
    assert "\n" not in str(error.value)


def test_bad_values_are_named(ball, tmp_path):
    with pytest.raises(InputError, match="faces=3"):
        simplify(ball, 3)
    for bits in (0, 31):
        with pytest.raises(InputError, match=f"bits={bits}"):
            save_draco(ball, tmp_path / "x.drc", bits)
