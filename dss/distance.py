"""Ground truth: the signed distance to a mesh, by NVIDIA Warp on the CPU and on CUDA, one code path.

The sign is that of the generalised winding number (inside where it exceeds 1/2), so meshes need not be watertight.
"""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
import trimesh
import warp as wp
from torch import Tensor

from dss.mesh import surface_samples

CHUNK = 1 << 14  # points per launch on the CPU: small enough to share evenly among the threads
AMBIGUOUS = 0.25  # how far the winding number beside the surface may be from 0 in front and 1 behind


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what native code writes to standard error: without a GPU, Warp's start-up warns that there is none."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


wp.config.log_level = wp.LOG_WARNING
with _silent():
    wp.init()


@wp.func_native("return mesh_query_winding_number(mesh, point, 2.0f);")
def winding_number(mesh: wp.uint64, point: wp.vec3) -> float: ...


@wp.kernel(enable_backward=False)
def winding_kernel(mesh: wp.uint64, points: wp.array(dtype=wp.vec3), winding: wp.array(dtype=float)):
    i = wp.tid()
    winding[i] = winding_number(mesh, points[i])


@wp.kernel(enable_backward=False)
def sdf_kernel(mesh: wp.uint64, points: wp.array(dtype=wp.vec3), within: float, sdf: wp.array(dtype=float)):
    i = wp.tid()
    distance = within
    query = wp.mesh_query_point_no_sign(mesh, points[i], within)
    if query.result:
        distance = wp.length(wp.mesh_eval_position(mesh, query.face, query.u, query.v) - points[i])
    if winding_number(mesh, points[i]) > 0.5:
        distance = -distance
    sdf[i] = distance


@wp.kernel(enable_backward=False)
def closest_kernel(mesh: wp.uint64, points: wp.array(dtype=wp.vec3), closest: wp.array(dtype=wp.vec3), face: wp.array(dtype=wp.int64)):
    i = wp.tid()
    query = wp.mesh_query_point_no_sign(mesh, points[i], wp.inf)
    closest[i] = wp.mesh_eval_position(mesh, query.face, query.u, query.v)
    face[i] = wp.int64(query.face)


@wp.kernel(enable_backward=False)
def raycast_kernel(
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    t: wp.array(dtype=float),
    face: wp.array(dtype=wp.int64),
):
    i = wp.tid()
    query = wp.mesh_query_ray(mesh, origins[i], directions[i], wp.inf)
    t[i] = wp.inf
    face[i] = wp.int64(-1)
    if query.result:
        t[i] = query.t
        face[i] = wp.int64(query.face)


def numpy_or_torch(method: Callable) -> Callable:
    """Let a method of tensors (n, 3) take numpy arrays too; it then answers with numpy arrays."""

    @functools.wraps(method)
    def wrapper(self, *arrays, **options):
        tensors = [torch.as_tensor(array, dtype=torch.float32, device=self.device).contiguous() for array in arrays]
        result = method(self, *tensors, **options)
        if isinstance(arrays[0], Tensor):
            return result
        return tuple(part.cpu().numpy() for part in result) if isinstance(result, tuple) else result.cpu().numpy()

    return wrapper


