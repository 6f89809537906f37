"""Write a synthetic collection of meshes to try a sweep on: no downloads, the same at every call.

    python scripts/make_collection.py --count 200 --seed 0 --defects --out data/collection

With --defects, one mesh in thirteen is sound, and as many have each of twelve defects. The files
are OUT/NAME.ply and so on; OUT/collection.csv says what each is, and OUT/meshes.txt lists them for
scripts/sweep.py --list.
"""

import argparse
from pathlib import Path

from dss import cli
from dss.errors import InputError


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=cli.positive(int), default=200, help="(default: 200)")
    options.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    options.add_argument("--defects", action="store_true", help="damage twelve in thirteen")
    options.add_argument("--out", type=Path, default=Path("data/collection"), help="the folder")
    args = options.parse_args()
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: must be at least 0")
    with cli.importing():
        from dss.experiments.collection import make_collection
        from dss.files import replacing

    terminal = cli.Terminal()
    paths = make_collection(args.out, args.count, args.seed, args.defects, terminal)
    terminal.close()
    names = args.out / "meshes.txt"
    with replacing(names) as temporary:
        temporary.write_text("".join(f"{path}\n" for path in paths))
    print(f"next: python scripts/sweep.py --config tiny --out runs/collection --list {names}")


if __name__ == "__main__":
    cli.run(main)
