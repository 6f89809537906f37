import os
import subprocess
import sys

import igl
import numpy as np
import pytest
import torch
import trimesh
import warp as wp

import dss.geometry.distance
from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples


def arrays(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)


def queries(vertices: np.ndarray, faces: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Half uniform in the cube, half within about 0.01 of the surface."""
    generator = np.random.default_rng(seed)
    near = surface_samples(vertices, faces, count // 2, seed)[0] + generator.normal(
        scale=0.01, size=(count // 2, 3)
    )
    return (
        np.concatenate([generator.uniform(-1, 1, (count // 2, 3)), near])
        .astype(np.float32)
        .astype(np.float64)
    )


def box_sdf(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    beyond = np.abs(points) - half
    return np.linalg.norm(beyond.clip(0), axis=1) + beyond.max(1).clip(max=0)


def solid_angle_winding(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The sum over all triangles (van Oosterom and Strackee 1983)."""
    a, b, c = (vertices[faces[:, k]][None] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=2) for x in (a, b, c))
    over = (a * np.cross(b, c)).sum(2)
    under = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    return np.arctan2(over, under).sum(1) / (2 * np.pi)


@pytest.fixture(scope="module")
def torus() -> trimesh.Trimesh:
    return trimesh.creation.torus(0.6, 0.3, 120, 60)  # 14,400 faces


@pytest.fixture(scope="module")
def torus_distance(torus) -> MeshDistance:
    return MeshDistance(*arrays(torus))


class TestClosedForms:
    def test_sphere(self, ball):
        vertices, faces = arrays(ball)
        points = queries(vertices, faces, 4000)
        error = MeshDistance(vertices, faces).sdf(points) - (np.linalg.norm(points, axis=1) - 0.9)
        # the triangles lie inside the true sphere
        assert error.min() > -1e-6 and error.max() < 3e-4

    def test_box(self, box):
        vertices, faces = arrays(box)
        points = queries(vertices, faces, 4000)
        truth, distance = box_sdf(points, vertices.max(0)), MeshDistance(vertices, faces)
        assert np.abs(distance.sdf(points) - truth).max() < 2e-7
        assert np.abs(distance.exact(points) - np.abs(truth)).max() < 1e-12
        closest, face = distance.closest(points)
        assert np.abs(np.linalg.norm(closest - points, axis=1) - np.abs(truth)).max() < 2e-7
        assert (
            np.abs(trimesh.triangles.closest_point(vertices[faces[face]], closest) - closest).max()
            < 2e-7
        )

    def test_needles(self):
        """A cylinder of 3,000 sides, closed by fans: faces 1,000 times longer than wide, and a few
        of no width at all."""
        mesh = trimesh.creation.cylinder(0.5, 1, sections=3000)
        vertices, faces = arrays(mesh)
        flat = faces[:2][:, [[0, 1, 1], [2, 2, 2]]].reshape(-1, 3)
        distance, points = (
            MeshDistance(vertices, np.concatenate([faces, flat])),
            queries(vertices, faces, 4000),
        )
        truth = np.sqrt(igl.point_mesh_squared_distance(points, vertices, faces)[0])
        assert np.abs(distance.exact(points) - truth).max() < 1e-12
        assert np.abs(np.abs(distance.sdf(points)) - truth).max() < 1e-7
        inside = (np.linalg.norm(points[:, :2], axis=1) < 0.49) & (np.abs(points[:, 2]) < 0.499)
        assert (distance.sdf(points)[inside] < 0).all()
        assert distance.exact(surface_samples(vertices, faces, 4000)[0]).max() < 1e-14

    def test_winding(self, torus, torus_distance):
        vertices, faces = arrays(torus)
        points = queries(vertices, faces, 60)
        expected = solid_angle_winding(vertices, faces, points)
        assert np.abs(expected - expected.round()).max() < 1e-9
        assert np.abs(torus_distance.winding(points) - expected).max() < 0.05
        opened = MeshDistance(vertices, faces[2000:])
        assert (
            np.abs(
                opened.winding(points) - solid_angle_winding(vertices, faces[2000:], points)
            ).max()
            < 0.05
        )


