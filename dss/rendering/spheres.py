"""Pictures of spheres, as a camera sees them."""

import numpy as np
import torch

from dss import ops
from dss.reconstruction.cameras import Pinhole
from dss.rendering.images import studio
from dss.shell.dual_shell import DualShell


@torch.no_grad()
def draw_spheres(shell: DualShell, camera: Pinhole, share: float = 1.0) -> np.ndarray:
    """The outer spheres of a shell, at a share of their radii, in clay: (height, width, 3) uint8."""
    radii = share * shell.outer_radii
    origins, directions = camera.rays(camera.centers().to(radii.device))
    found = ops.shell_intervals(ops.pack(shell.centers, torch.zeros_like(radii), radii), origins, directions)
    hit = found.offsets.diff() > 0
    first = found.offsets[:-1][hit]
    sphere = found.sphere[first]
    normal, view = torch.zeros_like(directions), -directions
    normal[hit] = (origins[hit] + found.start[first, None] * directions[hit] - shell.centers[sphere]) / radii[sphere, None]
    to_viewer = camera.pose[:, :3].to(directions) * torch.tensor([1.0, -1, -1], device=directions.device)  # y up, z towards us
    shape = (camera.height, camera.width)
    normal, view = ((value @ to_viewer).view(*shape, 3).cpu().numpy() for value in (normal, view))
    return studio(normal, view, hit.view(shape).cpu().numpy())
