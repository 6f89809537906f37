"""Does a run's shell hide anything? The exact distance to its mesh, traced through the shell and
traced without it.

    python scripts/check_tracing.py runs/fast/53159 runs/fast/75656 --views 30 --size 64

Hits and depths must be the same. Marching steps over solids thinner along the ray than
dss.rendering.tracing.MIN_STEP, with the shell and without, but not over the same ones: a ray is
`grazing` if the difference lies at such a place, else `wrong`.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from dss import cli
from dss.fields.base import Field
from dss.fields.mesh import MeshField
from dss.geometry.distance import MeshDistance
from dss.rendering.cameras import Camera, fibonacci
from dss.rendering.tracing import MAX_BRACKET, MIN_STEP, trace
from dss.run import open_run
from dss.shell.dual_shell import DualShell

SAME = 1e-5  # depths that differ by no more are the same


def compare(
    distance: MeshDistance, shell: DualShell, cameras: Iterable[Camera]
) -> dict[str, float]:
    """Numbers of rays, of hits without the shell, and of rays that differ, by kind; and the largest
    difference in depth among the rest."""
    plain, bounded = MeshField(distance), MeshField(distance, shell)
    row = {"rays": 0, "hits": 0, "grazing": 0, "wrong": 0, "depth": 0.0}
    for camera in cameras:
        rays = camera.rays(device=distance.device)
        truth, got = trace(plain, *rays).t, trace(bounded, *rays).t
        gap = torch.where(truth.isinf() & got.isinf(), 0, (truth - got).abs())
        differs = gap > SAME
        grazing = _thin(plain, *(tensor[differs] for tensor in rays), truth.minimum(got)[differs])
        row["rays"] += len(gap)
        row["hits"] += int(truth.isfinite().sum())
        row["grazing"] += int(grazing.sum())
        row["wrong"] += int((~grazing).sum())
        row["depth"] = max(row["depth"], float(gap[~differs].max()))
    return row


def _thin(field: Field, origins: Tensor, directions: Tensor, t: Tensor) -> Tensor:
    """Whether rays leave the solid again within MIN_STEP of the entry at t (k,)."""
    t = t[:, None] + torch.linspace(0, MIN_STEP + 4 * MAX_BRACKET, 65, device=t.device)
    points = origins[:, None] + t[..., None] * directions[:, None]
    return (field.sdf(points.reshape(-1, 3)).view(t.shape)[:, 1:] > 0).any(1)


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders whose meshes are at hand"
    )
    options.add_argument("--views", type=int, default=30, help="cameras all around")
    options.add_argument("--size", type=int, default=64, help="pixels per side")
    args = options.parse_args()
    device = cli.pick_device(args.device)
    print(f"{'run':24} {'rays':>9} {'hits':>9} {'grazing':>8} {'wrong':>6}  depth, at most")
    wrong = 0
    for folder in args.runs:
        run = open_run(folder, device)
        mesh = run.load_mesh()
        row = compare(
            MeshDistance(mesh.vertices, mesh.faces, device),
            run.field.shell,
            fibonacci(args.views, args.size),
        )
        print(
            f"{folder.name:24} {row['rays']:9,} {row['hits']:9,} {row['grazing']:8} "
            f"{row['wrong']:6}  {row['depth']:.1e}",
            flush=True,
        )
        wrong += row["wrong"]
    print("no pinholes" if wrong == 0 else f"{wrong} rays are wrong")


if __name__ == "__main__":
    cli.run(main)
