"""Measure fitted fields against their meshes: a table here, and eval.json in each run folder.

python eval.py runs/quickstart --export quickstart.ply
python eval.py runs/* --json all.json
python eval.py decoded.ply --mesh original.ply
python eval.py runs/bunny --pack bunny.dss  the field as a file of few bytes, and its metrics
python eval.py bunny.dss --mesh bunny.obj
python eval.py runs/deepsdf_points_bunny    a point cloud: against the points, or a true --mesh
python eval.py runs/neus_shell_chair --mesh chair.ply      a surface from photos: what cameras see
python eval.py runs/neus_dtu_scan24 --mesh "MVS Data"      by DTU's official protocol
"""

from pathlib import Path

from dss import cli
from dss.errors import InputError, listed
from dss.files import is_file


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="+", type=Path, help="run folders, .dss files, or meshes")
    options.add_argument("--data", "--mesh", help="the true mesh or points, where they have moved")
    options.add_argument("--json", type=Path, help="write means and all runs' metrics there, too")
    options.add_argument("--resolution", type=int, help="cells per edge of [-1, 1]^3 (256)")
    options.add_argument(
        "--export", type=Path, help="write the mesh in input units: .ply, .obj, .stl"
    )
    options.add_argument("--weights", type=Path, help="write the field as its method's authors do")
    options.add_argument("--pack", type=Path, help="write the field as a .dss file, measure that")
    args = options.parse_args()
    with cli.importing():
        from dss.evaluation.measure import COLUMNS, measure_file, measure_run, save_metrics
        from dss.rendering.isosurface import check_suffix, export
        from dss.run import PhotoRun, is_coded, open_run, pack_run
        from dss.tables import mean_of, table, write_json

    if args.export:
        check_suffix(args.export)
    if len(args.run) > 1:
        cli.refuse(args, f"{len(args.run)} runs at once", "export", "weights", "pack")
    device, rows, shown = cli.pick_device(args.device), {}, cli.given(args, "resolution")
    refused = []
    for path in args.run:
        if is_file(path) and not is_coded(path):
            cli.refuse(args, f"the mesh file {path}", "weights", "resolution", "pack")
            result, written = measure_file(path, args.data, device), path
        else:
            run = open_run(path, device)
            if isinstance(run, PhotoRun):
                cli.refuse(args, "surfaces from photos", "weights", "pack")
            elif args.pack:
                args.data = args.data or run.source.path or None
                run = pack_run(run, path := args.pack, device)
            result = measure_run(run, args.data, **shown)
            written, saved = save_metrics(run, result.metrics)
            refused += [] if saved else [str(written)]  # they are worth printing all the same
            if args.weights:
                run.field.to_weights(args.weights)
        rows[str(path)] = result.metrics
        if args.export:
            export(result.mesh, args.export, result.similarity)
    mean = mean_of(rows.values())
    print(table(rows | {"mean": mean} if len(rows) > 1 else rows, COLUMNS))
    if args.json:
        write_json(args.json, {**mean, "runs": rows})
    if refused and not args.json:
        raise InputError(
            f"{listed(refused)}: cannot be written; name a place for the numbers with --json"
        )
    print(f"next: look at {args.export or args.weights or args.json or written}")


if __name__ == "__main__":
    cli.run(main)
