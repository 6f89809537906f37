"""A coarse mesh, and how far the surface lies above or below it: a field for small files
(docs/method.md, section 5)."""

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pydantic
import torch
import trimesh
from torch import Tensor, nn

from dss.config import Count, Settings
from dss.fields.base import Field, Geometry, LinearTerms, Samples

if TYPE_CHECKING:
    from dss.config import MeshConfig
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

UNIT = 0.03  # of the heights, in mean edges of the coarse mesh
MAX_FACES = 1 << 20  # of the coarse mesh
FLAT = 1e-5  # squared sine below which a triangle is taken for its edges: float32 rounds to 1e-7


class DisplacedMeshSettings(Settings):
    method: Literal["displaced_mesh"] = "displaced_mesh"
    faces: Annotated[Count, pydantic.Field(ge=4, le=MAX_FACES)] = 4000  # of the coarse mesh
    # per coordinate of its vertices
    bits: Annotated[Count, pydantic.Field(le=16)] = 8

    def least_parameters(self) -> int:
        return 4  # vertices of the smallest mesh


class DisplacedMeshField(Field):
    """f(x) = signed distance of x to a coarse mesh - displacement at the point closest to x.

    The displacement is a quadratic polynomial on every triangle, and continuous: at a corner it is
    the corner's height, and in the middle of an edge the mean of the heights of its ends and the
    middle's own height.

    The coarse mesh is kept as the bytes of a Draco file. A sample's owner is twice the triangle
    that is closest to it, plus one inside the coarse mesh.
    """

    Settings = DisplacedMeshSettings
    samplings = ("surface",)
    geometry_keys = ("mesh",)
    latent_keys = ("corner_heights", "middle_heights")

    def __init__(self, settings: DisplacedMeshSettings, geometry: Geometry):
        super().__init__()
        from dss.geometry.mesh_codecs import decode

        self.settings = settings
        self.register_buffer("mesh", geometry["mesh"])
        self.coarse = decode(geometry["mesh"].cpu().numpy().tobytes())
        if len(self.coarse.faces) > MAX_FACES:
            raise ValueError(f"a coarse mesh of more than {MAX_FACES:,} faces")
        self._distance: MeshDistance | None = None
        for name, value in _derived(self.coarse).items():
            self.register_buffer(name, value, persistent=False)
        self.corner_heights = nn.Parameter(torch.zeros(len(self.coarse.vertices)))
        self.middle_heights = nn.Parameter(torch.zeros(int(self.edges.max()) + 1))

    @classmethod
    def build_geometry(
        cls, mesh: "Mesh", distance: "MeshDistance", config: "MeshConfig"
    ) -> Geometry:
        """The coarse mesh: edges collapsed, vertices moved to fit the surface, coded by Draco."""
        from dss.geometry.mesh_codecs import TUNED_QUALITY, draco, refined
        from dss.geometry.simplify import simplify

        whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        coarse = refined(simplify(whole, config.field.faces, TUNED_QUALITY), distance)
        content = draco(coarse, config.field.bits)
        return {"mesh": torch.frombuffer(bytearray(content), dtype=torch.uint8)}

    def owned(self, samples: Samples) -> Samples:
        return Samples(samples.points, self._owner(samples.points).cpu(), samples.sdf)

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        if owner is None:
            owner = self._owner(points)
        face, outside = owner // 2, 1 - 2 * (owner % 2)
        corners = self.corners[face]
        share, flat = closest_shares(points, corners)
        closest = (share[:, :, None] * corners).sum(1)
        away = points - closest
        # the same, but with a gradient on the triangle itself, too
        above = (away * self.normals[face]).sum(1).abs()
        distance = torch.where(flat, above, away.norm(dim=1))
        return outside * distance - self._displacement(face, share)

    @torch.no_grad()
    def linear_terms(self, samples: Samples) -> LinearTerms:
        face = samples.owner // 2
        share, _ = closest_shares(samples.points, self.corners[face])
        middles = len(self.corner_heights) + self.edges[face]
        parameters = torch.cat([self.faces[face], middles], 1)
        slopes = -self.unit * torch.cat([share, _bumps(share)], 1)
        return LinearTerms(self(samples.points, samples.owner) - samples.sdf, parameters, slopes)

    def storage(self) -> dict[str, int]:
        heights = self.corner_heights.nbytes + self.middle_heights.nbytes
        return {"mesh": self.mesh.nbytes, "heights": heights}

    def resident_bytes(self) -> int:
        """The decoded coarse mesh with its tree, in place of the file of it."""
        learnt = self.storage() | {"mesh": 0}
        return sum(learnt.values()) + self._searched().resident_bytes()

    def _displacement(self, face: Tensor, share: Tensor) -> Tensor:
        """At points of triangles (n,), given by the corners' shares (n, 3) of them."""
        corners = (share * self.corner_heights[self.faces[face]]).sum(1)
        return self.unit * (
            corners + (_bumps(share) * self.middle_heights[self.edges[face]]).sum(1)
        )

    @torch.no_grad()
    def _owner(self, points: Tensor) -> Tensor:
        coarse, points = self._searched(), points.detach().to(self.device)
        return 2 * coarse.closest(points)[1] + (coarse.winding(points) > 0.5)

    def _searched(self) -> "MeshDistance":
        """The coarse mesh with its tree, on the field's device."""
        if self._distance is None or self._distance.device != self.device:
            from dss.geometry.distance import MeshDistance

            self._distance = MeshDistance(self.coarse.vertices, self.coarse.faces, self.device)
        return self._distance


