"""Fit and measure many meshes with one configuration: a run folder and a status for each.

    python scripts/sweep.py --config fast --out runs/fast data/thingi10k/*.ply
    python scripts/sweep.py --config fast --out runs/fast --list meshes.txt --time-limit 1800
      --memory-limit 8
    python scripts/sweep.py --config fast --out runs/fast --list meshes.txt --address auto

The same command goes on where it stopped, however it stopped, and does nothing twice. How each mesh
ended is in OUT/status.csv, see docs/sweep.md; the exit code is 2 where one has no field.
"""

import sys
from pathlib import Path

from dss import cli
from dss.experiments.status import FITTED, STATUSES, count


def main() -> None:
    options = cli.parser(__doc__)
    add = options.add_argument
    add("meshes", nargs="*", type=Path, help="mesh files; a run is named after its mesh")
    add("--list", type=Path, help="a text file that names meshes, one on each line")
    add("--config", default="fast", help="a YAML file, or the name of one in configs/")
    add("--set", action="append", default=[], metavar="key.sub=value", help="change one value")
    add("--out", type=Path, required=True, help="the folder of the run folders")
    add("--address", help="a cluster of Ray: auto, HOST:PORT, or local (default: processes)")
    add("--cpus-per-task", type=cli.positive(int), default=1, help="cores of a mesh (default: 1)")
    add("--gpus-per-task", type=cli.positive(float), help="GPUs, or a share of one (with a GPU: 1)")
    add("--time-limit", type=cli.positive(float), help="seconds after which a mesh is given up")
    add("--memory-limit", type=cli.positive(float), help="GB above which a mesh is given up")
    add("--resolution", type=cli.positive(int), default=256, help="cells of meshes (default: 256)")
    add("--retry", nargs="+", default=[], choices=STATUSES, help="do these meshes again")
    args = options.parse_intermixed_args()
    with cli.importing():
        from dss.evaluation.geometry import COLUMNS
        from dss.experiments.executors import open_executor
        from dss.experiments.sweep import read_list, sweep
        from dss.registry import load_config
        from dss.tables import mean_of, table

    meshes = args.meshes + (read_list(args.list) if args.list else [])
    config = load_config(args.config, args.set)
    memory = args.memory_limit and 1e9 * args.memory_limit
    resources = (args.cpus_per_task, args.gpus_per_task, memory, args.device)
    executor, terminal, outcomes = open_executor(args.address, *resources), cli.Terminal(), []
    how = {
        "device": args.device,
        "resolution": args.resolution,
        "threads": args.cpus_per_task,
        "time_limit": args.time_limit,
        "memory_limit": memory,
    }
    for outcome in sweep(config, meshes, args.out, executor, args.retry, terminal, **how):
        outcomes.append(outcome)
    terminal.close()
    fitted = [outcome for outcome in outcomes if outcome.status in FITTED]
    rows = {each.mesh: each.numbers for each in fitted}
    if rows:
        print(table(rows | {"mean": mean_of(rows.values())} if len(rows) > 1 else rows, COLUMNS))
    statuses = count(outcomes)
    print(", ".join(f"{name} {number}" for name, number in statuses.items() if number))
    print(f"next: look at {args.out / 'status.csv'}")
    if len(fitted) < len(outcomes):
        sys.exit(2)


if __name__ == "__main__":
    cli.run(main)
