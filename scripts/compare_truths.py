"""What the paper's ground truth hides: its pictures of meshes (sphere tracing, normals by
differences over 1/192 of the unit) against the true surface's (ray casting, face normals), by the
paper's own cameras.

    python scripts/compare_truths.py data/thingi32/*.ply
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from dss import cli
from dss.evaluation.images import compare_buffers, ssim_gray
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.rendering.cameras import PAPER_SIZE, PAPER_VIEWS, paper_cameras
from dss.rendering.images import normal_map
from dss.rendering.mesh_buffers import cached_render
from dss.rendering.modes import check_pictures
from dss.tables import Column, mean_of, table

COLUMNS = (
    Column("mask", "mask pixels that differ", ".4%"),
    Column("ssim", "SSIM", ".4f"),
    Column("normal_error_deg", "normals (deg)", ".2f"),
    Column("turned", "hit pixels turned > 10 deg", ".1%"),
    Column("depth_error", "depth", ".1e"),
)


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("meshes", nargs="+", type=Path)
    options.add_argument("--views", type=int, default=PAPER_VIEWS, help="of the paper's protocol")
    options.add_argument("--size", type=int, default=PAPER_SIZE, help="pixels per side")
    args = options.parse_args()
    check_pictures(args.views, args.size)
    device = cli.pick_device(args.device)
    means = {}
    for path in args.meshes:
        mesh = load_mesh(path)
        distance, rows = MeshDistance(mesh.vertices, mesh.faces, device), []
        for camera in tqdm(
            paper_cameras(args.size, args.views), desc=path.stem, unit="view", disable=None
        ):
            paper, faces = (
                cached_render(distance, camera, method) for method in ("paper", "faces")
            )
            both = paper.hit & faces.hit
            chord = np.linalg.norm(paper.normal[both] - faces.normal[both], axis=1)
            row = compare_buffers(paper, faces) | {"mask": float((paper.hit != faces.hit).mean())}
            row["ssim"] = ssim_gray(*(normal_map(seen.normal, seen.hit) for seen in (paper, faces)))
            row["turned"] = float((chord > 2 * np.sin(np.radians(5))).mean()) if both.any() else 0.0
            rows.append(row)
        means[path.stem] = mean_of(rows)
    if len(means) > 1:
        means["mean"] = mean_of(means.values())
    print(table(means, COLUMNS))


if __name__ == "__main__":
    cli.run(main)