def closest_shares(points: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """The points of triangles (n, 3, 3) that are closest to points (n, 3): the shares (n, 3) of the
    corners, which add up to 1, and whether the point is not on an edge (n,)."""
    edges = corners.roll(-1, 1) - corners
    away = points[:, None] - corners
    lengths = edges.square().sum(2)
    # from the edge, and along it
    along = ((away * edges).sum(2) / lengths.clamp(min=torch.finfo(points.dtype).tiny)).clamp(0, 1)
    nearest = (away - along[:, :, None] * edges).square().sum(2).argmin(1)
    number = torch.arange(len(points), device=points.device)
    along = along[number, nearest]
    start = nn.functional.one_hot(nearest, 3).to(points.dtype)
    on_edge = start * (1 - along)[:, None] + start.roll(1, 1) * along[:, None]

    first, second = edges[:, 0], -edges[:, 2]
    mixed, from_first = (first * second).sum(1), (away[:, 0] * first).sum(1)
    from_second = (away[:, 0] * second).sum(1)
    area = lengths[:, 0] * lengths[:, 2] - mixed.square()
    safe = area.clamp(min=torch.finfo(points.dtype).tiny)
    shares = [
        (lengths[:, 2] * from_first - mixed * from_second) / safe,
        (lengths[:, 0] * from_second - mixed * from_first) / safe,
    ]
    on_plane = torch.stack([1 - shares[0] - shares[1], *shares], 1)
    flat = (on_plane >= 0).all(1) & (area > FLAT * lengths[:, 0] * lengths[:, 2])
    return torch.where(flat[:, None], on_plane, on_edge), flat


def _bumps(share: Tensor) -> Tensor:
    """1 in the middle of an edge, 0 on the others (n, 3); edge k joins corners k and k + 1."""
    return 4 * share * share.roll(-1, 1)


def _derived(mesh: trimesh.Trimesh) -> dict[str, Tensor]:
    """What a reader of a file takes from the coarse mesh: faces (f, 3), the numbers of their edges
    (f, 3) in the order of their ends, corners (f, 3, 3), unit normals (f, 3), the heights' unit."""
    ends = np.sort(mesh.edges, axis=1)  # each from both of its sides
    _, number = np.unique(ends, axis=0, return_inverse=True)
    lengths = torch.from_numpy(mesh.vertices[ends[:, 0]] - mesh.vertices[ends[:, 1]]).norm(dim=1)
    corners = torch.from_numpy(mesh.triangles.copy())
    normals = nn.functional.normalize(torch.from_numpy(mesh.triangles_cross.copy()), dim=1)
    return {
        "faces": torch.from_numpy(mesh.faces.astype("int64")),
        "edges": torch.from_numpy(number.reshape(-1, 3)),
        "corners": corners.float(),
        "normals": normals.float(),
        "unit": (UNIT * lengths.mean()).float(),
    }
