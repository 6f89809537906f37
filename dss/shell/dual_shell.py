"""The dual spherical shell: concentric inner and outer spheres, with the surface between them."""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from dss import ops

PAIRS = 1 << 20  # point-sphere pairs held at once: bounds memory, and keeps them in the cache
COMPONENT_GRID = 128  # nodes per axis of the grid that finds the unbounded part of the complement


class DualShell(nn.Module):
    """S concentric sphere pairs in the normalised frame; the buffers follow `.to(device)` and the
    state dict.

    centers (S, 3), inner_radii (S,), outer_radii (S,), all float32. Raises ValueError on other
    shapes, which the operators would read beyond their ends.
    """

    def __init__(self, centers: Tensor, inner_radii: Tensor, outer_radii: Tensor):
        super().__init__()
        for name, value in (
            ("centers", centers),
            ("inner_radii", inner_radii),
            ("outer_radii", outer_radii),
        ):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).contiguous())
        count = len(self.centers)
        if [tuple(value.shape) for value in self.buffers()] != [(count, 3), (count,), (count,)]:
            raise ValueError("the shell's centres and radii are not S rows of 3 and of 1")
        self._packed: tuple[list[Tensor], list[int], ops.Shell] | None = None

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def packed(self) -> ops.Shell:
        """The shell as the operators take it; packed again after any change of the buffers."""
        buffers = list(self.buffers())
        versions = [buffer._version for buffer in buffers]
        if (
            self._packed is None
            or self._packed[1] != versions
            or any(a is not b for a, b in zip(buffers, self._packed[0], strict=True))
        ):
            self._packed = buffers, versions, ops.pack(*buffers)
        return self._packed[2]

    @property
    def geometry(self) -> dict[str, Tensor]:
        """The shell as a field's geometry: its buffers under the names that they have in the
        field's state dict."""
        return {f"shell.{name}": value for name, value in self.state_dict().items()}

    @property
    def thickness(self) -> Tensor:
        """(S,) outer minus inner radius."""
        return self.outer_radii - self.inner_radii

    def statistics(self, count: int = 1 << 18, seed: int = 0) -> dict[str, float]:
        """Mean and largest thickness, and the volume of the interlayer, which is what a field has
        to learn; the volume by `count` random points."""
        low = (self.centers - self.outer_radii[:, None]).amin(0)
        size = (self.centers + self.outer_radii[:, None]).amax(0) - low
        generator = torch.Generator().manual_seed(seed)
        points = low + size * torch.rand(count, 3, generator=generator).to(low.device)
        points = points[self.outer_gap(points)[0] < 0]
        share = int((self.inner_gap(points) > 0).sum()) / count
        return {
            "mean": self.thickness.mean().item(),
            "max": self.thickness.max().item(),
            "volume": share * size.prod().item(),
        }

    def owner(self, points: Tensor, rule: str) -> Tensor:
        """The one sphere (n,) int64 that answers for each point (n, 3); -1 outside all outer
        spheres.

        `smallest`: the smallest outer sphere that contains the point (the paper's query rule).
        `relative`: the sphere with the least |x - c| / r_out, a partition without jumps in depth.
        """
        return ops.shell_owner(self.packed, points, rule)

    def containing(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Every (point, sphere) pair with the point (n, 3) inside the outer sphere: two (pairs,)
        int64, sorted by point."""
        pairs, start = [], 0
        for distance in self._distances(points):
            pairs.append(
                (distance < self.outer_radii).nonzero()
                + torch.tensor([start, 0], device=points.device)
            )
            start += len(distance)
        return torch.cat(pairs).unbind(1)

    def inner_gap(self, points: Tensor) -> Tensor:
        """min over spheres of |x - c| - r_in, (n,): an upper bound of the signed distance, negative
        in inner spheres."""
        return ops.shell_union_sdf(self.packed, points, inner=True)[0]

    def outer_gap(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """min over spheres of |x - c| - r_out, (n,), and that sphere (n,); positive outside all
        outer spheres, where it is the distance to their union."""
        return ops.shell_union_sdf(self.packed, points, inner=False)

    def exterior(self, points: Tensor) -> Tensor:
        """(n,) bool: the point certainly lies in the unbounded part of the outer union's
        complement.

        Two points whose free balls overlap are connected. The certificate is a chain of such balls
        along the nodes of a grid; a narrow crevice can lack one, so False means "not shown", not
        "inside".
        """
        nodes, free, outside = self._components
        gap, _ = self.outer_gap(points)
        cell = (
            ((points.clamp(-1, 1) + 1) * (0.5 * (COMPONENT_GRID - 1)))
            .floor()
            .long()
            .clamp(max=COMPONENT_GRID - 2)
        )
        certain = (points.abs() > 1).any(1)
        for corner in range(8):
            offset = torch.tensor([corner >> 2, corner >> 1 & 1, corner & 1], device=points.device)
            index = (
                (cell + offset)
                * torch.tensor([COMPONENT_GRID**2, COMPONENT_GRID, 1], device=points.device)
            ).sum(1)
            certain |= outside[index] & ((points - nodes[index]).norm(dim=1) < gap + free[index])
        return certain & (gap > 0)

    @cached_property
    def _components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Grid nodes (G^3, 3), the radius of each one's free ball, and whether it is connected to
        the outside."""
        axis = torch.linspace(-1, 1, COMPONENT_GRID, device=self.centers.device)
        nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        free = self.outer_gap(nodes)[0]
        grid = free.view((COMPONENT_GRID,) * 3)
        outside = torch.zeros_like(grid, dtype=torch.bool)
        for dim in range(3):  # whatever touches the cube's faces is connected to the outside
            outside.select(dim, 0).fill_(True)
            outside.select(dim, -1).fill_(True)
        outside &= grid > 0
        reached = 0
        # sweep along the axes, forth and back, until nothing is new
        while reached != (reached := int(outside.sum())):
            for dim in range(3):
                gaps, marks = grid.unbind(dim), outside.unbind(dim)
                linked = [
                    (a > 0) & (b > 0) & (a + b > 2 / (COMPONENT_GRID - 1))
                    for a, b in pairwise(gaps)
                ]
                for i, link in enumerate(linked):
                    marks[i + 1].logical_or_(marks[i] & link)
                for i, link in reversed(list(enumerate(linked))):
                    marks[i].logical_or_(marks[i + 1] & link)
        return nodes, free, outside.view(-1)

    def _distances(self, points: Tensor) -> Iterator[Tensor]:
        for chunk in points.split(max(1, PAIRS // len(self))):
            yield torch.cdist(chunk, self.centers, compute_mode="donot_use_mm_for_euclid_dist")
