"""DTU's official protocol (Jensen et al. 2014), as its common Python version computes it.

The prediction is sampled to 0.2 mm and thinned to as much. Accuracy is the mean distance of its
points in the observed volume to the scan, completeness that of the scan's points above the table
to the prediction; distances of 20 mm and more are left out, and the result is the mean of the two.
The official folder holds Points/stl/stlNNN_total.ply, and ObsMask/ with ObsMaskN_10.mat and
PlaneN.mat.
"""

import re
from pathlib import Path

import numpy as np
import scipy.io
import trimesh
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from dss.errors import InputError
from dss.evaluation.geometry import nearest_distances
from dss.files import is_file, is_folder
from dss.geometry.points import read_points
from dss.reconstruction.scene import Scene

DENSITY = 0.2  # mm between points of the prediction
MAX_DISTANCE = 20.0  # mm; what is farther is left out
PATCH = 60.0  # mm by which the box of the observed volume is enlarged: once below, twice above
MASK_REACH = 12  # pixels by which masks grow before they cut the mesh
MAX_POINTS = 1 << 16  # whose neighbours are held at once
SCAN = re.compile(r"scan_?(\d+)", re.IGNORECASE)


def is_official(path: Path | str) -> bool:
    """Whether a folder is laid out as DTU publishes its scans for evaluation."""
    return is_folder(Path(path, "ObsMask")) and is_folder(Path(path, "Points", "stl"))


def measure_dtu(mesh: trimesh.Trimesh, scene: Scene, official: Path) -> dict[str, float]:
    """The official metrics, in mm, of a mesh in unit coordinates, cut by the scene's masks first.

    The name of the scene's folder tells the scan, such as dtu_scan24. Raises InputError where it
    does not, and where the official files are missing or damaged.
    """
    found = SCAN.search(scene.path.resolve().name)
    if not found:
        raise InputError(
            f"{scene.path}: which scan is it? Name the folder as in dtu_scan24 to compare it with "
            f"{official}"
        )
    kept = cut_by_masks(mesh, scene) if scene.masked else mesh
    kept = trimesh.Trimesh(scene.similarity.apply(kept.vertices), kept.faces, process=False)
    return score(kept, official, int(found[1]))


def score(mesh: trimesh.Trimesh, official: Path, scan: int) -> dict[str, float]:
    """dtu_accuracy, dtu_completeness and dtu_overall of a mesh in mm, against an official scan."""
    points_file = official / "Points" / "stl" / f"stl{scan:03d}_total.ply"
    volume = _matrices(official / "ObsMask" / f"ObsMask{scan}_10.mat", "ObsMask", "BB", "Res")
    (plane,) = _matrices(official / "ObsMask" / f"Plane{scan}.mat", "P")
    truth = read_points(points_file)
    points = thinned(sampled(mesh, DENSITY), DENSITY)
    boxed, observed = _in_volume(points, *volume)
    above = truth @ plane.ravel()[:3] + plane.ravel()[3] > 0
    if not len(observed) or not above.any():
        raise InputError(
            f"{points_file}: nothing of the mesh lies in its volume; check that scene and scan are "
            "the same, in mm"
        )
    accuracy = nearest_distances(observed, truth)
    completeness = nearest_distances(truth[above], boxed)
    means = [float(each[each < MAX_DISTANCE].mean()) for each in (accuracy, completeness)]
    return {
        "dtu_overall": sum(means) / 2,
        "dtu_accuracy": means[0],
        "dtu_completeness": means[1],
    }


def cut_by_masks(mesh: trimesh.Trimesh, scene: Scene) -> trimesh.Trimesh:
    """What of a mesh lies in every mask whose camera sees it, each grown by MASK_REACH pixels: of
    that, the connected part with most faces."""
    import torch

    vertices = torch.from_numpy(np.asarray(mesh.vertices, np.float64))
    kept = np.ones(len(vertices), bool)
    for photo in scene.photos:
        pixels, depth = photo.camera.project(vertices)
        sees = photo.camera.sees(pixels, depth)
        column, row = torch.where(sees[:, None], pixels, 0).long().T.numpy()
        mask = photo.pixels()[..., 3].numpy() > 0.5
        grown = distance_transform_edt(~mask) <= MASK_REACH if mask.any() else mask
        kept &= ~sees.numpy() | grown[row, column]
    faces = mesh.faces[kept[mesh.faces].all(1)]
    if not len(faces):
        raise InputError(f"{scene.path}: nothing of the mesh lies in all its masks; train longer")
    part = trimesh.Trimesh(mesh.vertices, faces, process=False)
    label = trimesh.graph.connected_component_labels(part.face_adjacency, len(faces))
    part.update_faces(label == np.bincount(label).argmax())
    part.remove_unreferenced_vertices()
    return part


def sampled(mesh: trimesh.Trimesh, density: float) -> np.ndarray:
    """The vertices of a mesh and, in each face, points of a grid about `density` apart: (n, 3)."""
    corner, first, second = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    first, second = first - corner, second - corner
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    area = np.linalg.norm(np.cross(first, second), axis=1)
    solid = area > 0
    step = density * np.sqrt(lengths[0][solid] * lengths[1][solid] / area[solid])
    cells = np.stack([np.floor(length[solid] / step) for length in lengths], 1).astype(np.int64)
    corner, first, second = corner[solid], first[solid], second[solid]
    kinds, kind = np.unique(cells, axis=0, return_inverse=True)
    parts = [np.asarray(mesh.vertices)]
    for number, (one, other) in enumerate(kinds):
        grid = np.stack(np.mgrid[: one + 1, : other + 1], -1).reshape(-1, 2) + 0.5
        share = grid / np.maximum([one, other], 1e-7)
        share = share[share.sum(1) < 1]
        mine = kind.ravel() == number
        steps = share[:, :1] * first[mine][:, None] + share[:, 1:] * second[mine][:, None]
        parts.append((corner[mine][:, None] + steps).reshape(-1, 3))
    return np.concatenate(parts)


def thinned(points: np.ndarray, radius: float) -> np.ndarray:
    """The points (n, 3) in a random order, without those that are within `radius` of an earlier
    one that stays."""
    points = points[np.random.default_rng(0).permutation(len(points))]
    tree, stays = cKDTree(points), np.ones(len(points), bool)
    for start in range(0, len(points), MAX_POINTS):
        index = start + np.flatnonzero(stays[start : start + MAX_POINTS])
        for one, others in zip(index, tree.query_ball_point(points[index], radius), strict=True):
            if stays[one]:
                stays[others] = False
                stays[one] = True
    return points[stays]


def _in_volume(
    points: np.ndarray, mask: np.ndarray, box: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The points in the enlarged box of the observed volume, and those of them that its voxels
    say were observed."""
    box = box.astype(np.float64)
    boxed = points[((points >= box[0] - PATCH) & (points < box[1] + 2 * PATCH)).all(1)]
    voxel = np.around((boxed - box[0]) / float(size.ravel()[0])).astype(np.int64)
    inside = ((voxel >= 0) & (voxel < mask.shape)).all(1)
    seen = mask[tuple(voxel[inside].T)].astype(bool)
    return boxed, boxed[inside][seen]


def _matrices(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of a MATLAB file. Raises InputError where it is missing, damaged or lacks one."""
    if not is_file(path):
        raise InputError(f"{path}: no such file; DTU's SampleSet has it, in MVS Data/ObsMask")
    try:
        arrays = scipy.io.loadmat(path)
        return [np.asarray(arrays[name]) for name in names]
    except Exception as error:  # scipy raises a dozen kinds on damaged files
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: cannot be read ({reason}); fetch it again") from error
