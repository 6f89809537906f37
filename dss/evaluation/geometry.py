"""How near a mesh, or a field and its mesh, comes to the truth.

All distances are in normalised units and not scaled. The same seed gives the same numbers.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from dss.errors import InputError
from dss.evaluation.ray_samples import ray_samples
from dss.fields import Field
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh, load_mesh, surface_samples
from dss.geometry.sides import interior
from dss.tables import Column

if TYPE_CHECKING:
    from dss.geometry.points import PointCloud

SAMPLES = 131_072  # points on each surface, the paper's count
UNIFORM = 1 << 20  # points in [-1, 1]^3
MAX_ROUNDS = 50  # of samples, until enough of them lie on the boundary of the solid
MIN_INTERIOR = 2e-3  # share of a surface; less may be noise beside concave edges and thin parts
SPREAD = 0.01  # standard deviation of the near-surface points' offsets, per axis
COLUMNS = (
    Column("chamfer", "chamfer", ".3e"),
    Column("chamfer_floor", "floor", ".3e"),
    Column("surface_mean", "surface mean", ".2e"),
    Column("surface_rms", "rms", ".2e"),
    Column("surface_max", "max", ".2e"),
    Column("normal_error_deg", "normals", ".2f"),
    Column("iou_uniform", "IoU", ".5f"),
    Column("iou_near", "near IoU", ".4f"),
    Column("bytes", "bytes", ",.0f"),
    Column("file_bytes", "file", ",.0f"),
    Column("faces", "faces", ",.0f"),
    Column("bodies", "bodies", ",.0f"),
    Column("truth_bodies", "of the mesh", ",.0f"),
)


def evaluate(
    mesh: trimesh.Trimesh,
    truth: Mesh,
    file: Path | str,
    field: Field | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, float | dict[str, int]]:
    """All metrics of a predicted `mesh`, in the frame of `truth`; `file` is what is stored of it.

    chamfer: mean squared distance between SAMPLES area-uniform points on the boundary of each
      solid, summed both ways (docs/method.md, section 9)
    chamfer_floor: the same between two samplings of the truth, which no method can beat
    chamfer_rays, chamfer_rays_floor: the same with the predicted points as the paper takes them, by
      rays
    surface_mean, surface_rms, surface_max: exact distance of those points to the other mesh; mean
      over both directions
    surface_mean_to_truth, surface_mean_from_truth: the same from the prediction to the truth, and
      from the truth to the prediction
    normal_error_deg: angle between the face normals at a point and at its closest one, mean over
      both directions
    iou_uniform, iou_near: intersection over union of the solids, by points of [-1, 1]^3 and by
      surface points moved by N(0, SPREAD); from the field where there is one, else from the mesh
    bytes: as stored, by the field's own account, or the file's size
    bytes_parts: the same by part
    file_bytes: the size of the whole file
    faces, bodies, watertight: of the predicted mesh
    truth_bodies: of the true one
    interior_share: of the true surface, inside the solid on both sides. No points are taken there,
      because no field can represent it
    thickness_mean, thickness_max: of the shell, where there is one
    """
    ours = MeshDistance(mesh.vertices, mesh.faces, device)
    theirs = MeshDistance(truth.vertices, truth.faces, device)
    points, point_faces, _ = boundary_samples(ours, 2 * seed)
    truth_points, truth_faces, interior_share = boundary_samples(theirs, 2 * seed + 1)
    again, _, _ = boundary_samples(theirs, 2 * seed)

    shell = field.shell if field else None
    by_rays, truth_by_rays = (
        ray_samples(each, theirs, SAMPLES, seed, shell) for each in (ours, theirs)
    )

    # Both directions weigh the same, because both have the same number of points.
    one_way = theirs.exact(points), ours.exact(truth_points)
    gaps = np.concatenate(one_way)
    there = normal_angles(ours, point_faces, theirs, points)
    back = normal_angles(theirs, truth_faces, ours, truth_points)
    angles = np.concatenate([there, back])

    generator = np.random.default_rng(seed)
    uniform = generator.uniform(-1, 1, (UNIFORM, 3))
    near = truth_points + generator.normal(0, SPREAD, truth_points.shape)
    predicted = ours if field is None else field

    parts = {"file": Path(file).stat().st_size} if field is None else field.storage()
    result = {
        "chamfer": chamfer(points, truth_points),
        "chamfer_floor": chamfer(again, truth_points),
        "chamfer_rays": chamfer(by_rays, truth_points),
        "chamfer_rays_floor": chamfer(truth_by_rays, truth_points),
        "surface_mean": float(gaps.mean()),
        "surface_mean_to_truth": float(one_way[0].mean()),
        "surface_mean_from_truth": float(one_way[1].mean()),
        "surface_rms": float(np.sqrt(np.square(gaps).mean())),
        "surface_max": float(gaps.max()),
        "normal_error_deg": float(angles.mean()),
        "iou_uniform": iou(inside(predicted, uniform), inside(theirs, uniform)),
        "iou_near": iou(inside(predicted, near), inside(theirs, near)),
        "bytes": sum(parts.values()),
        "bytes_parts": parts,
        "file_bytes": Path(file).stat().st_size,
        **shape_of(mesh),
        "truth_bodies": truth.report.bodies,
        "interior_share": interior_share,
    }
    if shell is not None:
        thickness = shell.thickness
        result["thickness_mean"] = thickness.mean().item()
        result["thickness_max"] = thickness.max().item()
    return result


def boundary_samples(distance: MeshDistance, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """SAMPLES points (n, 3) uniform by area on the boundary of a solid, and their faces (n,).

    Third, the share of all faces, by area, that lie inside the solid. Up to MIN_INTERIOR, they
    are not told from the boundary.
    """
    arrays = distance.vertices, distance.faces
    points, faces = surface_samples(*arrays, SAMPLES, seed)
    hidden = interior(distance, points, faces)
    share = float(hidden.mean())
    if share <= MIN_INTERIOR:
        return points, faces, share
    kept_points, kept_faces = [points[~hidden]], [faces[~hidden]]
    for attempt in range(1, MAX_ROUNDS):
        if sum(map(len, kept_faces)) >= SAMPLES:
            break
        points, faces = surface_samples(*arrays, SAMPLES, (seed, attempt))
        shown = ~interior(distance, points, faces)
        kept_points.append(points[shown])
        kept_faces.append(faces[shown])
    points, faces = np.concatenate(kept_points), np.concatenate(kept_faces)
    if not len(faces):
        raise InputError("all faces of a mesh lie inside its solid; give one that has a boundary")
    order = np.arange(SAMPLES) % len(faces)  # repeats some where nearly all is inside
    return points[order], faces[order], share


def evaluate_cloud(
    mesh: trimesh.Trimesh, cloud: "PointCloud", field: Field
) -> dict[str, float | dict[str, int]]:
    """What can be measured of a predicted `mesh` where only the points are known.

    They are the `cloud` that the field was fitted to.
    surface_mean, surface_rms, surface_max: exact distance of the cloud's points to the mesh
    normal_error_deg: angle between their normals and those of the mesh at the closest point
    bytes, bytes_parts, faces, bodies, watertight: as `evaluate`
    """
    distance = MeshDistance(mesh.vertices, mesh.faces)
    gaps, parts = distance.exact(cloud.points), field.storage()
    normals = distance.normals.numpy()[distance.closest(cloud.points)[1]]
    return {
        "surface_mean": float(gaps.mean()),
        "surface_rms": float(np.sqrt(np.square(gaps).mean())),
        "surface_max": float(gaps.max()),
        "normal_error_deg": float(_angles(cloud.normals, normals).mean()),
        "bytes": sum(parts.values()),
        "bytes_parts": parts,
        **shape_of(mesh),
    }


def shape_of(mesh: trimesh.Trimesh) -> dict[str, float]:
    """What is known of a mesh without a truth: faces, bodies, watertight."""
    return {
        "faces": len(mesh.faces),
        "bodies": int(mesh.body_count),
        "watertight": bool(mesh.is_watertight),
    }


def chamfer(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance from points (n, 3) to the nearest of others (m, 3), summed both ways;
    infinite where either has none.

    Two samplings of one surface of area A with n points each have 2 A / (pi n).
    """
    if not len(first) or not len(second):
        return np.inf
    pairs = (first, second), (second, first)
    return sum(float(np.square(nearest_distances(*pair)).mean()) for pair in pairs)


