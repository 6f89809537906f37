"""Field -> mesh: marching cubes on a lattice that is evaluated near the surface only."""

from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes
from torch import Tensor
from tqdm import tqdm

from dss.errors import InputError
from dss.fields import Field
from dss.files import replacing
from dss.geometry.similarity import Similarity

# lattice nodes per axis of the blocks, coarse to fine; a block of one is a node
BLOCKS = (16, 4, 1)
MAX_BLOCKS = 1 << 16  # evaluated at once: bounds memory
MAX_SLOPE = 2.0  # that is expected of a field without a shell; a true distance has 1
# |f| at a node is clamped to so many cells: no vertex falls on a node, and no triangle collapses
MIN_VALUE, MAX_VALUE = 1e-3, 4.0
MAX_RESIDUAL = 1e-3  # cells: |f| at a vertex that is near enough to the zero set
MAX_STEPS = 10  # along an edge; at a jump of the field, the last one is within 1/32 of a cell
MAX_SPECK = 3  # cells: separate bodies and voids up to this long are dropped
FORMATS = {  # the file types that `export` writes, with what pymeshlab is to leave out of them
    ".ply": {"save_vertex_color": False, "save_vertex_quality": False},
    ".obj": {"save_vertex_color": False, "save_vertex_normal": False},
    ".stl": {},
}


