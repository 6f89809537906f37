"""Faces of many corners: concave ones are cut, not fanned, in every format; none takes minutes."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh

from dss.errors import InputError
from dss.geometry.mesh import load_mesh
from dss.geometry.polygons import cut

L = np.array([(1, 1), (1, 2), (0, 2), (0, 0), (2, 0), (2, 1)], float)  # fans from 4 corners fail


def prism(outline: np.ndarray, turn: int = 0) -> tuple[np.ndarray, list[list[int]]]:
    """A prism of height 1 over a counter-clockwise outline; caps begin at the corner `turn`."""
    n = len(outline)
    vertices = np.concatenate([np.c_[outline, np.zeros(n)], np.c_[outline, np.ones(n)]])
    ring = [(k + turn) % n for k in range(n)]
    sides = [[k, (k + 1) % n, (k + 1) % n + n, k + n] for k in range(n)]
    return vertices, [*sides, ring[::-1], [k + n for k in ring]]


def rough(n: int) -> np.ndarray:
    """A circle of n corners, every second of which points inwards."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = 1 + 1e-3 * np.random.default_rng(0).random(n)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def write(path: Path, vertices: np.ndarray, faces: list[list[int]], kind: str) -> Path:
    rows = [" ".join(map(repr, vertex)) for vertex in vertices.tolist()]
    listed = [f"{len(face)} " + " ".join(map(str, face)) for face in faces]
    if kind == "obj":
        lines = [f"v {row}" for row in rows]
        lines += ["f " + " ".join(str(k + 1) for k in face) for face in faces]
    elif kind == "off":
        lines = ["OFF # a comment", f"{len(rows)} {len(faces)} 0", *rows, *listed]
    else:
        style = "ascii" if kind == "ascii.ply" else "binary_little_endian"
        lines = ["ply", f"format {style} 1.0", f"element vertex {len(rows)}"]
        lines += [f"property double {axis}" for axis in "xyz"]
        lines += [f"element face {len(faces)}", "property list int int vertex_indices"]
        lines += ["end_header"]
        if kind != "ascii.ply":
            packed = [struct.pack(f"<{len(f) + 1}i", len(f), *f) for f in faces]
            header = "\n".join([*lines, ""]).encode()
            path.write_bytes(header + vertices.astype("<f8").tobytes() + b"".join(packed))
            return path
        lines += [*rows, *listed]
    path.write_text("\n".join([*lines, ""]))
    return path


def size_of(mesh) -> tuple[float, float]:
    """Volume and area in the file's units."""
    solid, scale = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), mesh.similarity.scale
    return solid.volume * scale**3, solid.area * scale**2


@pytest.mark.parametrize("kind", ["obj", "off", "ascii.ply", "ply"])
@pytest.mark.parametrize("turn", range(6))
def test_concave_faces(tmp_path, kind, turn):
    mesh = load_mesh(write(tmp_path / f"l.{kind}", *prism(L[::-1], turn), kind))
    assert mesh.report.watertight and size_of(mesh) == pytest.approx((3, 14))


@pytest.mark.parametrize("kind", ["off", "ply"])
def test_quads_and_triangles(tmp_path, kind):
    """A concave quad, beside triangles in the order of a fan that must stay as they are."""
    arrow = np.array([(0, 0), (2, -1), (0, 2), (-2, -1)], float)
    vertices, faces = prism(arrow, 1)
    apex = np.array([[9.0, 0, 0], [10, 0, 0], [9, 1, 0], [9, 0, 1]])
    faces += (np.array([[0, 2, 1], [0, 3, 2], [0, 1, 3], [1, 2, 3]]) + 8).tolist()
    mesh = load_mesh(write(tmp_path / f"a.{kind}", np.concatenate([vertices, apex]), faces, kind))
    sides = 2 * (5**0.5 + (4 + 9) ** 0.5)
    assert mesh.report.watertight and mesh.report.bodies == 2
    assert size_of(mesh) == pytest.approx((4 + 1 / 6, 8 + sides + 1.5 + 3**0.5 / 2))


def test_large_faces_end():
    """200,000 corners: a convex face is cut, a concave one refused, both within seconds."""
    angle = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    start, corners, size = time.process_time(), np.arange(200_000), np.array([200_000])
    faces = cut("a.ply", circle, corners, size)
    assert trimesh.Trimesh(circle, faces, process=False).area == pytest.approx(np.pi)
    outline = np.c_[rough(200_000), np.zeros(200_000)]
    with pytest.raises(InputError, match="a concave face of 200,000 corners; cut it"):
        cut("a.ply", outline, corners, size)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", ["obj", "ply", "off"])
def test_a_large_concave_face(tmp_path, kind):
    outline = rough(5_000)
    start = time.process_time()
    mesh = load_mesh(write(tmp_path / f"a.{kind}", *prism(outline), kind))
    x, y = outline.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2  # the shoelace formula
    assert mesh.report.watertight and size_of(mesh)[0] == pytest.approx(area)
    assert time.process_time() - start < 20


def test_what_is_not_flat_stays_a_fan():
    """A bent face whose fan overlaps itself when seen from its mean direction."""
    vertices = np.array([[0, 0, 0], [2, -1, 0], [0.2, 0.2, 3], [-1, 2, 0]], float)
    faces = cut("a.ply", vertices, np.arange(4), np.array([4]))
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("kind", ["off", "obj", "ply"])
def test_a_corner_that_is_not_there(tmp_path, kind):
    vertices, faces = prism(L[::-1])
    faces[-1][0] = 99
    with pytest.raises(InputError):
        load_mesh(write(tmp_path / f"a.{kind}", vertices, faces, kind))