class TestRays:
    def test_box(self, box):
        """Hits from outside and inside against the slab method; t counts lengths of the
        direction."""
        vertices, faces = arrays(box)
        generator = np.random.default_rng(0)
        origins, directions = generator.uniform(-1, 1, (2000, 3)), generator.normal(size=(2000, 3))
        planes = (np.stack([-vertices.max(0), vertices.max(0)])[:, None] - origins) / directions
        enter, leave = planes.min(0).max(1), planes.max(0).min(1)
        truth = np.where((enter < leave) & (leave > 0), np.where(enter > 0, enter, leave), np.inf)
        distance = MeshDistance(vertices, faces)
        t, face = distance.raycast(origins, directions)
        hit = np.isfinite(truth)
        assert 300 < hit.sum() < 1500
        assert (
            (np.isfinite(t) == hit).all()
            and ((face >= 0) == hit).all()
            and (face[~hit] == -1).all()
        )
        assert np.allclose(t[hit], truth[hit], rtol=1e-4, atol=1e-5)
        axis = np.abs((origins + truth[:, None] * directions)[hit]) / vertices.max(0)
        normals = distance.normals[face[hit]].numpy()
        assert (np.abs(normals).argmax(1) == axis.argmax(1)).all() and np.allclose(
            np.linalg.norm(normals, axis=1), 1
        )

    def test_along_axes_and_away(self, box):
        distance = MeshDistance(*arrays(box))
        half = box.vertices[:, 2].max()
        t, face = distance.raycast(
            np.array([[0.1, 0.05, -3], [0.1, 0.05, -3]]), np.array([[0, 0, 2.0], [0, 0, -1]])
        )
        assert t[0] == pytest.approx((3 - half) / 2, rel=1e-6) and distance.normals[
            face[0]
        ].tolist() == [0, 0, -1]
        assert t[1] == np.inf and face[1] == -1


class TestInterface:
    def test_kinds(self, torus_distance):
        points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
        for method in ("sdf", "winding", "closest"):
            of_array = getattr(torus_distance, method)(points)
            of_tensor = getattr(torus_distance, method)(torch.from_numpy(points).float())
            for a, b in zip(
                *((x if isinstance(x, tuple) else (x,)) for x in (of_array, of_tensor)), strict=True
            ):
                assert (
                    isinstance(a, np.ndarray)
                    and isinstance(b, torch.Tensor)
                    and (a == b.numpy()).all()
                )
                assert a.dtype in (np.float32, np.int64)

    def test_shapes_and_strides(self, torus_distance):
        points = torch.rand(100, 6)[::2, ::2]
        assert (torus_distance.sdf(points) == torus_distance.sdf(points.clone())).all()
        assert torus_distance.sdf(np.zeros((0, 3))).shape == (0,) and torus_distance.exact(
            np.zeros((0, 3))
        ).shape == (0,)
        assert torus_distance.closest(torch.zeros(0, 3))[0].shape == (0, 3)

    def test_unusable_faces(self):
        for faces in (np.zeros((0, 3), int), [[0, 1, 3]], [[-1, 0, 1]]):
            with pytest.raises(InputError, match="faces"):
                MeshDistance(np.eye(3), faces)

    def test_within_clamps(self, torus, torus_distance):
        points = queries(*arrays(torus), 10_000)
        assert (
            torus_distance.sdf(points, within=0.05) == torus_distance.sdf(points).clip(-0.05, 0.05)
        ).all()

    def test_threads(self, torus, torus_distance):
        points, threads = queries(*arrays(torus), 100_000), torch.get_num_threads()
        try:
            results = []
            for count in (1, 3):
                torch.set_num_threads(count)
                results.append(torus_distance.sdf(points))
        finally:
            torch.set_num_threads(threads)
        assert (results[0] == results[1]).all()

    def test_many_at_once(self):
        """Meshes do not share state, and outlive one another."""
        small, large = (
            MeshDistance(*arrays(trimesh.creation.icosphere(3, radius=r))) for r in (0.3, 0.8)
        )
        assert small.sdf(np.zeros((1, 3)))[0] == pytest.approx(-0.3, abs=3e-3)
        del small
        assert large.sdf(np.zeros((1, 3)))[0] == pytest.approx(-0.8, abs=1e-2)

    @pytest.mark.cuda
    def test_cuda_agrees(self, torus, torus_distance):
        points = torch.from_numpy(queries(*arrays(torus), 100_000)).float()
        cuda = MeshDistance(*arrays(torus), device="cuda")
        expected, result = torus_distance.sdf(points), cuda.sdf(points.cuda())
        assert result.is_cuda and (result.cpu() - expected).abs().max() < 1e-6
        assert (
            cuda.winding(points.cuda()).cpu() - torus_distance.winding(points)
        ).abs().max() < 0.05
        directions = torch.nn.functional.normalize(points.roll(1, 0), dim=1)
        (t, face), (t_cuda, _) = (
            torus_distance.raycast(points, directions),
            cuda.raycast(points.cuda(), directions.cuda()),
        )
        same = torch.isclose(t, t_cuda.cpu(), atol=1e-4) | (t == t_cuda.cpu())
        assert same.float().mean() > 0.999 and cuda.normals[face.cuda().clamp(min=0)].is_cuda
        assert (
            np.abs(cuda.exact(points.numpy()) - torus_distance.exact(points.numpy())).max() < 1e-12
        )


