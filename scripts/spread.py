"""Mean and spread of finished runs: over meshes, or over the seeds of one mesh.

    python scripts/spread.py runs/fast/*
    for s in 0 1 2; do python train.py --config fast --mesh M --out runs/seeds/$s seed=$s; done
    python eval.py runs/seeds/* && python scripts/spread.py runs/seeds/*

Two configurations differ where their means do by more than a few standard deviations over seeds.
"""

from pathlib import Path

from dss import cli


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="+", type=Path, help="run folders that were measured")
    options.add_argument("--json", type=Path, help="write the numbers there, too")
    args = options.parse_args()
    with cli.importing():
        from dss.errors import InputError
        from dss.experiments.mesh_methods import COLUMNS
        from dss.experiments.spread import measured, summary
        from dss.tables import table, write_json

    if len(args.run) < 2:
        raise InputError(f"{args.run[0]}: one run has no spread; name several")
    rows = summary({str(path): measured(path) for path in args.run})
    print(table(rows, COLUMNS))
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    cli.run(main)
