"""NGLOD: features at the corners of a sparse octree, with a small decoder per level of detail
(Takikawa et al. 2021, arXiv 2101.10994)."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dss import ops
from dss.config import Count, CountOrZero, Settings
from dss.errors import InputError
from dss.fields.base import Field, Geometry, Samples
from dss.geometry import octree

if TYPE_CHECKING:
    from dss.config import MeshConfig
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

CORNERS = torch.from_numpy(octree.CHILDREN)  # of a cell, (8, 3)
AROUND = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)  # a cell and its neighbours, (27, 3)
DEVIATION = 0.01  # of the initial features
PUBLISHED_DECODERS = 5  # that the paper's accounting adds, whichever level of detail it is of
MAX_DEPTH = 8  # level of the octree: the tables that find a voxel's corners are dense
PROBE = 1 / 192  # of the central differences that make the normals, as published
MIN_MAGNITUDE = 1e-6  # magnitude outside the finest voxels, so that there is a sign


class NglodSettings(Settings):
    method: Literal["nglod"] = "nglod"
    lods: Count = (
        5  # levels of detail L, all of them learnt; the finest that has a voxel at a point answers
    )
    base_level: Count = 2  # octree level of the first: 2**base voxels per axis
    features: Count = 32  # floats per corner
    width: Count = 128  # of the decoders' hidden layer
    # steps between the levels that join, coarse to fine; 0: all learn from the start, as published
    grow_every: CountOrZero = 0

    def least_parameters(self) -> int:
        return self.lods * (8 * self.features + self.width * self.features)


class NglodField(Field):
    """z_l(x) = sum of the features of levels 1 to l, each interpolated in the voxel at x; f(x) =
    decoder_l([x, z_l(x)]).

    Only voxels that the surface touches have features. In them the finest decoder answers. Anywhere
    else no surface is near: the sign is that of the region of free cells, stored with the octree,
    and the magnitude that of the finest decoder with a voxel at x, but at least the distance to the
    finest voxels. The octree's cube has half the edge `extent`, the mesh's radius, so that the mesh
    fills it as in the published code.
    """

    Settings = NglodSettings
    samplings = ("importance", "near")
    geometry_keys = ("octree", "solid", "extent")
    hit_rule = "octree"
    latent_keys = ("features",)

    def __init__(self, settings: NglodSettings, geometry: Geometry):
        super().__init__()
        self.settings = settings
        for name in self.geometry_keys:
            self.register_buffer(name, geometry[name])
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # of the fit so far
        depth = settings.base_level + settings.lods - 1
        masks = self.octree.cpu().numpy()
        levels = octree.unpack(masks, depth)[settings.base_level :]
        self.voxels = [len(cells) for cells in levels]
        self.features, self.decoders = nn.ParameterList(), nn.ModuleList()
        for lod, cells in enumerate(levels):
            size = 1 << (settings.base_level + lod)
            rows, count = octree.corner_rows(cells, size)
            self.register_buffer(f"rows_{lod}", torch.from_numpy(rows), persistent=False)
            self.register_buffer(
                f"occupied_{lod}", torch.from_numpy(octree.occupancy(cells, size)), persistent=False
            )
            self.features.append(nn.Parameter(DEVIATION * torch.randn(count, settings.features)))
            self.decoders.append(
                nn.Sequential(
                    nn.Linear(3 + settings.features, settings.width),
                    nn.ReLU(),
                    nn.Linear(settings.width, 1),
                )
            )
        self.register_buffer(
            "clearance",
            torch.from_numpy(octree.clearance(levels[-1], size)).float(),
            persistent=False,
        )
        occupied = octree.occupancy(levels[-1], size)
        self.register_buffer("halo", torch.from_numpy(np.pad(occupied, 1)), persistent=False)
        region, count = octree.regions(occupied)
        solid = np.unpackbits(self.solid.cpu().numpy(), count=count).astype(bool)
        side = np.where(np.append(False, solid)[region], -1.0, 1.0)
        self.register_buffer("side", torch.from_numpy(side).float(), persistent=False)
        corners = rows[tuple((levels[-1][:, None] + octree.CHILDREN).T)].T
        traced = ops.pack_octree(masks, corners, depth, self.extent.item())
        self.register_buffer("nodes", traced.nodes, persistent=False)
        self.register_buffer("corners", traced.corners, persistent=False)
        self.register_buffer("cells", torch.from_numpy(levels[-1]), persistent=False)

    @classmethod
    def build_geometry(
        cls, mesh: "Mesh", distance: "MeshDistance", config: "MeshConfig"
    ) -> Geometry:
        """The octree of the voxels that the surface touches, and one bit for each region of free
        cells: whether it is solid."""
        settings, extent = config.field, config.mesh.radius
        depth = settings.base_level + settings.lods - 1
        if depth > MAX_DEPTH:
            levels = f"field.lods={settings.lods}, field.base_level={settings.base_level}"
            raise InputError(
                f"{levels}: 2**{depth} voxels per axis are too many; choose fewer lods, for at "
                f"most 2**{MAX_DEPTH}"
            )
        masks = octree.build(mesh.vertices / extent, mesh.faces, depth)
        region, count = octree.regions(
            octree.occupancy(octree.unpack(masks, depth)[-1], 1 << depth)
        )
        free = region.nonzero()
        winding = distance.winding(((np.stack(free, 1) + 0.5) * 2 / (1 << depth) - 1) * extent)
        share = (
            np.bincount(region[free], winding > 0.5, count + 1)[1:]
            / np.bincount(region[free], minlength=count + 1)[1:]
        )
        return {
            "octree": torch.from_numpy(masks),
            "solid": torch.from_numpy(np.packbits(share > 0.5)),
            "extent": torch.tensor(extent, dtype=torch.float32),
        }

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        scaled = points / self.extent
        inside = scaled.clamp(-1, 1)
        depth = self._depth(inside)
        beyond = (depth < self.settings.lods).nonzero()[:, 0]
        side, bound = self._free(scaled[beyond], inside[beyond])
        result = points.new_zeros(len(points)).index_copy(0, beyond, side * bound)
        depth = depth.clamp(max=self._joined())
        for lod, index, features in self._interpolated(inside, depth):
            last = depth[index] == lod + 1
            result = result.index_copy(
                0,
                index[last],
                self._decode(lod, points[index[last]], features[last]).to(result.dtype),
            )
        return result.index_copy(0, beyond, side * torch.maximum(side * result[beyond], bound))

    def loss(self, samples: Samples, error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The sum over the levels of detail; each learns from the samples in its own voxels."""
        inside = (samples.points / self.extent).clamp(-1, 1)
        depth = self._depth(inside).clamp(max=self._joined())
        self.steps += 1
        parts = [
            error(self._decode(lod, samples.points[index], features), samples.sdf[index])
            * (len(index) / len(samples))
            for lod, index, features in self._interpolated(inside, depth)
        ]
        return torch.stack(parts).sum()

    def trace(self, origins: Tensor, directions: Tensor) -> ops.VoxelHits:
        """By the published rule, in the finest voxels only (docs/method.md, section 10)."""
        return ops.octree_trace(self.packed, self.decoder(), origins, directions, PROBE)

    @property
    def packed(self) -> ops.Octree:
        """The octree as the operators take it."""
        depth = self.settings.base_level + self.settings.lods - 1
        return ops.Octree(self.nodes, self.corners, depth, self.extent.item())

    @torch.no_grad()
    def decoder(self) -> ops.Decoder:
        """What answers in the finest voxels, as the operators take it: point and features are
        trilinear there, and so is the first layer before its activation, which the values at the
        corners determine."""
        joined, levels = self._joined(), self.settings.lods
        children = CORNERS.to(self.cells.device)
        corners = (self.cells[:, None] + children).flatten(0, 1)
        rows, table = self.corners.flatten().long(), self.features[-1]
        # a corner is in several voxels, which all interpolate the same there
        voxel = rows.new_empty(len(table)).index_copy(0, rows, torch.arange(len(rows)).to(rows))
        place, cell = corners[voxel], self.cells[voxel // 8]
        features = torch.zeros_like(table)
        for lod in range(joined):
            size = 1 << (levels - 1 - lod)  # finest voxels per voxel of this level, along an axis
            inside = (place / size - cell // size)[:, None]
            weights = torch.where(children > 0, inside, 1 - inside).prod(-1)
            own = self.get_buffer(f"rows_{lod}")[(cell[:, None] // size + children).unbind(-1)]
            features += nn.functional.embedding_bag(
                own, self.features[lod], per_sample_weights=weights, mode="sum"
            )
        half = 1 << (self.settings.base_level + levels - 2)  # of the finest voxels along an axis
        first, _, output = self.decoders[joined - 1]
        hidden = first(torch.cat([(place / half - 1) * self.extent, features], 1))
        return ops.Decoder(hidden, torch.cat([output.weight[0], output.bias]))

    def _joined(self) -> int:
        """How many levels of detail have joined the fit."""
        lods, grow = self.settings.lods, self.settings.grow_every
        return min(lods, 1 + int(self.steps) // grow) if grow else lods

    def _interpolated(self, inside: Tensor, depth: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Level by level, which of the points (n, 3) of the octree's cube have a voxel there (k,),
        and their z (k, features)."""
        index, features = (
            torch.arange(len(inside), device=inside.device),
            inside.new_zeros(len(inside), self.settings.features),
        )
        for lod, table in enumerate(self.features):
            kept = depth[index] > lod
            index, features = index[kept], features[kept]
            if not len(index):
                return
            cell, share = self._cell(lod, inside[index])
            corners = cell[:, None] + CORNERS.to(cell.device)
            weights = torch.where(
                CORNERS.to(cell.device) > 0, share[:, None], 1 - share[:, None]
            ).prod(-1)
            rows = self.get_buffer(f"rows_{lod}")[corners.unbind(-1)]
            features = features + nn.functional.embedding_bag(
                rows, table, per_sample_weights=weights, mode="sum"
            )
            yield lod, index, features

    def _decode(self, lod: int, points: Tensor, features: Tensor) -> Tensor:
        return self.decoders[lod](torch.cat([points, features], 1))[:, 0]

    @torch.no_grad()
    def _depth(self, inside: Tensor) -> Tensor:
        """How many of the levels of detail (n,) have a voxel at points (n, 3) of the octree's
        cube."""
        occupied = [
            self.get_buffer(f"occupied_{lod}")[self._cell(lod, inside)[0].unbind(1)]
            for lod in range(self.settings.lods)
        ]
        return torch.stack(occupied).sum(0)

    def _cell(self, lod: int, inside: Tensor) -> tuple[Tensor, Tensor]:
        """The cell (n, 3) int64 of a level at points (n, 3) of the octree's cube, and the place in
        it, from 0 to 1."""
        size = 1 << (self.settings.base_level + lod)
        place = (inside + 1) * (size / 2)
        cell = place.detach().floor().long().clamp(0, size - 1)
        return cell, place - cell

    @torch.no_grad()
    def _free(self, scaled: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """The sign (n,) outside the finest voxels, and a bound of the distance to them, in
        normalised units. Exact beside them; farther off, the distance of a corner of the cell, less
        that to the corner."""
        cell, share = self._cell(self.settings.lods - 1, inside)
        corners = CORNERS.to(cell.device)
        far = (
            self.clearance[(cell[:, None] + corners).unbind(-1)]
            - (share[:, None] - corners).norm(dim=-1)
        ).amax(1)
        around = AROUND.to(cell.device)
        # distance of the neighbours to the left, here, to the right
        aside = torch.stack([share, torch.zeros_like(share), 1 - share], 2)
        gaps = torch.stack([aside[:, axis, around[:, axis] + 1] for axis in range(3)]).norm(dim=0)
        occupied = self.halo[(cell[:, None] + around + 1).unbind(-1)]
        near = gaps.where(occupied, 1 + share.minimum(1 - share).amin(1, keepdim=True)).amin(1)
        bound = torch.maximum(far, near) * 2 / self.side.shape[0]
        side = torch.where((scaled == inside).all(1), self.side[cell.unbind(1)], 1.0)
        return side, (torch.hypot(bound, (scaled - inside).norm(dim=1)) * self.extent).clamp(
            min=MIN_MAGNITUDE
        )

    def storage(self) -> dict[str, int]:
        return {
            "features": sum(table.nbytes for table in self.features),
            "decoders": sum(parameter.nbytes for parameter in self.decoders.parameters()),
            "octree": sum(self.get_buffer(name).nbytes for name in self.geometry_keys),
        }

    def published_storage(self) -> dict[str, int]:
        """Bytes as two papers count them, both without the octree: NGLOD's tables (a feature vector
        per voxel, and five decoders), and those of Dual-Spherical-Shell (one per corner, and the
        decoders of the levels up to this one)."""
        decoder = sum(parameter.nbytes for parameter in self.decoders[0].parameters())
        vector = 4 * self.settings.features
        return {
            "voxels": sum(self.voxels) * vector + PUBLISHED_DECODERS * decoder,
            "corners": sum(map(len, self.features)) * vector + self.settings.lods * decoder,
        }
