"""Key spheres and shells beside the authors' files, and the certificate of every shell, mesh by
mesh.

    python scripts/compare_shells.py $DSS_DATA 53159 252119 64764 75656 76277 78671 92880 96481

Per mesh and number of spheres: whether `farthest` chose the authors' centres in their order
(`ties`: the same set, equal scores swapped), the largest difference of the radii, mean thickness of
the authors' shell, of ours by the same rule and of `cover`, triangles without an enclosing sphere,
and fresh surface samples outside (of a million).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh, surface_samples
from dss.shell.certify import build_shell, certify, solid
from dss.shell.cover import cover
from dss.shell.farthest import farthest
from dss.shell.io import read_h5


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("data", type=Path, help="the folder of data sets, see data/README.md")
    options.add_argument("meshes", nargs="+", help="ids of the meshes in thingi32/")
    args = options.parse_args()
    for name in args.meshes:
        mesh = load_mesh(args.data / "thingi32" / f"{name}.ply")
        distance = MeshDistance(mesh.vertices, mesh.faces)
        fresh = torch.from_numpy(
            surface_samples(mesh.vertices, mesh.faces, 1_000_000, 99)[0]
        ).float()
        start = time.perf_counter()
        centers, radii = farthest(distance, 512)
        seconds = time.perf_counter() - start
        for count in (128, 512):
            theirs = read_h5(
                *(
                    args.data / "shells" / f"thingi32_{kind}{count}" / f"{name}.h5"
                    for kind in ("inner", "safe")
                )
            )
            ours = build_shell(mesh.vertices, mesh.faces, centers[:count], radii[:count])
            start = time.perf_counter()
            covered = build_shell(mesh.vertices, mesh.faces, *cover(distance, count))
            cover_seconds = time.perf_counter() - start
            rows, expected = (
                np.column_stack([s.centers, s.inner_radii]).astype(np.float32)
                for s in (ours, theirs)
            )
            same = np.array_equal(rows[:, :3], expected[:, :3])
            if not same:
                rows, expected = (part[np.lexsort(part.T)] for part in (rows, expected))
            order = (
                "equal"
                if same
                else "ties"
                if np.array_equal(rows[:, :3], expected[:, :3])
                else "DIFFERENT"
            )
            shells = (theirs, ours, covered)
            leaks = [certify(mesh.vertices, mesh.faces, shell) for shell in shells]
            outside = [int((shell.outer_gap(fresh)[0] >= 0).sum()) for shell in shells]
            print(
                f"{name} {count:4d}  {order}, radii {abs(rows[:, 3] - expected[:, 3]).max():.0e}, "
                f"thickness {' '.join(f'{shell.thickness.mean():.4f}' for shell in shells)}, "
                f"uncovered {' '.join(f'{leak:.0e}' for leak in leaks)}, "
                f"outside {' '.join(map(str, outside))}, "
                f"solid {all(solid(distance, shell).all() for shell in shells[1:])}, "
                f"farthest {seconds:.0f} s, cover {cover_seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