class MeshDistance:
    """Distances, winding numbers and ray hits of a mesh: vertices (v, 3) float, faces (f, 3) int.

    All queries but `exact` compute in float32 on `device`; they take torch tensors or numpy arrays (n, 3) and answer in kind.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.vertices, self.faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
        name = wp.device_from_torch(self.device)
        self._mesh = wp.Mesh(
            wp.array(self.vertices, dtype=wp.vec3, device=name),
            wp.array(self.faces.ravel(), dtype=wp.int32, device=name),
            support_winding_number=True,
        )
        wp.load_module(device=name)
        wp.synchronize_device(name)

    @cached_property
    def normals(self) -> Tensor:
        """Unit face normals (f, 3) float32 on the device; zero for a degenerate face."""
        corners = self.vertices[self.faces]
        normal = torch.from_numpy(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        return torch.nn.functional.normalize(normal, dim=1, eps=0).nan_to_num().to(self.device, torch.float32)

    @numpy_or_torch
    def sdf(self, points: Tensor, within: float = torch.inf) -> Tensor:
        """Signed distance (n,) of points (n, 3), negative inside.

        `within` bounds the search: the result is the signed distance clamped to [-within, within], near the surface faster.
        """
        sdf = points.new_empty(len(points))
        self._launch(sdf_kernel, [points], [within], [sdf])
        return sdf

    @numpy_or_torch
    def winding(self, points: Tensor) -> Tensor:
        """Generalised winding number (n,) of points (n, 3): about 0 outside and 1 inside (Barill et al. 2018)."""
        winding = points.new_empty(len(points))
        self._launch(winding_kernel, [points], [], [winding])
        return winding

    @numpy_or_torch
    def closest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The closest surface points (n, 3) and their faces (n,) int64."""
        closest, face = torch.empty_like(points), points.new_empty(len(points), dtype=torch.int64)
        self._launch(closest_kernel, [points], [], [closest, face])
        return closest, face

    @numpy_or_torch
    def raycast(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """First hits of the rays origins + t directions: t (n,), inf on a miss, and the face (n,) int64, -1 on a miss.

        t counts lengths of the direction; the face's normal is `normals[face]`.
        """
        t, face = origins.new_empty(len(origins)), origins.new_empty(len(origins), dtype=torch.int64)
        self._launch(raycast_kernel, [origins, directions], [], [t, face])
        return t, face

    def exact(self, points: np.ndarray) -> np.ndarray:
        """Unsigned distance (n,) float64 of points (n, 3) float64, recomputed in float64 on the face that float32 found
        and on those that share an edge with it: beside a needle float32 may be one face off, and the distance 2e-6."""
        points = np.asarray(points, np.float64)
        faces = self._neighbours[self.closest(points)[1]]
        triangles = self.vertices[self.faces[faces.ravel()]]
        closest = trimesh.triangles.closest_point(triangles, points.repeat(4, 0))
        return np.linalg.norm(closest.reshape(-1, 4, 3) - points[:, None], axis=2).min(1)

    @cached_property
    def _neighbours(self) -> np.ndarray:
        """Each face with the three that share an edge with it (f, 4) int64; itself in place of one that is not there."""
        pairs = trimesh.graph.face_adjacency(self.faces)
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        pairs = pairs[pairs[:, 0].argsort(kind="stable")]
        rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
        table = np.arange(len(self.faces))[:, None].repeat(4, 1)
        table[pairs[:, 0], rank + 1] = pairs[:, 1]
        return table

    def ambiguous_share(self, count: int = 20_000, offset: float = 1e-4, seed: int = 0) -> float:
        """Share of the surface, by area, where the winding number does not tell inside from outside.

        That is where it is not within 1/4 of 0 just in front of the face and of 1 just behind it, as beside large holes,
        on sheets, on faces inside the solid and on solids turned inside out.
        """
        points, face = surface_samples(self.vertices, self.faces, count, seed)
        step = offset * self.normals.cpu().numpy()[face]
        ambiguous = (np.abs(self.winding(points + step)) > AMBIGUOUS) | (np.abs(self.winding(points - step) - 1) > AMBIGUOUS)
        return float(ambiguous.mean())

    def _launch(self, kernel: wp.Kernel, points: list[Tensor], values: list[float], results: list[Tensor]) -> None:
        """One thread of `kernel` per point. Warp runs a CPU launch serially, but outside Python's lock: use several."""
        stream = wp.stream_from_torch(self.device) if self.device.type == "cuda" else None
        chunk = CHUNK if stream is None else max(1, len(points[0]))

        def launch(start: int) -> None:
            inputs, outputs = ([_as_warp(array[start : start + chunk]) for array in arrays] for arrays in (points, results))
            device = wp.device_from_torch(self.device)
            wp.launch(kernel, len(inputs[0]), [self._mesh.id, *inputs, *values], outputs, device=device, stream=stream)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(launch, range(0, len(points[0]), chunk)))


def _as_warp(array: Tensor) -> wp.array:
    kind = {torch.float32: wp.float32, torch.int64: wp.int64}[array.dtype]
    return wp.from_torch(array, dtype=wp.vec3 if array.ndim == 2 else kind, requires_grad=False)
