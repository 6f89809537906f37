import numpy as np
import pytest
import torch
import trimesh

from dss.geometry.distance import MeshDistance
from dss.rendering import mesh_buffers as truth
from dss.rendering.cameras import paper_cameras, turntable
from dss.rendering.mesh_buffers import cached_render, corner_normals, render_mesh


@pytest.fixture(scope="module")
def distance(ball):
    return MeshDistance(ball.vertices, ball.faces)


@pytest.mark.parametrize("method", ["paper", "faces", "smooth"])
def test_ball(distance, method):
    seen = render_mesh(distance, turntable(1, 48)[0], method)
    radius = np.linalg.norm(seen.points(), axis=1)
    assert abs(radius - 0.9).max() < 3e-3 and 1000 < seen.hit.sum() < 48 * 48
    angle = np.degrees(
        np.arccos((seen.normal[seen.hit] * seen.points() / radius[:, None]).sum(1).clip(-1, 1))
    )
    assert angle.mean() < {"paper": 0.5, "faces": 2, "smooth": 0.2}[method]
    assert (seen.normal[~seen.hit] == 0).all() and np.isinf(seen.t[~seen.hit]).all()


def test_the_two_renderers_agree(box):
    """Masks within 0.2 % of the pixels; and the paper's normals differ near edges only."""
    distance = MeshDistance(box.vertices, box.faces)
    camera = paper_cameras(96)[3]
    paper, faces = render_mesh(distance, camera, "paper"), render_mesh(distance, camera, "faces")
    assert (paper.hit != faces.hit).mean() < 0.002
    both = paper.hit & faces.hit
    gap = abs(paper.t[both] - faces.t[both])
    assert gap.max() < 2e-2 and np.median(gap) < 5e-4
    same = (paper.normal * faces.normal).sum(-1)[both]
    assert np.median(same) > 0.99999 and 0.01 < (same < 0.999).mean() < 0.2


def test_smooth_normals_keep_creases(box, ball):
    normal = corner_normals(box.vertices, box.faces)
    np.testing.assert_allclose(normal, np.repeat(box.face_normals[:, None], 3, 1), atol=1e-12)
    normal = corner_normals(ball.vertices, ball.faces)
    np.testing.assert_allclose(normal, ball.vertices[ball.faces] / 0.9, atol=2e-2)


def test_degenerate_faces_have_no_say():
    mesh = trimesh.creation.box()
    faces = np.concatenate([mesh.faces, [[0, 0, 1]]])
    normal = corner_normals(mesh.vertices, faces)
    assert np.isfinite(normal).all()
    np.testing.assert_allclose(normal[:-1], corner_normals(mesh.vertices, mesh.faces), atol=1e-12)


def test_crowded_vertices_keep_face_normals():
    cone = trimesh.creation.cone(1, 1, sections=300)
    normal = corner_normals(cone.vertices, cone.faces)
    tip = (cone.vertices[cone.faces] == [0, 0, 1]).all(2)
    assert tip.sum() == 300
    np.testing.assert_allclose(normal[tip], cone.face_normals[tip.any(1)], atol=1e-12)


@pytest.mark.parametrize("method", ["paper", "faces"])
def test_cache(distance, tmp_path, monkeypatch, method):
    camera = turntable(3, 20)[1]
    first = cached_render(distance, camera, method, tmp_path)
    (file,) = (tmp_path / "truth").iterdir()
    calls = []
    monkeypatch.setattr(
        truth, "render_mesh", lambda *arguments: calls.append(arguments) or render_mesh(*arguments)
    )
    again = cached_render(distance, camera, method, tmp_path)
    assert not calls
    for name in ("hit", "t", "normal", "view"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    file.write_bytes(file.read_bytes()[:100])
    assert (
        np.array_equal(cached_render(distance, camera, method, tmp_path).t, first.t)
        and len(calls) == 1
    )
    cached_render(distance, turntable(3, 20)[2], method, tmp_path)
    cached_render(MeshDistance(distance.vertices * 0.9, distance.faces), camera, method, tmp_path)
    assert len(calls) == 3


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DSS_CACHE", str(tmp_path))
    assert truth.cache_folder() == tmp_path
    monkeypatch.delenv("DSS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(truth.cache_folder()) == "/caches/dss"


def test_no_pinholes_and_equal_masks_on_real_meshes(data):
    mesh = trimesh.load(data / "thingi32/252119.ply", process=False)
    distance = MeshDistance(mesh.vertices, mesh.faces)
    camera = paper_cameras(160)[5]
    paper, faces = render_mesh(distance, camera, "paper"), render_mesh(distance, camera, "faces")
    assert (paper.hit != faces.hit).mean() < 0.002
    assert torch.from_numpy(faces.hit).float().mean() > 0.05
