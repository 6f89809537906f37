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

# Lattice nodes per axis of the blocks that are asked in turn; a block of one is a node
BLOCKS = (16, 4, 1)
CHUNK = 1 << 16  # blocks asked at once: bounds memory
LIPSCHITZ = 2.0  # steepest slope that is expected of a field without a shell; a true distance has 1
# Cells: |f| at a node is clamped to these, so that no vertex falls on a node and no triangle
# collapses
SNAP, LIMIT = 1e-3, 4.0
TOLERANCE = 1e-3  # cells: |f| at a vertex that is near enough to the zero set
# Of the search along an edge; at a jump of the field the last one lies within 1/32 of a cell
STEPS = 10
SPECK = 3  # cells: separate bodies and voids up to this long are dropped
FORMATS = {  # the file types that `export` writes, with what pymeshlab is to leave out of them
    ".ply": {"save_vertex_color": False, "save_vertex_quality": False},
    ".obj": {"save_vertex_color": False, "save_vertex_normal": False},
    ".stl": {},
}


def extract(field: Field, resolution: int = 256, name: str = "the field") -> trimesh.Trimesh:
    """The zero set of `field.sdf` in the normalised frame: closed, faces counter-clockwise seen
    from outside.

    `resolution`: cells per edge of [-1, 1]^3; the lattice reaches a little further, and its
    outermost nodes count as outside. Only blocks of nodes that the surface can reach are evaluated,
    coarse to fine; the others get their centre's sign. With a shell the mesh equals that of a full
    lattice, because no surface leaves the interlayer (facts 2 and 3). Without one, a block is
    skipped where |f| at its centre exceeds LIPSCHITZ times its reach: parts that a steeper field
    hides between centres are lost. Vertices are then moved along their lattice edges onto the zero
    set, and bodies and voids of up to SPECK cells are dropped as noise. Memory: about 6 bytes per
    node, 1 GB at 512.

    Raises InputError, naming the field `name`, where it has no zero crossing or is NaN; and on a
    resolution out of range.
    """
    if not 8 <= resolution <= 1024:
        raise InputError(
            f"resolution {resolution}: must lie in 8 to 1024, where the lattice takes 8 GB of memory"
        )
    spacing = 2 / resolution
    count = -(-(resolution + 1) // BLOCKS[0])
    volume = np.empty((count * BLOCKS[0],) * 3, np.float32)
    blocks = torch.cartesian_prod(*[torch.arange(count, device=field.device)] * 3)
    for chunk in tqdm(blocks.split(1 + len(blocks) // 20), "meshing", leave=False, disable=None):
        _fill(volume, field, chunk, spacing, BLOCKS)
    for axis in range(3):
        volume.swapaxes(0, axis)[[0, -1]] = LIMIT * spacing
    inner = volume[1:-1, 1:-1, 1:-1]
    if not inner.min() < 0 < inner.max():
        raise InputError(
            f"{name}: no surface in [-1, 1]^3 (no zero crossing, or NaN); fit it again, longer or with another seed"
        )
    # `descent` is meant for higher values inside, but scikit-image winds faces in mirrored axes: in
    # ours they face outwards.
    vertices, faces, _, _ = marching_cubes(volume, 0, gradient_direction="descent")
    _polish(vertices := vertices.astype(np.float64), volume, field, spacing)
    mesh = trimesh.Trimesh((vertices - (len(volume) - 1) / 2) * spacing, faces, process=False)
    return _without_specks(mesh, SPECK * spacing)


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
        raise InputError(
            f"{path}: cannot write {suffix or 'a file without suffix'}; use one of {', '.join(FORMATS)}"
        )
    return suffix


def _fill(
    volume: np.ndarray, field: Field, blocks: Tensor, spacing: float, sizes: tuple[int, ...]
) -> None:
    """Write the nodes of `blocks` (n, 3), in units of sizes[0] nodes: the field near the surface,
    else its sign."""
    size, *finer = sizes
    view = volume.reshape([part for nodes in volume.shape for part in (nodes // size, size)])
    # Beyond the block's own nodes (half a diagonal), the cells they share with others must be free
    # of the surface.
    reach = ((size - 1) / 2 + 1) * spacing * 3**0.5
    for chunk in blocks.split(CHUNK):
        centers = ((chunk + 0.5) * size - len(volume) / 2) * spacing
        value = field.sdf(centers)
        if finer:
            near = _clearance(field, centers, value) <= reach
            offsets = torch.cartesian_prod(
                *[torch.arange(size // finer[0], device=chunk.device)] * 3
            )
            children = chunk[near, None] * (size // finer[0]) + offsets
            _fill(volume, field, children.flatten(0, 1), spacing, finer)
            chunk, value = chunk[~near], value[~near].sign()
        value = value.abs().clamp(SNAP * spacing, LIMIT * spacing) * torch.where(
            value < 0, -1.0, 1.0
        )
        i, j, k = chunk.T.cpu().numpy()
        view[i, :, j, :, k, :] = value.cpu().numpy()[:, None, None, None]


def _without_specks(mesh: trimesh.Trimesh, size: float) -> trimesh.Trimesh:
    """The mesh without the bodies and voids that are nowhere longer than `size`: what one or two
    nodes say is noise."""
    _, label = connected_components(
        coo_array((np.ones(len(mesh.edges)), mesh.edges.T), shape=(len(mesh.vertices),) * 2)
    )
    low, high = np.full((2, label.max() + 1, 3), np.inf) * [[[1]], [[-1]]]
    np.minimum.at(low, label, mesh.vertices)
    np.maximum.at(high, label, mesh.vertices)
    keep = ((high - low).max(1) > size)[label]
    if not keep.any():
        return mesh
    index = keep.cumsum() - 1
    return trimesh.Trimesh(
        mesh.vertices[keep], index[mesh.faces[keep[mesh.faces[:, 0]]]], process=False
    )


def _polish(vertices: np.ndarray, volume: np.ndarray, field: Field, spacing: float) -> None:
    """Move the vertices (v, 3), in units of nodes, along their lattice edges onto the zero set, in
    place.

    Linear interpolation misses it where the field bends or jumps: between two owners, and where it
    leaves the interlayer for the shell's bounds. False position and bisection take turns, so that
    the search ends in both cases.
    """
    first, last = np.floor(vertices), np.ceil(vertices)
    # The few others are centres that scikit-image adds to a cell
    index = np.flatnonzero((first != last).sum(1) == 1)
    first, step = first[index], (last - first)[index]
    ends = [volume[tuple(part.astype(int).T)].astype(np.float64) for part in (first, first + step)]
    bounds = [np.full(len(index), SNAP), np.full(len(index), 1 - SNAP)]
    share = ((vertices[index] - first) * step).sum(1)
    for number in range(STEPS):
        vertices[index] = first + share[:, None] * step
        points = torch.tensor(
            (vertices[index] - (len(volume) - 1) / 2) * spacing,
            dtype=torch.float32,
            device=field.device,
        )
        value = field.sdf(points)
        found = value.abs() <= TOLERANCE * spacing
        if field.shell is not None:  # a bound may be near zero far from the surface
            found[found.clone()] = _clearance(field, points[found], value[found]) < 0
        value, going = value.cpu().numpy(), ~found.cpu().numpy()
        right = (value < 0) != (ends[0] < 0)
        for side, moves in enumerate((~right, right)):
            ends[side], bounds[side] = (
                np.where(moves, value, ends[side]),
                np.where(moves, share, bounds[side]),
            )
        ratio = 0.5 if number % 2 else ends[0] / (ends[0] - ends[1])
        share = bounds[0] + ratio * (bounds[1] - bounds[0])
        index, first, step, share = index[going], first[going], step[going], share[going]
        ends, bounds = [end[going] for end in ends], [bound[going] for bound in bounds]


def _clearance(field: Field, points: Tensor, value: Tensor) -> Tensor:
    """How far (n,) the nearest sign change is at least from points (n, 3), where the field is
    `value` (n,)."""
    if field.shell is None:
        return value.abs() / LIPSCHITZ
    return torch.maximum(-field.shell.inner_gap(points), field.shell.outer_gap(points)[0])
