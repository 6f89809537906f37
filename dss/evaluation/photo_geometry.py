"""How near a surface from photos comes to the true one, where the photos could show it.

All distances are in unit coordinates, those of the run's ball. What counts is decided for each
surface by itself (docs/photos.md): a point counts where at least one train camera sees it, past
all else of the same surface, and where it lies within the unit ball, whose cap is no surface.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import trimesh

from dss.errors import InputError
from dss.evaluation import geometry
from dss.evaluation.dtu import is_official, measure_dtu
from dss.evaluation.geometry import nearest_distances, normal_angles
from dss.files import is_file, is_folder
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_surface, surface_samples
from dss.reconstruction.made_scene import MESH, demo_scene
from dss.reconstruction.scene import is_scene, load_scene
from dss.rendering.cameras import Camera
from dss.tables import Column

if TYPE_CHECKING:
    from dss.run import PhotoRun

RIM = 0.995  # beyond this radius there is the cap that the unit ball cuts
HIDDEN = 5e-4  # by which something must be in front of a point to hide it, unit coordinates
ROUNDS = 20  # of samples, until enough are seen
THRESHOLDS = {"fscore_fine": 0.005, "fscore_coarse": 0.02}  # unit coordinates
TILES = (".obj", ".ply", ".stl", ".off", ".glb")  # of a surface in several files
COLUMNS = (
    Column("chamfer_mean", "Chamfer", ".2e"),
    Column("chamfer_to_truth", "to truth", ".2e"),
    Column("chamfer_from_truth", "from truth", ".2e"),
    Column("chamfer_mean_floor", "its floor", ".2e"),
    Column("fscore_fine", f"F at {THRESHOLDS['fscore_fine']}", ".4f"),
    Column("fscore_coarse", f"F at {THRESHOLDS['fscore_coarse']}", ".4f"),
    Column("dtu_overall", "DTU (mm)", ".3f"),
    Column("dtu_accuracy", "accuracy", ".3f"),
    Column("dtu_completeness", "completeness", ".3f"),
)


def measure_geometry(
    run: "PhotoRun", mesh: trimesh.Trimesh, data: str | None = None
) -> dict[str, float]:
    """The metrics of a run's `mesh` (unit coordinates) against its true surface, if there is one.

    `data` names it: a mesh file in the scene's units; a folder of such files, as BlendedMVS has
    them; DTU's official folder; or where the scene has moved to, with its own mesh.ply. Without
    it, the scene's mesh.ply is taken. Raises InputError where `data` is none of these.
    """
    if data and is_official(data):
        fine = run.config.scene.model_copy(update={"downscale": 1})
        scene = load_scene(fine, "train", run.similarity)
        return measure_dtu(mesh, scene, Path(data))
    truth = true_surface(run, data)
    if truth is None:
        return {}
    settings = run.config.scene
    if data and is_scene(data):
        settings = settings.model_copy(update={"path": data})
    cameras = [photo.camera for photo in load_scene(settings, "train", run.similarity).photos]
    return compare_seen(mesh, truth, cameras, run.model.device) | {"unit": run.similarity.scale}


def true_surface(run: "PhotoRun", data: str | None = None) -> trimesh.Trimesh | None:
    """The true surface of a run's scene in unit coordinates, or None where it is not known.

    `data` and what it raises: see `measure_geometry`.
    """
    path = run.config.scene.path
    if data and is_scene(data):
        path, data = data, None
    if path == "demo":
        path = demo_scene()
    if not data and not is_file(Path(path, MESH)):
        return None
    vertices, faces = _read_surface(Path(data) if data else Path(path, MESH))
    return trimesh.Trimesh(run.similarity.inverse(vertices), faces, process=False)


def compare_seen(
    mesh: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    cameras: list[Camera],
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, float]:
    """All metrics of what the cameras see of two surfaces in unit coordinates.

    chamfer_to_truth, chamfer_from_truth: mean distance of the seen points of the prediction to the
      nearest seen point of the truth, and the other way; chamfer_mean: the mean of both
    chamfer_mean_floor: the same between two samplings of the truth, which no method can beat
    surface_mean, surface_mean_to_truth, surface_mean_from_truth, surface_rms, surface_max: exact
      distances of the seen points to the other surface, over both directions and each way
    normal_error_deg: angle between the normals at a seen point and at the closest one of the other
      surface, over both directions; whichever way faces look, as scans look any way
    fscore_fine, fscore_coarse: harmonic mean of the shares of seen points whose exact distance to
      the other surface is below each of THRESHOLDS
    seen_share, truth_seen_share: of each surface, by area
    """
    ours, theirs = (MeshDistance(each.vertices, each.faces, device) for each in (mesh, truth))
    points, faces, share = seen_points(ours, cameras, 2 * seed)
    truth_points, truth_faces, truth_share = seen_points(theirs, cameras, 2 * seed + 1)
    again, _, _ = seen_points(theirs, cameras, 2 * seed)
    there, back = theirs.exact(points), ours.exact(truth_points)
    gaps = np.concatenate([there, back])
    angles = np.concatenate(
        [
            normal_angles(ours, faces, theirs, points),
            normal_angles(theirs, truth_faces, ours, truth_points),
        ]
    )
    pairs = (points, truth_points), (truth_points, points)
    to_truth, from_truth = (float(nearest_distances(*pair).mean()) for pair in pairs)
    pairs = (again, truth_points), (truth_points, again)
    floor = sum(float(nearest_distances(*pair).mean()) for pair in pairs) / 2
    return {
        "chamfer_mean": (to_truth + from_truth) / 2,
        "chamfer_to_truth": to_truth,
        "chamfer_from_truth": from_truth,
        "chamfer_mean_floor": floor,
        "surface_mean": float(gaps.mean()),
        "surface_mean_to_truth": float(there.mean()),
        "surface_mean_from_truth": float(back.mean()),
        "surface_rms": float(np.sqrt(np.square(gaps).mean())),
        "surface_max": float(gaps.max()),
        "normal_error_deg": float(np.minimum(angles, 180 - angles).mean()),
        **{name: fscore(there, back, limit) for name, limit in THRESHOLDS.items()},
        "seen_share": share,
        "truth_seen_share": truth_share,
    }


def seen_points(
    distance: MeshDistance, cameras: list[Camera], seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Points (n, 3) uniform by area on what cameras see of a surface, their faces (n,), and the
    share of the surface that is seen. n is `geometry.SAMPLES`; where little is seen, some repeat.

    Raises InputError where nothing is seen.
    """
    count, kept, tried = geometry.SAMPLES, [], 0
    for attempt in range(ROUNDS):
        points, faces = surface_samples(distance.vertices, distance.faces, count, (seed, attempt))
        seen = visible(distance, points, cameras)
        kept.append((points[seen], faces[seen]))
        tried += count
        if sum(len(some) for some, _ in kept) >= count:
            break
    points, faces = (np.concatenate(each) for each in zip(*kept, strict=True))
    if not len(points):
        raise InputError("no camera sees any of a surface; check that it has the scene's units")
    order = np.arange(count) % len(points)
    return points[order], faces[order], len(points) / tried


