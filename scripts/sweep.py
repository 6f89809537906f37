"""Fit and measure many meshes with one configuration: one run folder each, one table of all.

    python scripts/sweep.py --config configs/fast.yaml --out runs/fast data/thingi10k/*.stl

Run again after an interruption, it goes on where it stopped. A mesh that cannot be fitted is named with its reason, and
the others go on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("meshes", nargs="+", type=Path, help="mesh files; a run is named after its mesh")
    options.add_argument("--config", type=Path, default=ROOT / "configs" / "fast.yaml")
    options.add_argument("--out", type=Path, required=True, help="the folder of the run folders")
    args = options.parse_args()

    fitted, refused = [], []
    for mesh in args.meshes:
        run = args.out / mesh.stem
        print(f"== {mesh.stem}", flush=True)
        fit = subprocess.run([sys.executable, ROOT / "train.py", "--config", args.config, "--mesh", mesh, "--out", run], check=False)
        (refused if fit.returncode else fitted).append(run)
    if refused:
        print(f"not fitted: {', '.join(run.name for run in refused)}")
    if fitted:
        subprocess.run([sys.executable, ROOT / "eval.py", *fitted], check=True)
    sys.exit(2 if refused else 0)


if __name__ == "__main__":
    main()
