"""Points of a surface as the DSS paper takes them: where random rays first meet it."""

import numpy as np
import torch

from dss.geometry.distance import MeshDistance
from dss.shell.dual_shell import DualShell

MIN_DISTANCE = 1e-3  # of an origin from the true solid, as in the paper's code
MAX_ROUNDS = 200  # of rays, until enough have hit


def ray_samples(
    surface: MeshDistance,
    truth: MeshDistance,
    count: int,
    seed: int = 0,
    shell: DualShell | None = None,
) -> np.ndarray:
    """The first hits (n, 3) of random rays on a surface, `count` of them; fewer where it is hardly
    ever hit (docs/method.md, section 9).

    Origins are uniform in the part of [-1, 1]^3 that is outside the true solid, and outside all
    outer spheres where there is a shell; directions are uniform. So concave parts get fewer points
    per area than others, and what no ray from outside sees gets none.
    """
    generator, found = np.random.default_rng(seed), [np.empty((0, 3))]
    for _ in range(MAX_ROUNDS):
        origins = generator.uniform(-1, 1, (count, 3))
        directions = generator.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        t, face = surface.raycast(origins, directions)
        hit = face >= 0
        t, origins, directions = t[hit], origins[hit], directions[hit]
        free = truth.sdf(origins) > MIN_DISTANCE
        if shell is not None:
            points = torch.as_tensor(origins, dtype=torch.float32, device=shell.centers.device)
            free &= (shell.outer_gap(points)[0] > 0).cpu().numpy()
        found.append((origins + t[:, None] * directions)[free])
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]