def visible(distance: MeshDistance, points: np.ndarray, cameras: list[Camera]) -> np.ndarray:
    """(n,) bool: which points (n, 3) of a surface count: within the ball's rim, and in the picture
    of a camera from which nothing else of the surface hides them."""
    seen = np.zeros(len(points), bool)
    open_points = np.linalg.norm(points, axis=1) < RIM
    for camera in cameras:
        rest = np.flatnonzero(open_points & ~seen)
        places = torch.from_numpy(points[rest])
        rest = rest[camera.sees(*camera.project(places)).numpy()]
        if not len(rest):
            continue
        eye = camera.pose[:, 3].numpy()
        way = points[rest] - eye
        length = np.linalg.norm(way, axis=1)
        origins = np.broadcast_to(eye, way.shape).copy()
        t, _ = distance.raycast(origins, way / length[:, None])
        seen[rest] = t >= length - HIDDEN
    return seen


def fscore(there: np.ndarray, back: np.ndarray, limit: float) -> float:
    """Harmonic mean of the shares of both arrays of distances that are below `limit`."""
    precision, recall = float((there < limit).mean()), float((back < limit).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _read_surface(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces in the scene's units, of a file or of all the tiles in a folder."""
    if not is_folder(path):
        return load_surface(path)
    tiles = sorted(tile for tile in path.rglob("*") if tile.suffix.lower() in TILES)
    if not tiles:
        raise InputError(
            f"{path}: neither a mesh, nor a folder of meshes, a scene, or DTU's Points and ObsMask"
        )
    parts = [load_surface(tile) for tile in tiles]
    counts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [part[1] + count for part, count in zip(parts, counts[:-1], strict=True)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)
