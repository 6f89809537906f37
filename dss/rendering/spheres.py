"""Pictures of spheres, as a camera sees them."""

import numpy as np
import torch
from torch import Tensor

from dss import ops
from dss.rendering.buffers import Buffers
from dss.rendering.cameras import Camera
from dss.rendering.images import studio
from dss.rendering.tracing import Hits
from dss.shell.dual_shell import DualShell


@torch.no_grad()
def draw_spheres(shell: DualShell, camera: Camera, share: float = 1.0) -> np.ndarray:
    """The outer spheres of a shell, at a share of their radii, in clay: (height, width, 3)
    uint8."""
    origins, directions = camera.rays(device=shell.centers.device)
    hits = trace_spheres(
        pack_spheres(shell.centers, share * shell.outer_radii), origins, directions
    )
    seen = Buffers.of(camera, directions, hits)
    return studio(seen.in_camera(seen.normal), seen.in_camera(seen.view), seen.hit)


def pack_spheres(centers: Tensor, radii: Tensor) -> ops.Shell:
    """Solid spheres, centres (S, 3) and radii (S,), for `trace_spheres`."""
    return ops.pack(centers, torch.zeros_like(radii), radii)


def trace_spheres(spheres: ops.Shell, origins: Tensor, directions: Tensor) -> Hits:
    """First hits of rays, origins (n, 3) and unit directions (n, 3), with spheres.

    A ray that starts in a sphere hits it there.
    """
    found = ops.shell_intervals(spheres, origins, directions)
    hit = found.offsets.diff() > 0
    first = found.offsets[:-1][hit]
    center, _, radius = spheres.spheres[found.sphere[first]].split([3, 1, 1], 1)
    t, normal = torch.full_like(directions[:, 0], torch.inf), torch.zeros_like(directions)
    t[hit] = found.start[first]
    normal[hit] = (origins[hit] + t[hit, None] * directions[hit] - center) / radius
    return Hits(hit, t, normal, torch.zeros_like(hit, dtype=torch.int64))
