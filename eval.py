"""Measure fitted fields against their meshes: a table here, and eval.json in each run folder.

    python eval.py runs/quickstart --export quickstart.ply
    python eval.py runs/* --json all.json
    python eval.py decoded.ply --mesh original.ply
"""

import json
from pathlib import Path

from dss import cli
from dss.errors import InputError
from dss.files import replacing
from dss.mesh import load_mesh
from dss.mesher import check_suffix, export, extract
from dss.metrics import average, evaluate, load_prediction, table
from dss.run import load_run


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="+", type=Path, help="run folders that train.py made, or mesh files to compare with --mesh")
    options.add_argument("--mesh", help="the true mesh, where it has moved since the fit")
    options.add_argument("--json", type=Path, help="also write the means over all runs, and each run's metrics, to this file")
    options.add_argument("--resolution", type=int, default=256, help="marching-cubes cells per edge of [-1, 1]^3")
    options.add_argument("--export", type=Path, help="write the field's mesh, in the input's units: .ply, .obj or .stl")
    args = options.parse_args()
    if args.export:
        check_suffix(args.export)
        if len(args.run) > 1:
            raise InputError(f"--export {args.export}: takes one run, got {len(args.run)}")
    device = cli.pick_device(args.device)

    rows = {}
    for path in args.run:
        if path.is_file():
            if not args.mesh:
                raise InputError(f"{path}: a file, not a run folder; to compare meshes, name the true one with --mesh")
            truth = load_mesh(args.mesh)
            mesh, field, stored = load_prediction(path, truth), None, path
        else:
            run = load_run(path, device)
            truth = run.load_mesh(args.mesh)
            mesh, field, stored = extract(run.field, args.resolution, str(path)), run.field, run.field_path
        if args.export:
            export(mesh, args.export, truth.center, truth.scale)
        rows[str(path)] = evaluate(mesh, truth, stored, field, device)
        if field is not None:
            save(path / "eval.json", rows[str(path)])
    mean = average(rows.values())
    if args.json:
        save(args.json, {**mean, "runs": rows})
    print(table(rows | {"mean": mean} if len(rows) > 1 else rows))
    written = args.export or args.json or (path if path.is_file() else path / "eval.json")
    print(f"next: look at {written}")


def save(path: Path, values: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