class TestDamagedMeshes:
    """The sign survives holes and turned faces, where ray parity or closest normals would not."""

    def test_missing_faces(self, torus, torus_distance):
        vertices, faces = arrays(torus)
        kept = np.random.default_rng(0).random(len(faces)) > 0.02
        points = queries(vertices, faces, 40_000)
        result = MeshDistance(vertices, faces[kept]).sdf(points)
        assert ((result < 0) != (torus_distance.sdf(points) < 0)).mean() < 5e-4
        squared, _, _ = igl.point_mesh_squared_distance(points[::10], vertices, faces[kept])
        assert np.abs(np.abs(result[::10]) - np.sqrt(squared)).max() < 1e-6

    def test_turned_faces(self, torus, torus_distance):
        vertices, faces = arrays(torus)
        turned = np.random.default_rng(0).random(len(faces)) < 0.02
        points = queries(vertices, faces, 40_000)
        result = MeshDistance(vertices, np.where(turned[:, None], faces[:, ::-1], faces)).sdf(
            points
        )
        assert ((result < 0) != (torus_distance.sdf(points) < 0)).mean() < 5e-3


def test_points_take_turns_by_place():
    """Neighbours follow each other, whatever else is among the points, so that answers are fast."""
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    order = dss.geometry.distance._by_place(points)
    assert (order.sort()[0] == torch.arange(20_000)).all()
    step = points[order].diff(dim=0).norm(dim=1).mean()
    assert step < 0.1 * points.diff(dim=0).norm(dim=1).mean()
    points[::7] = torch.inf
    points[1::7] = torch.nan
    points[2::7, 1] = points[2, 1]
    assert (dss.geometry.distance._by_place(points).sort()[0] == torch.arange(20_000)).all()
    flat = torch.zeros(5, 3)
    assert len(dss.geometry.distance._by_place(flat)) == 5


@pytest.mark.parametrize("name", ["53159", "96481", "252119"])
def test_real_meshes_against_libigl(data, name):
    """Sign by libigl's fast winding number and magnitude by its exact distances; 96481 has holes,
    252119 is thin."""
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    distance = MeshDistance(mesh.vertices, mesh.faces)
    points = queries(mesh.vertices, mesh.faces, 10_000)
    sdf, exact = distance.sdf(points), distance.exact(points)
    winding = igl.fast_winding_number(mesh.vertices, mesh.faces, points)
    clear = np.abs(winding - 0.5) > 0.05
    assert clear.mean() > 0.999 and ((sdf < 0) == (winding > 0.5))[clear].all()
    magnitude = np.sqrt(igl.point_mesh_squared_distance(points, mesh.vertices, mesh.faces)[0])
    assert np.abs(exact - magnitude).max() < 1e-12 and np.abs(np.abs(sdf) - magnitude).max() < 1e-7


def test_kernels_compile_for_cuda(tmp_path):
    """Without a GPU: Warp brings its own compiler for CUDA too."""
    built = wp.compile_aot_module(dss.geometry.distance, arch=90, module_dir=tmp_path)
    assert built and all(path.stat().st_size for path in built)


def test_needs_no_compiler_and_is_silent(tmp_path):
    """In a fresh process with an empty kernel cache and nothing on PATH."""
    program = (
        "import numpy as np; from dss.geometry.distance import MeshDistance; "
        "print(MeshDistance(np.eye(4, 3), [[0, 2, 1], [0, 3, 2], [0, 1, 3], [1, 2, "
        "3]]).winding(np.full((1, 3), 0.2)).round(3))"
    )
    environment = {**os.environ, "PATH": "", "WARP_CACHE_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip("[].\n ") in (
        "1",
        "-1",
        "0",
    )
    assert any(tmp_path.rglob("*"))
