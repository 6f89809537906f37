"""Oriented point clouds: load, normalise, and give normals to those without."""

import hashlib
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pymeshlab

from dss.errors import InputError
from dss.geometry.mesh import Mesh, enclosing_ball, surface_samples
from dss.geometry.similarity import Similarity

FORMATS = (".pts", ".xyz", ".ply")
MIN_POINTS = 30  # distinct ones, that make a cloud
NEIGHBOURS = 8  # that estimate a normal
HEADER = re.compile(rb"ply\b.*?\nend_header", re.S)


@dataclass(frozen=True)
class PointCloud:
    """Points of a surface in the normalised frame.

    Their smallest enclosing ball is centred at the origin. points, normals (n, 3) float64; the
    normals are unit vectors that point outwards.
    """

    points: np.ndarray
    normals: np.ndarray
    similarity: Similarity  # from the normalised frame to the input's units
    estimated: bool  # the normals are not the file's
    path: str
    sha256: str  # of the file's bytes


def is_cloud(path: Path | str) -> bool:
    """Whether a file is a point cloud by its suffix, or a PLY file without faces."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix != ".ply" or not path.is_file():
        return suffix in FORMATS[:2]
    return not re.search(rb"\nelement face [1-9]", _header(path.read_bytes()))


def load_points(path: Path | str, radius: float = 0.9, normals: str = "auto") -> PointCloud:
    """Load and normalise a point cloud: .pts, .xyz or .ply.

    .pts and .xyz have a point per line: x y z, then nx ny nz where there are normals; a first line
    with the number of points alone is skipped. `normals`: those of the `file`, `estimated` ones, or
    `auto`: estimated where the file has none. Raises InputError on a file that is not a point
    cloud, on NaN and zero normals, on fewer than MIN_POINTS points, and where normals are asked for
    and absent.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: not a point cloud; give one of {', '.join(FORMATS)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a point cloud"
        ) from error
    points, given = _read_ply(path, content) if suffix == ".ply" else _read_text(path, content)

    count = len(np.unique(points, axis=0))
    if count < MIN_POINTS:
        raise InputError(
            f"{path}: {count} distinct points are too few for a surface; give at least {MIN_POINTS}"
        )
    unusable = int((~np.isfinite(points)).any(1).sum())
    if unusable:
        raise InputError(
            f"{path}: {unusable} of {len(points)} points are NaN or infinite; remove them"
        )
    if normals == "file" and given is None:
        raise InputError(
            f"{path}: has no normals; add them (nx ny nz), or estimate them by samples.normals=auto"
        )
    if given is not None and normals != "estimated":
        length = np.linalg.norm(given, axis=1)
        bad = int((~(np.isfinite(length) & (length > 0))).sum())
        if bad:
            reason = f"{bad} of {len(points)} normals are NaN or zero"
            raise InputError(f"{path}: {reason}; estimate them by samples.normals=estimated")
        given = given / length[:, None]

    low, high = points.min(0), points.max(0)
    middle, size = 0.5 * low + 0.5 * high, float((0.5 * high - 0.5 * low).max())
    if not 1e-150 < size < 1e150:
        reason = f"the points span {2 * size:g}, too little or too much to compute with"
        raise InputError(f"{path}: {reason}; scale them")
    points = (points - middle) / size
    center, reach = enclosing_ball(points)
    points = (points - center) * (radius / reach)
    estimated = given is None or normals == "estimated"
    found = estimate_normals(points) if estimated else given
    sha256 = hashlib.sha256(content).hexdigest()
    similarity = Similarity(tuple((middle + size * center).tolist()), size * reach / radius)
    return PointCloud(points, found, similarity, estimated, str(path), sha256)


def sample_points(mesh: Mesh, count: int, seed: int = 0) -> PointCloud:
    """`count` points uniform on a mesh, with the normals of its faces, in the mesh's frame."""
    points, face = surface_samples(mesh.vertices, mesh.faces, count, seed)
    corner = mesh.vertices[mesh.faces[face]]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return PointCloud(points, normal, mesh.similarity, False, mesh.path, mesh.sha256)


def estimate_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) of points (n, 3), by MeshLab.

    They come from planes through each point's neighbours, and are oriented along a minimum spanning
    tree (Hoppe et al. 1992), then all together so that they point outwards. Where two sheets are
    nearer to each other than the points of one are, some come out wrong: 4 % of the Stanford
    bunny's at 1,000 points.
    """
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(points))
    meshes.compute_normal_for_point_clouds(k=NEIGHBOURS)
    normals = meshes.current_mesh().vertex_normal_matrix()
    return normals if (normals * (points - points.mean(0))).sum() > 0 else -normals


def _read_text(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    lines = content.decode(errors="replace").replace(",", " ").splitlines()
    if lines and len(lines[0].split()) == 1:
        lines = lines[1:]
    try:
        empty = not "".join(lines).strip()
        table = np.empty((0, 3)) if empty else np.loadtxt(StringIO("\n".join(lines)), ndmin=2)
    except ValueError as error:
        raise InputError(
            f"{path}: not a table of numbers ({error}); a point per line: x y z, or x y z nx ny nz"
        ) from error
    if table.shape[1] not in (3, 6):
        raise InputError(
            f"{path}: {table.shape[1]} numbers per line; a point per line: x y z, or x y z nx ny nz"
        )
    return table[:, :3], table[:, 3:] if table.shape[1] == 6 else None


def _read_ply(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    meshes = pymeshlab.MeshSet()
    try:
        meshes.load_new_mesh(str(path))
    except pymeshlab.PyMeshLabException as error:
        raise InputError(
            f"{path}: cannot be read ({str(error).splitlines()[-1]}); export it again"
        ) from error
    mesh = meshes.current_mesh()
    has_normals = re.search(rb"property \w+ nx\b", _header(content))
    return mesh.vertex_matrix(), mesh.vertex_normal_matrix() if has_normals else None


def _header(content: bytes) -> bytes:
    found = HEADER.match(content)
    return found[0] if found else b""