def extract(field: Field, resolution: int = 256, name: str = "the field") -> trimesh.Trimesh:
    """The zero set of `field.sdf` in the normalised frame, as a closed mesh.

    Its faces are counter-clockwise seen from outside. `resolution`: cells per edge of [-1, 1]^3;
    the lattice reaches a little further, and its outermost nodes count as outside. Only blocks of
    nodes that the surface can reach are evaluated, coarse to fine; the others get their centre's
    sign. With a shell the mesh equals that of a full lattice, because no surface leaves the
    interlayer. Without one, a block is skipped where |f| at its centre exceeds MAX_SLOPE times its
    reach: parts that a steeper field hides between centres are lost. Vertices are then moved along
    their lattice edges onto the zero set, and bodies and voids of up to MAX_SPECK cells are dropped
    as noise. Memory: about 6 bytes per node, 1 GB at 512.

    Raises InputError, naming the field `name`, where it has no zero crossing or is NaN; and on a
    resolution out of range.
    """
    if not 8 <= resolution <= 1024:
        remedy = "must lie in 8 to 1024, where the lattice takes 8 GB of memory"
        raise InputError(f"resolution {resolution}: {remedy}")
    spacing = 2 / resolution
    count = -(-(resolution + 1) // BLOCKS[0])
    volume = np.empty((count * BLOCKS[0],) * 3, np.float32)
    blocks = torch.cartesian_prod(*[torch.arange(count, device=field.device)] * 3)
    for chunk in tqdm(blocks.split(1 + len(blocks) // 20), "meshing", leave=False, disable=None):
        _fill(volume, field, chunk, spacing, BLOCKS)
    for axis in range(3):
        volume.swapaxes(0, axis)[[0, -1]] = MAX_VALUE * spacing
    inner = volume[1:-1, 1:-1, 1:-1]
    if not inner.min() < 0 < inner.max():
        reason = "no surface in [-1, 1]^3 (no zero crossing, or NaN)"
        raise InputError(f"{name}: {reason}; fit it again, longer or with another seed")
    # `descent` is meant for higher values inside, but scikit-image winds faces in mirrored axes: in
    # ours they face outwards.
    vertices, faces, _, _ = marching_cubes(volume, 0, gradient_direction="descent")
    _polish(vertices := vertices.astype(np.float64), volume, field, spacing)
    mesh = trimesh.Trimesh((vertices - (len(volume) - 1) / 2) * spacing, faces, process=False)
    return _without_specks(mesh, MAX_SPECK * spacing)


def export(mesh: trimesh.Trimesh, path: Path | str, similarity: Similarity) -> None:
    """Write a normalised mesh in the input's units, in the format that the suffix of `path` names.

    ply and obj keep double precision; stl has single precision and no shared vertices. Raises
    InputError on another suffix.
    """
    import pymeshlab

    suffix = check_suffix(path)
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(similarity.apply(np.asarray(mesh.vertices)), mesh.faces))
    with replacing(path) as temporary:
        try:
            meshes.save_current_mesh(str(temporary), **FORMATS[suffix])
        except pymeshlab.PyMeshLabException as error:
            raise OSError(str(error).splitlines()[-1]) from error


def check_suffix(path: Path | str) -> str:
    """The suffix of a path that `export` can write. Raises InputError on another one."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        kind, remedy = suffix or "a file without suffix", f"use one of {', '.join(FORMATS)}"
        raise InputError(f"{path}: cannot write {kind}; {remedy}")
    return suffix


def _fill(
    volume: np.ndarray, field: Field, blocks: Tensor, spacing: float, sizes: tuple[int, ...]
) -> None:
    """Write the nodes of `blocks` (n, 3), in units of sizes[0] nodes.

    They get the field where the surface is near, and else its sign.
    """
    size, *finer = sizes
    view = volume.reshape([part for nodes in volume.shape for part in (nodes // size, size)])
    # The surface must not reach the block's own nodes (half a diagonal), nor the cells that they
    # share with other blocks.
    reach = ((size - 1) / 2 + 1) * spacing * 3**0.5
    for chunk in blocks.split(MAX_BLOCKS):
        centers = ((chunk + 0.5) * size - len(volume) / 2) * spacing
        value = field.sdf(centers)
        if finer:
            near = _clearance(field, centers, value) <= reach
            parts = size // finer[0]
            offsets = torch.cartesian_prod(*[torch.arange(parts, device=chunk.device)] * 3)
            children = chunk[near, None] * parts + offsets
            _fill(volume, field, children.flatten(0, 1), spacing, finer)
            chunk, value = chunk[~near], value[~near].sign()
        sign = torch.where(value < 0, -1.0, 1.0)
        value = value.abs().clamp(MIN_VALUE * spacing, MAX_VALUE * spacing) * sign
        i, j, k = chunk.T.cpu().numpy()
        view[i, :, j, :, k, :] = value.cpu().numpy()[:, None, None, None]


def _without_specks(mesh: trimesh.Trimesh, size: float) -> trimesh.Trimesh:
    """The mesh without the bodies and voids that are nowhere longer than `size`.

    What one or two nodes say is noise.
    """
    edges = np.ones(len(mesh.edges)), mesh.edges.T
    _, label = connected_components(coo_array(edges, shape=(len(mesh.vertices),) * 2))
    low, high = np.full((2, label.max() + 1, 3), np.inf) * [[[1]], [[-1]]]
    np.minimum.at(low, label, mesh.vertices)
    np.maximum.at(high, label, mesh.vertices)
    keep = ((high - low).max(1) > size)[label]
    if not keep.any():
        return mesh
    index, faces = keep.cumsum() - 1, mesh.faces[keep[mesh.faces[:, 0]]]
    return trimesh.Trimesh(mesh.vertices[keep], index[faces], process=False)


def _polish(vertices: np.ndarray, volume: np.ndarray, field: Field, spacing: float) -> None:
    """Move the vertices (v, 3), in units of nodes, in place along lattice edges onto the zero set.

    Linear interpolation misses it where the field bends or jumps: between two owners, and where it
    leaves the interlayer for the shell's bounds. False position and bisection take turns, so that
    the search ends in both cases.
    """
    first, last = np.floor(vertices), np.ceil(vertices)
    # The few vertices that lie on no edge are centres that scikit-image adds to a cell
    index = np.flatnonzero((first != last).sum(1) == 1)
    first, step = first[index], (last - first)[index]
    ends = [volume[tuple(part.astype(int).T)].astype(np.float64) for part in (first, first + step)]
    bounds = [np.full(len(index), MIN_VALUE), np.full(len(index), 1 - MIN_VALUE)]
    share = ((vertices[index] - first) * step).sum(1)
    for number in range(MAX_STEPS):
        vertices[index] = first + share[:, None] * step
        places = (vertices[index] - (len(volume) - 1) / 2) * spacing
        points = torch.tensor(places, dtype=torch.float32, device=field.device)
        value = field.sdf(points)
        found = value.abs() <= MAX_RESIDUAL * spacing
        if field.shell is not None:  # a bound may be near zero far from the surface
            found[found.clone()] = _clearance(field, points[found], value[found]) < 0
        value, going = value.cpu().numpy(), ~found.cpu().numpy()
        right = (value < 0) != (ends[0] < 0)
        for side, moves in enumerate((~right, right)):
            ends[side] = np.where(moves, value, ends[side])
            bounds[side] = np.where(moves, share, bounds[side])
        ratio = 0.5 if number % 2 else ends[0] / (ends[0] - ends[1])
        share = bounds[0] + ratio * (bounds[1] - bounds[0])
        index, first, step, share = index[going], first[going], step[going], share[going]
        ends, bounds = [end[going] for end in ends], [bound[going] for bound in bounds]


def _clearance(field: Field, points: Tensor, value: Tensor) -> Tensor:
    """A lower bound (n,) of the distance from points (n, 3) to the nearest change of sign.

    `value` (n,) is the field there.
    """
    if field.shell is None:
        return value.abs() / MAX_SLOPE
    return torch.maximum(-field.shell.inner_gap(points), field.shell.outer_gap(points)[0])
