"""Oriented point clouds: load, normalise, and give normals to those without."""

import contextlib
import hashlib
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pymeshlab

from dss.errors import InputError
from dss.files import is_file
from dss.geometry.mesh import Mesh, enclosing_ball, surface_samples
from dss.geometry.similarity import Similarity

FORMATS = (".pts", ".xyz", ".ply")
MIN_POINTS = 30  # distinct ones, that make a cloud
NEIGHBOURS = 8  # that estimate a normal
HEADER = re.compile(rb"ply[ \t]*\r?\n.{,65536}?\nend_header[ \t]*\r?\n", re.S)  # of a PLY file
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
KINDS = {  # the types of a PLY file as numpy writes them
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
# Of a line in which commas may be decimal ones: "1,5 2,5 3,5" are three numbers, "1,5,2" and
# "1, 5, 2" are others
MIXED = re.compile(r"\S\s.*,\S|,\S.*\s")


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
    if suffix != ".ply" or not is_file(path):
        return suffix in FORMATS[:2]
    with contextlib.suppress(OSError):  # whoever loads the file says why it cannot be read
        header = _ply_header(path.read_bytes())
        faces = (
            [element.count for element in header.elements if element.name == "face"]
            if header
            else [1]
        )
        return not any(faces)
    return False


def load_points(path: Path | str, radius: float = 0.9, normals: str = "auto") -> PointCloud:
    """Load and normalise a point cloud: .pts, .xyz or .ply.

    .pts and .xyz have a point per line: x y z, then nx ny nz where there are normals; a first line
    with the number of points alone is skipped. `normals`: those of the `file`, `estimated` ones, or
    `auto`: estimated where the file has none. Raises InputError on a file that is not a point
    cloud, on NaN and zero normals, on fewer than MIN_POINTS points, and where normals are asked for
    and absent.
    """
    points, given, content = _read(path)
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
        with np.errstate(over="ignore"):
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


def read_points(path: Path | str) -> np.ndarray:
    """The points (n, 3) float64 of a point cloud file as they stand. Raises InputError on a file
    that is not a point cloud, or not finite."""
    points = _read(path)[0]
    if not len(points) or not np.isfinite(points).all():
        raise InputError(f"{path}: has no points, or some that are NaN or infinite; fetch it again")
    return points


def _read(path: Path | str) -> tuple[np.ndarray, np.ndarray | None, bytes]:
    """Points (n, 3), normals (n, 3) where there are some, and the bytes of a point cloud file."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: not a point cloud; give one of {', '.join(FORMATS)}")
    try:
        if not is_file(path):
            raise FileNotFoundError(None, "no such file")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a point cloud"
        ) from error
    return *(_read_ply if suffix == ".ply" else _read_text)(path, content), content


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
    text = re.sub("#.*", "", content.decode("utf-8-sig", errors="replace"))
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if mixed := next(filter(MIXED.search, lines), None):
        reason = f"{mixed[:60]!r} has spaces and commas between digits"
        remedy = "write decimals with points, and between numbers either spaces or commas"
        raise InputError(f"{path}: {reason}; {remedy}")
    declared = lines.pop(0) if lines and re.fullmatch(r"\d{1,18}", lines[0]) else None
    try:
        rows = StringIO("\n".join(lines).replace(",", " "))
        table = np.loadtxt(rows, ndmin=2) if lines else np.empty((0, 3))
    except ValueError as error:
        raise InputError(
            f"{path}: not a table of numbers ({error}); a point per line: x y z, or x y z nx ny nz"
        ) from error
    if table.shape[1] not in (3, 6):
        raise InputError(
            f"{path}: {table.shape[1]} numbers per line; a point per line: x y z, or x y z nx ny nz"
        )
    if declared is not None and int(declared) != len(table):
        reason = f"says {int(declared):,} points and holds {len(table):,}"
        raise InputError(f"{path}: {reason}; get the whole file, or correct its first line")
    return table[:, :3], table[:, 3:] if table.shape[1] == 6 else None


@dataclass(frozen=True)
class _Element:
    """What a PLY header says of one kind of things."""

    name: str
    count: int
    properties: list[tuple[str, str]]  # names and numpy types; the type of a list is ""


@dataclass(frozen=True)
class _Header:
    order: str  # of bytes, as numpy writes it; "" for text
    elements: list[_Element]
    size: int  # of the header in bytes


def _read_ply(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """The vertices of a PLY file whose vertices come first, as those of clouds do.

    MeshLab reads them too, but believes any number that the header declares.
    """
    header = _ply_header(content)
    first, *others = header.elements if header else (None,)
    names = [name for name, _ in first.properties] if first else []
    if first is None or first.name != "vertex" or not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path}: not a PLY file that begins with vertices x y z; export it again")
    if not all(kind for _, kind in first.properties) or len(set(names)) < len(names):
        reason = "its vertices have lists or a property twice"
        raise InputError(f"{path}: {reason}; export positions and normals alone")
    body = content[header.size :]
    if header.order:
        row = np.dtype([(name, header.order + kind) for name, kind in first.properties])
        there, rest = len(body) // row.itemsize, len(body) - first.count * row.itemsize
        table = np.frombuffer(body, row, min(first.count, there))
    else:
        lines = [line for line in body.decode(errors="replace").splitlines() if line.strip()]
        there, rest = len(lines), len(lines) - first.count
        table = _ply_rows(path, lines[: first.count], first)
    if there < first.count or (rest and not any(element.count for element in others)):
        reason = f"says {first.count:,} points and holds {there:,}"
        raise InputError(f"{path}: {reason}; get the whole file, or export it again")

    def columns(names: str) -> np.ndarray:
        return np.stack([table[name].astype(np.float64) for name in names.split()], 1)

    return columns("x y z"), columns("nx ny nz") if {"nx", "ny", "nz"} <= set(names) else None


def _ply_rows(path: Path, lines: list[str], element: _Element) -> np.ndarray:
    """Lines of text as a structured array."""
    try:
        kinds = [(name, np.float64) for name, _ in element.properties]
        numbers = (
            np.loadtxt(StringIO("\n".join(lines)), kinds, ndmin=1) if lines else np.empty(0, kinds)
        )
        return numbers.astype(element.properties)  # rounded as the file declares
    except ValueError as error:
        raise InputError(f"{path}: not a table of numbers ({error}); export it again") from error


def _ply_header(content: bytes) -> _Header | None:
    """What the header of a PLY file declares, or None where there is none or it is damaged."""
    found = HEADER.match(content)
    if not found:
        return None
    order, elements = None, []
    for line in found[0].decode(errors="replace").splitlines()[1:-1]:
        match line.split():
            case ["format", kind, _]:
                order = ORDERS.get(kind)
            case ["element", name, count] if re.fullmatch(r"\d{1,18}", count):
                elements.append(_Element(name, int(count), []))
            case ["property", "list", _, _, name] if elements:
                elements[-1].properties.append((name, ""))
            case ["property", kind, name] if elements and kind in KINDS:
                elements[-1].properties.append((name, KINDS[kind]))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                return None
    return None if order is None or not elements else _Header(order, elements, found.end())
