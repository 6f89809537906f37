"""Scenes with a known surface: posed photos of a mesh, made by casting rays, in both layouts.

A made scene is a folder with a scene in each layout, in the mesh's own units:

    synthetic/  transforms_{train,test}.json, {train,test}/r_N.png
    dtu/        image/, mask/, cameras_sphere.npz: the train photos

Each of the two holds the surface, `mesh.ply`, and the depths of its photos along the view axis,
`depth/`: float32, infinite where nothing is. Before a room, photos have no masks; what would be
the masks is kept in `true_mask/`. The same arguments make the same pictures.
"""

import json
import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import trimesh
from torch import Tensor

from dss.errors import InputError
from dss.files import is_file, replacing
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.geometry.similarity import Similarity
from dss.progress import Progress, silent, tracked
from dss.rendering.cameras import Camera, fibonacci, turntable
from dss.rendering.images import save_png
from dss.rendering.mesh_buffers import cache_folder

Texture = Literal["noise", "checker", "none"]
Background = Literal["none", "room"]

VERSION = 1  # of the demo scene in the cache: raise it when its pictures change
MESH = "mesh.ply"  # beside the photos
FINE = 2  # rays per pixel, each way
FOV = 30.0  # degrees
DEMO_SIZE = 400  # pixels per side of the demo scene's photos
TEST_SHARE = 4  # there is one test photo for so many train photos
BALL = 0.9 * 1.05  # radius of the ball that both layouts name, in the mesh's normalised frame
ROOM = 5.0  # half the edge of the room, in which the cameras stand, in the normalised frame
LATTICE = 64  # nodes per axis of the noise, which repeats beyond
OCTAVES = ((4.0, 0.5), (9.0, 0.3), (19.0, 0.2))  # of the noise: nodes per unit, and weight
CHECKS = 6.0  # of the checker per unit
GREY = 0.7  # without a texture
AMBIENT = 0.35
LIGHTS = (((0.4, -0.5, 0.75), 0.5), ((-0.7, 0.3, 0.1), 0.25))  # directions, and brightness


class Seen(NamedTuple):
    """What a camera sees: arrays over its (height, width) pixels."""

    colour: np.ndarray  # (height, width, 4) uint8: colour, and the share that the object covers
    depth: np.ndarray  # (height, width) float32 along the view axis, inf where the object is not


def demo_scene(progress: Progress = silent) -> Path:
    """The scene of the demo mesh, made at the first call and kept in the cache: a folder in the
    NeRF-synthetic layout."""
    folder = cache_folder() / "scenes" / f"demo_{VERSION}"
    if not is_file(folder / "synthetic" / "transforms_train.json"):  # what is written last
        make_scene("demo", folder, size=DEMO_SIZE, progress=progress)
    return folder / "synthetic"


