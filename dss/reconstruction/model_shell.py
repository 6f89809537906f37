"""The dual shell of a model that photos taught: of its zero set, with room for the band in which it
is neither clear nor opaque.

Beyond the band |f| <= m with m = ln(1/eps) / s, all but eps of the opacity is gone (docs/method.md,
section 11). The outer spheres must hold the band, the inner ones lie behind it, f < -m. Both are
checked by dense sampling of f, and mended until fresh samples find next to nothing: at most
MAX_LEAKS, which are mended, too. Parts too thin for an inner sphere have none.
"""

import numpy as np
import torch
from torch import Tensor

from dss.errors import InputError
from dss.fields.base import Field
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import surface_samples
from dss.reconstruction.models.base import Model
from dss.rendering.isosurface import extract
from dss.shell.certify import build_shell
from dss.shell.cover import cover
from dss.shell.dual_shell import DualShell

SAMPLES = 1 << 18  # points of each kind per check
CHECKS = 12  # rounds of check and repair
MAX_LEAKS = 5  # samples of a last check that may be wrong, of 3 SAMPLES: fewer than one in 100,000
SPARE = 2e-3  # by which a repair exceeds what the sample that called for it needs, unit coordinates
MIN_SPHERES = 8  # below which a cover that does not fit is not tried with fewer spheres


class ModelField(Field):
    """A model's signed distance, cut off at the unit ball, as the mesher takes it.

    With a shell, the model is trusted in its interlayer only.
    """

    def __init__(self, model: Model, shell: DualShell | None = None):
        super().__init__(shell)
        self.model = model

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        return torch.maximum(self.model.raw_sdf(points), points.norm(dim=1) - 1)


def shell_of_model(
    model: Model, count: int, resolution: int, eps: float, seed: int = 0
) -> DualShell:
    """The checked shell of a model's zero set, on the model's device.

    `count` spheres before repairs, `resolution` marching-cubes cells per axis, and the opacity
    `eps` that may be lost outside the shell. Raises InputError where the model has no surface, or
    the checks do not settle.
    """
    mesh = extract(ModelField(model), resolution, "the model")
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    spheres = _cover(MeshDistance(vertices, faces), count, seed)
    shell = build_shell(vertices, faces, *spheres, seed)
    margin = model.band(eps)
    shell.outer_radii += margin
    shell.inner_radii.copy_((shell.inner_radii - margin).clamp(min=0))
    shell = shell.to(model.device)
    for number in range(CHECKS):
        generator = torch.Generator().manual_seed(seed + number)
        surface = torch.from_numpy(surface_samples(vertices, faces, SAMPLES, seed + number)[0])
        shell, leaks = mend(model, shell, margin, surface, generator)
        if leaks <= MAX_LEAKS:
            return shell
    raise InputError(
        f"the shell of the model still leaks after {CHECKS} repairs ({leaks} samples); "
        "train longer before sampler.start_step"
    )


def _cover(
    distance: MeshDistance, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`cover`, with fewer spheres where not so many fit."""
    while True:
        try:
            return cover(distance, count, seed)
        except InputError:
            if count < MIN_SPHERES:
                raise
            count //= 2


@torch.no_grad()
def mend(
    model: Model, shell: DualShell, margin: float, surface: Tensor, generator: torch.Generator
) -> tuple[DualShell, int]:
    """One check of the shell with random points in the unit ball and near `surface` (k, 3), and the
    repair of what it found.

    Returns the shell and the number of samples that it was wrong about. A point of the band outside
    all outer spheres enlarges the nearest one if it is near, else gets a sphere of its own; one at
    f >= -margin shrinks the inner spheres that it is in.
    """
    device = model.device
    ball = _directions(generator) * torch.rand(SAMPLES, 1, generator=generator) ** (1 / 3)
    offset = 2 * margin * (2 * torch.rand(surface.shape, generator=generator) - 1)
    near = surface.float() + offset
    rim = _directions(generator).to(device)
    chances = shell.inner_radii.cpu() + 1e-9
    sphere = torch.multinomial(chances, SAMPLES, replacement=True, generator=generator).to(device)
    # The sixth root puts most of them near the rim.
    depth = torch.rand(SAMPLES, 1, generator=generator).to(device) ** (1 / 6)
    inner = shell.centers[sphere] + rim * depth * shell.inner_radii[sphere, None]

    points = torch.cat([ball, near[near.norm(dim=1) < 1]]).to(device)
    points = points[model.sdf(points).abs() <= margin]
    gap, nearest = shell.outer_gap(points)
    points, gap, nearest = (value[gap > 0] for value in (points, gap, nearest))
    wrong = (model.sdf(inner) >= -margin) & (shell.inner_radii[sphere] > 0)
    leaks = len(points) + int(wrong.sum())

    close = gap <= margin
    larger = (shell.outer_radii[nearest] + gap + SPARE)[close]
    shell.outer_radii.scatter_reduce_(0, nearest[close], larger, "amax")
    smaller = ((inner - shell.centers[sphere]).norm(dim=1) - SPARE)[wrong].clamp(min=0)
    shell.inner_radii.scatter_reduce_(0, sphere[wrong], smaller, "amin")
    return _with_spheres(shell, points[~close], 2 * margin + SPARE), leaks


def _directions(generator: torch.Generator) -> Tensor:
    """Random unit vectors (SAMPLES, 3)."""
    return torch.nn.functional.normalize(torch.randn(SAMPLES, 3, generator=generator), dim=1)


def _with_spheres(shell: DualShell, points: Tensor, radius: float) -> DualShell:
    """The shell with more outer spheres of `radius`, without inner ones, that hold the points
    (n, 3)."""
    added = []
    while len(points):
        added.append(points[0])
        points = points[(points - points[0]).norm(dim=1) > radius]
    if not added:
        return shell
    sizes = torch.full((len(added),), radius, device=shell.centers.device)
    return DualShell(
        torch.cat([shell.centers, torch.stack(added)]),
        torch.cat([shell.inner_radii, torch.zeros_like(sizes)]),
        torch.cat([shell.outer_radii, sizes]),
    )