def nearest_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The distance (n,) from each of the points (n, 3) to the nearest of others (m, 3)."""
    return cKDTree(second).query(first, workers=-1)[0]


def normal_angles(
    own: MeshDistance, faces: np.ndarray, other: MeshDistance, points: np.ndarray
) -> np.ndarray:
    """Degrees (n,) between the normals of `own` and those of `other` at the closest points.

    The points (n, 3) lie on the `faces` (n,) of `own`. Where two faces of `other` coincide back to
    back, either may be the closest: on such a mesh the truth against itself is not 0 (0.2 on
    Thingi32 76277, where 0.2 % of the surface is like that).
    """
    closest = other.closest(points)[1]
    return _angles(own.normals.cpu().numpy()[faces], other.normals.cpu().numpy()[closest])


def inside(solid: Field | MeshDistance, points: np.ndarray) -> np.ndarray:
    """(n,) bool: which points (n, 3) have a field below zero, or a winding number above 1/2."""
    if isinstance(solid, MeshDistance):
        return solid.winding(points) > 0.5
    points = torch.as_tensor(points, dtype=torch.float32, device=solid.device)
    return (solid.sdf(points) < 0).cpu().numpy()


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks (n,) bool; 1 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def load_prediction(path: Path | str, truth: Mesh) -> trimesh.Trimesh:
    """A mesh file, such as any codec's output, in the frame of `truth`, whose units it shares.

    Raises InputError as `load_mesh`.
    """
    mesh = load_mesh(path)
    vertices = truth.similarity.inverse(mesh.similarity.apply(mesh.vertices))
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


def _angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees (n,) between unit vectors (n, 3)."""
    chord = np.linalg.norm(first - second, axis=1)
    return np.degrees(2 * np.arcsin((chord / 2).clip(max=1)))  # arccos would lose small angles