def make_scene(
    mesh: str,
    out: Path,
    views: int = 60,
    size: int = 200,
    texture: Texture = "noise",
    background: Background = "none",
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> None:
    """Photograph a mesh file, or `demo`, from `views` cameras evenly around it, and a quarter as
    many on a ring for the test split. Raises InputError as `load_mesh`, and below 2 views."""
    if views < 2:
        raise InputError(f"--views {views}: a scene needs at least 2; 60 are usual")
    loaded = load_mesh(mesh)
    distance, similarity = MeshDistance(loaded.vertices, loaded.faces, device), loaded.similarity
    splits = {
        "train": fibonacci(views, size, fov=FOV),
        "test": turntable(-(-views // TEST_SHARE), size, fov=FOV),
    }
    surface = trimesh.Trimesh(similarity.apply(loaded.vertices), loaded.faces, process=False)
    for layout in ("synthetic", "dtu"):
        with replacing(out / layout / MESH) as temporary:
            surface.export(temporary)
    masked = background == "none"
    shots = [(split, index) for split, cameras in splits.items() for index in range(len(cameras))]
    for split, index in tracked(shots, "photos", len(shots), progress):
        seen = photograph(distance, splits[split][index], texture, background)
        depth = (seen.depth * similarity.scale).astype(np.float32)
        _save(out / "synthetic", split, f"r_{index}", seen.colour, depth, masked)
        if split == "train":
            _save_dtu(out / "dtu", f"{index:06d}", seen.colour, depth, masked)
    _write_matrices(out / "dtu", splits["train"], similarity)
    for split in ("test", "train"):
        _write_transforms(out / "synthetic", split, splits[split], similarity)


def photograph(
    distance: MeshDistance, camera: Camera, texture: Texture, background: Background
) -> Seen:
    """What a camera in the normalised frame sees of a mesh, FINE x FINE rays to a pixel."""
    offsets = torch.cartesian_prod(*[torch.arange(FINE).double() + 0.5] * 2) / FINE - 0.5
    pixels = (camera.centers()[:, None] + offsets).reshape(-1, 2)
    origins, directions = camera.rays(pixels)
    t, face = (each.cpu() for each in distance.raycast(origins, directions))
    hit = t.isfinite()
    colour = torch.zeros_like(origins)
    points = origins[hit] + t[hit, None] * directions[hit]
    colour[hit] = albedo(points, texture) * light(distance.normals.cpu()[face[hit]])
    if background == "room":
        colour[~hit] = room(origins[~hit], directions[~hit])
    shape = camera.height, camera.width, FINE * FINE
    share = hit.view(shape).float().mean(2)[..., None]
    mean = colour.view(*shape, 3).mean(2)
    if background == "none":
        mean = mean / share.clamp(min=1e-9)  # that of the object alone: alpha is not premultiplied
    picture = torch.cat([mean.clamp(0, 1), share], 2)
    origins, directions = camera.rays()
    along = directions @ camera.pose[:, 2].float()
    depth = (distance.raycast(origins, directions)[0].cpu() * along).view(shape[:2])
    return Seen((255 * picture).round().to(torch.uint8).numpy(), depth.numpy())


def albedo(points: Tensor, texture: Texture) -> Tensor:
    """The colour (n, 3) of the material at points (n, 3) of the normalised frame."""
    if texture == "noise":
        return 0.1 + 0.9 * noise(points)
    if texture == "checker":
        odd = (points * CHECKS).floor().sum(1).long() % 2 == 1
        one, other = points.new_tensor([0.85, 0.75, 0.6]), points.new_tensor([0.2, 0.35, 0.55])
        return torch.where(odd[:, None], one, other)
    return torch.full_like(points, GREY)


def light(normals: Tensor) -> Tensor:
    """How bright a surface with unit normals (n, 3) is, (n, 1), at most 1: the same from all
    sides, under two lamps and an ambient light."""
    bright = torch.full_like(normals[:, :1], AMBIENT)
    for direction, power in LIGHTS:
        lamp = torch.nn.functional.normalize(normals.new_tensor(direction), dim=0)
        bright = bright + power * (normals @ lamp).clamp(min=0)[:, None]
    return bright.clamp(max=1)


def room(origins: Tensor, directions: Tensor) -> Tensor:
    """The colour (n, 3) of the wall that rays (n, 3) from inside the room meet."""
    t = ((ROOM * directions.sign() - origins) / directions).nan_to_num(nan=torch.inf)
    way, axis = t.min(1)
    points = origins + way[:, None] * directions
    shade = points.new_tensor([0.75, 0.9, 1.0])[axis]
    return (0.15 + 0.75 * noise(points / 4)) * shade[:, None]


def noise(points: Tensor) -> Tensor:
    """Smooth random colours (n, 3) in [0, 1] at points (n, 3): octaves of interpolated noise,
    stretched about their mean."""
    values = np.random.default_rng(0).random((LATTICE,) * 3 + (3,), dtype=np.float32)
    table, corners = torch.from_numpy(values), torch.cartesian_prod(*[torch.arange(2)] * 3)
    result = torch.zeros_like(points)
    for rate, weight in OCTAVES:
        place = points * rate
        low = place.floor()
        share = (place - low)[:, None]
        node = (low.long()[:, None] + corners) % LATTICE
        factor = torch.where(corners.bool(), share, 1 - share).prod(2, keepdim=True)
        result += weight * (factor * table[tuple(node.unbind(2))]).sum(1)
    return (0.5 + 2 * (result - 0.5)).clamp(0, 1)


def _save(
    folder: Path, split: str, name: str, colour: np.ndarray, depth: np.ndarray, masked: bool
) -> None:
    """A photo of the NeRF-synthetic layout, with its depth."""
    save_png(folder / split / f"{name}.png", colour if masked else colour[..., :3])
    if not masked:
        save_png(folder / "true_mask" / split / f"{name}.png", colour[..., 3])
    _save_depth(folder / "depth" / split / f"{name}.npy", depth)


def _save_dtu(folder: Path, name: str, colour: np.ndarray, depth: np.ndarray, masked: bool) -> None:
    """A photo of the DTU layout, with its depth."""
    save_png(folder / "image" / f"{name}.png", colour[..., :3])
    masks = "mask" if masked else "true_mask"
    save_png(folder / masks / f"{name}.png", colour[..., 3])
    _save_depth(folder / "depth" / f"{name}.npy", depth)


def _save_depth(path: Path, depth: np.ndarray) -> None:
    with replacing(path) as temporary:
        np.save(temporary, depth, allow_pickle=False)


def _write_transforms(
    folder: Path, split: str, cameras: list[Camera], similarity: Similarity
) -> None:
    """The cameras of a split, with OpenGL's axes, and the ball that the object lies in."""
    frames = []
    for index, camera in enumerate(cameras):
        pose = np.eye(4)
        pose[:3] = _placed(camera, similarity) * [1, -1, -1, 1]
        frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
    ball = [*similarity.center, BALL * similarity.scale]
    about = {"camera_angle_x": math.radians(FOV), "ball": ball, "frames": frames}
    with replacing(folder / f"transforms_{split}.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _write_matrices(folder: Path, cameras: list[Camera], similarity: Similarity) -> None:
    """The cameras of the DTU layout, whose pixel centres are whole numbers, and its ball."""
    arrays = {}
    scale = np.diag([BALL * similarity.scale] * 3 + [1.0])
    scale[:3, 3] = similarity.center
    for index, camera in enumerate(cameras):
        pose, intrinsics = _placed(camera, similarity), camera.intrinsics.numpy().copy()
        intrinsics[:2, 2] -= 0.5
        rotation, world = pose[:, :3].T, np.eye(4)
        world[:3] = intrinsics @ np.concatenate([rotation, -rotation @ pose[:, 3:]], 1)
        arrays |= {f"world_mat_{index}": world, f"scale_mat_{index}": scale}
    with replacing(folder / "cameras_sphere.npz") as temporary:
        np.savez(temporary, **arrays)


def _placed(camera: Camera, similarity: Similarity) -> np.ndarray:
    """The pose (3, 4) in the mesh's units of a camera in its normalised frame."""
    pose = camera.pose.numpy().copy()
    pose[:, 3] = similarity.apply(pose[:, 3])
    return pose
