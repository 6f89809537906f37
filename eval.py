"""Measure fitted fields against their meshes: a table here, and eval.json in each run folder.

    python eval.py runs/quickstart --export quickstart.ply
    python eval.py runs/* --json all.json
    python eval.py decoded.ply --mesh original.ply
    python eval.py runs/deepsdf_points_bunny --export bunny.ply  a point cloud: against the points, or a true --mesh
    python eval.py runs/neus_shell_chair --export chair.ply      a surface from photos: its mesh
"""

import argparse
from pathlib import Path

import torch

from dss import cli
from dss.errors import InputError
from dss.evaluation.geometry import COLUMNS
from dss.evaluation.measure import Measured, measure_file, measure_run
from dss.rendering.isosurface import check_suffix, export
from dss.run import MeshRun, PhotoRun, open_run
from dss.tables import mean_of, table, write_json


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="+", type=Path, help="run folders, or mesh files to compare with --mesh")
    options.add_argument("--data", "--mesh", help="the true mesh or points, where they have moved since the fit")
    options.add_argument("--json", type=Path, help="also write the means over all runs, and each run's metrics, there")
    options.add_argument("--resolution", type=int, help="marching-cubes cells per edge of [-1, 1]^3 (default: 256)")
    options.add_argument("--export", type=Path, help="write the mesh, in the input's units: .ply, .obj or .stl")
    options.add_argument("--weights", type=Path, help="write the field as its method's authors do: neural_implicit, .h5")
    args = options.parse_args()
    if args.export:
        check_suffix(args.export)
    if len(args.run) > 1:
        cli.refuse(args, f"{len(args.run)} runs at once", "export", "weights")
    device, rows = cli.pick_device(args.device), {}
    for path in args.run:
        match path if path.is_file() else open_run(path, device):
            case PhotoRun() as run:
                export_photos(run, args)
                return
            case MeshRun() as run:
                result = measure_run(run, args.data, **cli.given(args, "resolution"))
                write_json(written := path / "eval.json", result.metrics)
                if args.weights:
                    run.field.to_weights(args.weights)
            case Path():
                result, written = measure_mesh(path, args, device), path
        rows[str(path)] = result.metrics
        if args.export:
            export(result.mesh, args.export, result.similarity)
    mean = mean_of(rows.values())
    if args.json:
        write_json(args.json, {**mean, "runs": rows})
    print(table(rows | {"mean": mean} if len(rows) > 1 else rows, COLUMNS))
    print(f"next: look at {args.export or args.weights or args.json or written}")


def measure_mesh(path: Path, args: argparse.Namespace, device: torch.device) -> Measured:
    """A mesh file against the true one."""
    cli.refuse(args, f"the mesh file {path}", "weights", "resolution")
    if not args.data:
        raise InputError(f"{path}: a file, not a run folder; to compare meshes, name the true one with --mesh")
    return measure_file(path, args.data, device)


def export_photos(run: PhotoRun, args: argparse.Namespace) -> None:
    """The mesh of a surface from photos, in the scene's units. There is no true mesh to compare it with."""
    cli.refuse(args, "surfaces from photos", "json", "weights", "data")
    if len(args.run) > 1 or not args.export:
        raise InputError(f"{run.folder}: a surface from photos has no true mesh; name it alone, and a file with --export")
    mesh = run.surface(**cli.given(args, "resolution"))
    export(mesh, args.export, run.similarity)
    low, high = run.similarity.apply(mesh.bounds)
    closed = "watertight" if mesh.is_watertight else "not watertight"
    print(f"mesh      {len(mesh.faces):,} faces, {mesh.body_count} bodies, {closed}")
    print(f"extent    {low.round(3).tolist()} to {high.round(3).tolist()}, in the scene's units")
    print(f"next: python render.py --mesh {args.export}")


if __name__ == "__main__":
    cli.run(main)
