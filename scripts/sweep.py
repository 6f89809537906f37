"""Fit and measure many meshes with one configuration: one run folder each, one table of all.

    python scripts/sweep.py --config fast --out runs/fast data/thingi10k/*.stl

Run again after an interruption, it goes on where it stopped. A mesh that cannot be fitted is named
with its reason, and the others go on; the exit code is then 2.
"""

import sys
from pathlib import Path

from dss import cli
from dss.evaluation.geometry import COLUMNS
from dss.experiments.sweep import sweep
from dss.tables import mean_of, table


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument(
        "meshes", nargs="+", type=Path, help="mesh files; a run is named after its mesh"
    )
    options.add_argument(
        "--config", default="fast", help="a YAML file, or the name of one in configs/"
    )
    options.add_argument("--out", type=Path, required=True, help="the folder of the run folders")
    args = options.parse_args()
    device, terminal, rows, refused = cli.pick_device(args.device), cli.Terminal(), {}, []
    for result in sweep(args.config, args.meshes, args.out, device, terminal):
        if result.row is None:
            refused.append(result)
            print(f"refused   {result.data}: {result.reason}")
        else:
            rows[result.data] = result.row
            print(f"measured  {result.data}")
    if rows:
        print(table(rows | {"mean": mean_of(rows.values())} if len(rows) > 1 else rows, COLUMNS))
    if refused:
        print(f"not fitted: {', '.join(result.data for result in refused)}")
        sys.exit(2)


if __name__ == "__main__":
    cli.run(main)
