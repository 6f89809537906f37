"""What one camera sees of a mesh: what a field is compared with.

Casting rays shows the true surface. The paper's way is to sphere trace the exact distance, with
normals by central differences, which rounds every edge (docs/method.md, section 7). What was made
is kept in a cache, one file per mesh, method and camera.
"""

import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import trimesh
from scipy import sparse
from torch import Tensor

from dss.files import replacing
from dss.geometry.distance import MeshDistance
from dss.rendering.buffers import Buffers
from dss.rendering.cameras import Camera
from dss.rendering.tracing import Hits
from dss.rendering.tracing_paper import trace_exact

VERSION = 2  # of the cached buffers: raise it when a renderer here changes
MAX_SMOOTH_ANGLE = 40.0  # degrees between faces whose normals are interpolated; beyond is a crease
MAX_CORNERS = 100  # around a vertex; comparing all pairs of more would take too much memory

Method = Literal["paper", "faces", "smooth"]


def render_mesh(distance: MeshDistance, camera: Camera, method: Method) -> Buffers:
    """What the camera sees of the mesh.

    `paper`: sphere traced, as the paper does; `faces`: rays cast, with the normals of the faces;
    `smooth`: rays cast, with normals that are interpolated except across creases.
    """
    origins, directions = camera.rays(device=distance.device)
    if method == "paper":

        def unsigned(points: Tensor) -> Tensor:
            return (distance.closest(points)[0] - points).norm(dim=1)

        hits = trace_exact(unsigned, distance.sdf, origins, directions)
    else:
        t, face = distance.raycast(origins, directions)
        hit, normal = t.isfinite(), torch.zeros_like(origins)
        normal[hit] = distance.normals[face[hit]]
        if method == "smooth":
            points = origins[hit] + t[hit, None] * directions[hit]
            smooth = smooth_normals(distance, points.cpu().numpy(), face[hit].cpu().numpy())
            normal[hit] = torch.from_numpy(smooth).to(normal)
        hits = Hits(hit, t, normal, torch.zeros_like(face))
    return Buffers.of(camera, directions, hits)


def cached_render(
    distance: MeshDistance, camera: Camera, method: Method, folder: Path | None = None
) -> Buffers:
    """`render_mesh`, remembered in `folder` (default: `cache_folder`).

    A damaged file is made again.
    """
    path = (folder or cache_folder()) / "truth" / f"{_cache_key(distance, camera, method)}.npz"
    shape = (camera.height, camera.width)
    try:
        with np.load(path, allow_pickle=False) as stored:
            hit = np.unpackbits(stored["hit"], count=shape[0] * shape[1]).astype(bool)
            t = np.full(hit.shape, np.inf, np.float32)
            normal = np.zeros((*hit.shape, 3), np.float32)
            t[hit], normal[hit] = stored["t"], stored["normal"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        made = render_mesh(distance, camera, method)
        hit, t, normal = np.packbits(made.hit), made.t[made.hit], made.normal[made.hit]
        with replacing(path) as temporary:
            np.savez(temporary, hit=hit, t=t, normal=normal)
        return made
    steps = np.zeros(len(hit), np.int64)
    hits = Hits(*(torch.from_numpy(value) for value in (hit, t, normal, steps)))
    return Buffers.of(camera, camera.rays()[1], hits)


def cache_folder() -> Path:
    """Where what can be computed again is kept: $DSS_CACHE, or dss in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DSS_CACHE") or Path(user, "dss"))


def smooth_normals(
    distance: MeshDistance, points: np.ndarray, face: np.ndarray, corners: np.ndarray | None = None
) -> np.ndarray:
    """Unit normals (n, 3) at points (n, 3) on faces (n,), interpolated between the corners'.

    These are `corner_normals`, which are found again unless they are given.
    """
    triangles = distance.vertices[distance.faces[face]]
    weights = trimesh.triangles.points_to_barycentric(triangles, points, method="cross").clip(0)
    if corners is None:
        corners = corner_normals(distance.vertices, distance.faces)
    normal = (weights[..., None] * corners[face]).sum(1)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)


def corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """A normal (f, 3, 3) for each corner of each face.

    It is the mean, by area, over the faces around the vertex that meet this one at less than
    MAX_SMOOTH_ANGLE. Where more than MAX_CORNERS meet, as at the tip of a cone, each face keeps its
    own normal.
    """
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = np.cross(b - a, c - a)
    unit = area / np.linalg.norm(area, axis=1, keepdims=True).clip(1e-300)
    vertex, corners = faces.ravel(), np.arange(faces.size)
    crowded = np.bincount(vertex)[vertex] > MAX_CORNERS
    entries = np.ones((~crowded).sum(), bool), (corners[~crowded], vertex[~crowded])
    around = sparse.csr_matrix(entries, (faces.size, len(vertices)))
    one, other = (around @ around.T).nonzero()
    alike = (unit[one // 3] * unit[other // 3]).sum(1) > np.cos(np.radians(MAX_SMOOTH_ANGLE))
    entries = np.ones(alike.sum()), (one[alike], other[alike] // 3)
    total = sparse.csr_matrix(entries, (faces.size, len(faces))) @ area
    total[crowded] = area[corners[crowded] // 3]
    normal = total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-300)
    return normal.reshape(*faces.shape, 3)


def _cache_key(distance: MeshDistance, camera: Camera, method: Method) -> str:
    """A name for all that `render_mesh` depends on."""
    digest = hashlib.sha256(f"{VERSION} {method} {camera.width} {camera.height}".encode())
    arrays = camera.pose.numpy(), camera.intrinsics.numpy(), distance.vertices, distance.faces
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
