"""Pictures of a mesh itself: what those of a field are compared with.

By ray casting, which shows the true surface, or in the paper's way, by sphere tracing the exact
distance with normals by central differences, which rounds every edge (dss.md, section 7). Kept in a
cache, one file per mesh, method and camera.
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
CREASE = 40.0  # degrees between faces, beyond which smooth normals keep an edge
# Faces around a vertex, beyond which comparing all pairs of them would take too much memory
CROWD = 100

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
            normal[hit] = torch.from_numpy(
                smooth_normals(distance, points.cpu().numpy(), face[hit].cpu().numpy())
            ).to(normal)
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
            t, normal = (
                np.full(hit.shape, np.inf, np.float32),
                np.zeros((*hit.shape, 3), np.float32),
            )
            t[hit], normal[hit] = stored["t"], stored["normal"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        made = render_mesh(distance, camera, method)
        with replacing(path) as temporary:
            np.savez(
                temporary,
                hit=np.packbits(made.hit),
                t=made.t[made.hit],
                normal=made.normal[made.hit],
            )
        return made
    hits = Hits(
        *(torch.from_numpy(value) for value in (hit, t, normal)),
        torch.zeros(len(hit), dtype=torch.int64),
    )
    return Buffers.of(camera, camera.rays()[1], hits)


def cache_folder() -> Path:
    """Where what can be computed again is kept: $DSS_CACHE, or dss in the user's cache."""
    return Path(
        os.environ.get("DSS_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dss")
    )


def smooth_normals(distance: MeshDistance, points: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) at points (n, 3) on faces (n,), interpolated between those of the
    corners."""
    weights = trimesh.triangles.points_to_barycentric(
        distance.vertices[distance.faces[face]], points, method="cross"
    )
    normal = (
        weights.clip(0)[..., None] * corner_normals(distance.vertices, distance.faces)[face]
    ).sum(1)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)


def corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """A normal for each corner of each face (f, 3, 3): the mean, by area, over the faces around the
    vertex that meet this one at less than CREASE.

    Where more than CROWD faces meet, as at the tip of a cone, each keeps its own.
    """
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = np.cross(b - a, c - a)
    unit = area / np.linalg.norm(area, axis=1, keepdims=True).clip(1e-300)
    vertex, corners = faces.ravel(), np.arange(faces.size)
    crowded = np.bincount(vertex)[vertex] > CROWD
    around = sparse.csr_matrix(
        (np.ones((~crowded).sum(), bool), (corners[~crowded], vertex[~crowded])),
        (faces.size, len(vertices)),
    )
    one, other = (around @ around.T).nonzero()
    alike = (unit[one // 3] * unit[other // 3]).sum(1) > np.cos(np.radians(CREASE))
    total = (
        sparse.csr_matrix(
            (np.ones(alike.sum()), (one[alike], other[alike] // 3)), (faces.size, len(faces))
        )
        @ area
    )
    total[crowded] = area[corners[crowded] // 3]
    return (total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-300)).reshape(
        *faces.shape, 3
    )


def _cache_key(distance: MeshDistance, camera: Camera, method: Method) -> str:
    """A name for all that `render_mesh` depends on."""
    digest = hashlib.sha256(f"{VERSION} {method} {camera.width} {camera.height}".encode())
    for array in (
        camera.pose.numpy(),
        camera.intrinsics.numpy(),
        distance.vertices,
        distance.faces,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
