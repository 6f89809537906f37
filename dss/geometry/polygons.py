"""Mesh files with faces of more than three corners, and these cut into triangles.

trimesh and MeshLab cut some of them into fans, which reach beyond a concave face, and fail or take
minutes on others.
"""

import io
import re

import mapbox_earcut
import numpy as np
from plyfile import PlyData

from dss.errors import InputError

MAX_CORNERS = 100_000  # of a concave face: the time to cut one may grow with the square, to 6 s
FLAT = 1e-3  # of its size by which the corners of a face may leave a plane, to be cut in it
# A face of four corners or more in a text file
OBJ_POLYGON = re.compile(rb"^f(?:[ \t]+\S+){4}", re.M)
OFF_POLYGON = re.compile(rb"^[ \t]*(?:[4-9]|\d\d+)(?:[ \t]+\d+){4}", re.M)
COMMENT = re.compile(rb"#.*")
PLY_COUNT = re.compile(rb"^element \S+ (\d+)", re.M)


def read_obj(path: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) float64 and faces (f, 3) int64 of an OBJ file with polygons.

    Raises InputError as `cut`.
    """
    vertices, polygons = [], []
    for line in content.splitlines():
        kind, *words = line.split() or [b""]
        if kind == b"v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == b"f":
            corners = [int(word.split(b"/")[0]) for word in words]
            # counted from 1, or, where negative, back from the last vertex so far
            polygons.append([n - 1 if n > 0 else n + len(vertices) for n in corners])
    return _triangulated(path, np.array(vertices), polygons)


def read_off(path: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) float64 and faces (f, 3) int64 of an OFF file with polygons.

    Raises InputError as `cut`. (trimesh fails on them, and MeshLab mixes up their corners.)
    """
    lines = [line for line in COMMENT.sub(b"", content).splitlines() if line.strip()]
    head = lines[0].split(b"OFF", 1)[1].split()  # the counts may follow on the same line
    start = 1 if head else 2
    count, faces = (int(number) for number in (head or lines[1].split())[:2])
    vertices = [line.split()[:3] for line in lines[start : start + count]]
    rows = [line.split() for line in lines[start + count : start + count + faces]]
    polygons = [[int(corner) for corner in row[1 : 1 + int(row[0])]] for row in rows]
    return _triangulated(path, np.array(vertices, np.float64), polygons)


def read_ply(path: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3) float64 and faces (f, 3) int64 of a PLY file with polygons.

    Raises InputError as `cut`. (trimesh reads no binary file with faces of different sizes, and
    MeshLab crashes on large faces.)
    """
    header = content.partition(b"end_header")[0]
    if any(int(count) > len(content) for count in PLY_COUNT.findall(header)):
        raise ValueError("it declares more than it holds")
    data = PlyData.read(io.BytesIO(content))
    vertices = np.stack([data["vertex"][axis] for axis in "xyz"], 1).astype(np.float64)
    (name,) = {"vertex_indices", "vertex_index"} & set(data["face"].data.dtype.names)
    return _triangulated(path, vertices, data["face"][name])


def cut(path: str, vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Triangles (f, 3) int64 of polygons: `corners` (c,) one after the other, `sizes` (p,) of each.

    Convex polygons become fans, and so do those that are not flat. Concave ones lose one ear at a
    time; their triangles come last. Raises InputError, which names the file at `path`, where one
    has more than MAX_CORNERS corners.
    """
    fans = np.maximum(sizes - 2, 0)
    start = sizes.cumsum() - sizes
    first = np.repeat(start, fans)
    second = first + 1 + np.arange(len(first)) - np.repeat(fans.cumsum() - fans, fans)
    faces = corners[np.stack([first, second, second + 1], 1)]
    polygon = np.repeat(np.arange(len(sizes)), fans)

    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals, total = np.cross(b - a, c - a), np.zeros((len(sizes), 3))
    np.add.at(total, polygon, normals)
    area = np.linalg.norm(total, axis=1)
    backwards = (normals * total[polygon]).sum(1) < -1e-9 * area[polygon] ** 2
    height = np.zeros(len(sizes))
    np.maximum.at(height, polygon, np.abs(((c - a) * total[polygon]).sum(1)))
    concave = (height <= FLAT * area**1.5) & (area > 0)
    concave[concave] = np.isin(np.flatnonzero(concave), polygon[backwards])
    if not concave.any():
        return faces
    if (largest := sizes[concave].max()) > MAX_CORNERS:
        reason = f"has a concave face of {largest:,} corners"
        raise InputError(f"{path}: {reason}; cut it into triangles, or into smaller faces")
    triangles = [faces[~concave[polygon]]]
    for index in np.flatnonzero(concave):
        outline = corners[start[index] : start[index] + sizes[index]]
        triangles.append(outline[_ears(_projected(vertices[outline], total[index]))])
    return np.concatenate(triangles)


def _projected(points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Points (n, 3) as (n, 2), seen against the normal; the scale does not matter."""
    across = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    return (points - points[0]) @ np.stack([across, np.cross(normal, across)], 1)


def _ears(points: np.ndarray) -> np.ndarray:
    """The triangles (n - 2, 3) int64 of a counter-clockwise polygon (n, 2)."""
    points = points / max(np.abs(points).max(), 1e-300)
    ears = mapbox_earcut.triangulate_float64(points, np.array([len(points)], np.uint32))
    a, b, c = (points[ears.reshape(-1, 3)[:, k]] for k in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    clockwise = (ux * vy - uy * vx).sum() < 0
    triangles = ears.reshape(-1, 3).astype(np.int64)
    return triangles[:, ::-1] if clockwise else triangles


def _triangulated(
    path: str, vertices: np.ndarray, polygons: list[list[int]] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([len(polygon) for polygon in polygons], np.int64)
    corners = np.concatenate([np.zeros(0), *polygons]).astype(np.int64)
    if len(corners) and (corners.min() < 0 or corners.max() >= len(vertices)):
        raise ValueError("a face names a vertex that is not there")
    return vertices, cut(path, vertices, corners, sizes)
