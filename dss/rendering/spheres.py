"""Pictures of spheres, as a camera sees them."""

import numpy as np
import torch

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
    radii = share * shell.outer_radii
    origins, directions = camera.rays(device=radii.device)
    found = ops.shell_intervals(
        ops.pack(shell.centers, torch.zeros_like(radii), radii), origins, directions
    )
    hit = found.offsets.diff() > 0
    first = found.offsets[:-1][hit]
    sphere = found.sphere[first]
    t, normal = torch.full_like(directions[:, 0], torch.inf), torch.zeros_like(directions)
    t[hit] = found.start[first]
    points = origins[hit] + t[hit, None] * directions[hit]
    normal[hit] = (points - shell.centers[sphere]) / radii[sphere, None]
    seen = Buffers.of(
        camera, directions, Hits(hit, t, normal, torch.zeros_like(hit, dtype=torch.int64))
    )
    return studio(seen.in_camera(seen.normal), seen.in_camera(seen.view), seen.hit)
