"""Point clouds: files and their faults, the normalised frame, and estimated normals."""

import numpy as np
import pymeshlab
import pytest
import trimesh

from dss.errors import InputError
from dss.geometry.mesh import load_mesh
from dss.geometry.points import estimate_normals, is_cloud, load_points, sample_points
from tests.helpers import sample_points_of

CENTER, SIZE = np.array([40.0, -3.0, 7.0]), 5.0


def sphere(count: int = 400, seed: int = 0) -> np.ndarray:
    """Unit directions (n, 3)."""
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def write(path, *columns):
    np.savetxt(path, np.hstack(columns))
    return path


def write_ply(path, points, normals=None, binary=True):
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(
        pymeshlab.Mesh(points, v_normals_matrix=normals)
        if normals is not None
        else pymeshlab.Mesh(points)
    )
    meshes.save_current_mesh(str(path), binary=binary, save_vertex_normal=normals is not None)
    return path


@pytest.mark.parametrize("kind", ["cloud.pts", "cloud.xyz", "binary.ply", "text.ply"])
def test_files_with_normals(tmp_path, kind):
    normal = sphere()
    points, path = CENTER + SIZE * normal, tmp_path / kind
    if kind.endswith(".ply"):
        write_ply(path, points, normal, kind.startswith("binary"))
    else:
        write(path, points, 3 * normal)  # of any length
    assert is_cloud(path)
    cloud = load_points(path)
    assert not cloud.estimated and np.allclose(cloud.normals, normal, atol=1e-5)
    assert np.linalg.norm(cloud.points, axis=1).max() == pytest.approx(0.9)
    assert np.allclose(cloud.similarity.apply(cloud.points), points, atol=1e-5)


def test_a_count_in_the_first_line_and_commas(tmp_path):
    rows = "\n".join(", ".join(map(str, row)) for row in sphere(50))
    (tmp_path / "cloud.xyz").write_text(f"50\n# by hand\n{rows}\n")
    assert len(load_points(tmp_path / "cloud.xyz").points) == 50


@pytest.mark.parametrize("kind", ["cloud.xyz", "cloud.ply"])
def test_normals_are_estimated_where_there_are_none(tmp_path, kind):
    normal, path = sphere(), tmp_path / kind
    (write_ply if kind.endswith("ply") else write)(path, CENTER + SIZE * normal)
    cloud = load_points(path)
    assert cloud.estimated and (cloud.normals * normal).sum(1).min() > 0.8
    with pytest.raises(InputError, match="has no normals"):
        load_points(path, normals="file")


def test_estimated_normals_point_outwards(box, data):
    cloud = sample_points_of(box, 3_000)
    agreement = (estimate_normals(cloud.points) * cloud.normals).sum(1)
    assert (agreement > 0).mean() > 0.995
    bunny = load_points(data / "point_clouds" / "bunny-1000.pts")
    assert ((estimate_normals(bunny.points) * bunny.normals).sum(1) > 0).mean() > 0.95


def test_a_cloud_from_a_mesh_keeps_its_frame(tmp_path, ball):
    ball.copy().apply_transform(trimesh.transformations.scale_and_translate(SIZE, CENTER)).export(
        tmp_path / "ball.ply"
    )
    mesh = load_mesh(tmp_path / "ball.ply")
    cloud = sample_points(mesh, 500)
    assert not is_cloud(tmp_path / "ball.ply") and cloud.similarity == mesh.similarity
    assert np.allclose(np.linalg.norm(cloud.points, axis=1), 0.9, atol=1e-3)
    assert (cloud.normals * cloud.points).sum(1).min() > 0.89
    assert (
        np.abs(
            np.linalg.norm(cloud.similarity.apply(cloud.points) - CENTER, axis=1) - 0.9 * SIZE
        ).max()
        < 0.01
    )


def test_bad_input(tmp_path):
    good, bad = sphere(100), sphere(100)
    bad[3, 1] = np.nan
    nothing, text = tmp_path / "nothing.pts", tmp_path / "text.xyz"
    nothing.write_text("")
    text.write_text("x y z\n1 2 three\n")
    damaged = write_ply(tmp_path / "damaged.ply", good)
    damaged.write_bytes(damaged.read_bytes()[:-200])
    zero = np.vstack([np.zeros((2, 3)), good[2:]])
    for path, message in (
        (tmp_path / "gone.pts", "cannot be read"),
        (tmp_path / "cloud.las", "not a point cloud"),
        (nothing, "0 distinct points"),
        (text, "not a table of numbers"),
        (damaged, "damaged.ply"),
        (write(tmp_path / "nan.pts", bad, good), "1 of 100 points are NaN"),
        (write(tmp_path / "nan_normals.pts", good, bad), "1 of 100 normals are NaN or zero"),
        (write(tmp_path / "zero_normals.pts", good, zero), "2 of 100 normals are NaN or zero"),
        (write(tmp_path / "few.pts", good[:10], good[:10]), "10 distinct points are too few"),
        (write(tmp_path / "one.pts", np.tile(good[:1], (100, 1))), "1 distinct points"),
        (write(tmp_path / "five.pts", good, good[:, :2]), "5 numbers per line"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_points(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)
