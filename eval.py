"""Measure fitted fields against their meshes: a table here, and eval.json in each run folder.

    python eval.py runs/quickstart --export quickstart.ply
    python eval.py runs/* --json all.json
    python eval.py decoded.ply --mesh original.ply
    python eval.py runs/deepsdf_points_bunny --export bunny.ply  a surface from points: against them, or a true --mesh
    python eval.py runs/neus_shell_chair --export chair.ply     a surface from photos: its mesh
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from dss import cli
from dss.errors import InputError
from dss.evaluation.geometry import average, evaluate, evaluate_cloud, load_prediction, table
from dss.files import replacing
from dss.geometry.mesh import load_mesh
from dss.geometry.points import is_cloud, load_points
from dss.reconstruction.model_shell import ModelField
from dss.reconstruction.run import is_views, load_views_run
from dss.rendering.isosurface import check_suffix, export, extract
from dss.run import load_run


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="+", type=Path, help="run folders that train.py made, or mesh files to compare with --mesh")
    options.add_argument("--mesh", help="the true mesh, where it has moved since the fit")
    options.add_argument("--json", type=Path, help="also write the means over all runs, and each run's metrics, to this file")
    options.add_argument("--resolution", type=int, default=256, help="marching-cubes cells per edge of [-1, 1]^3")
    options.add_argument("--export", type=Path, help="write the field's mesh, in the input's units: .ply, .obj or .stl")
    options.add_argument("--weights", type=Path, help="write the field as its method's authors store theirs: neural_implicit, .h5")
    args = options.parse_args()
    if args.export:
        check_suffix(args.export)
    for option, file in (("--export", args.export), ("--weights", args.weights)):
        if file and len(args.run) > 1:
            raise InputError(f"{option} {file}: takes one run, got {len(args.run)}")
    device = cli.pick_device(args.device)
    if is_views(args.run[0]):
        export_views(args, device)
        return

    rows = {}
    for path in args.run:
        cloud = None
        if path.is_file():
            if not args.mesh:
                raise InputError(f"{path}: a file, not a run folder; to compare meshes, name the true one with --mesh")
            truth = load_mesh(args.mesh)
            mesh, field, stored = load_prediction(path, truth), None, path
        else:
            run = load_run(path, device)
            if not args.mesh and is_cloud(run.source.path):
                truth = cloud = load_points(run.source.path, run.config.mesh.radius, run.config.samples.normals)
            else:
                truth = run.load_mesh(args.mesh)
            mesh, field, stored = extract(run.field, args.resolution, str(path)), run.field, run.field_path
        if args.export:
            export(mesh, args.export, truth.center, truth.scale)
        if args.weights:
            if field is None:
                raise InputError(f"--weights {args.weights}: {path} is a mesh, not a run folder; leave it out")
            field.to_weights(args.weights)
        rows[str(path)] = evaluate_cloud(mesh, cloud, field) if cloud else evaluate(mesh, truth, stored, field, device)
        if field is not None:
            save(path / "eval.json", rows[str(path)])
    mean = average(rows.values())
    if args.json:
        save(args.json, {**mean, "runs": rows})
    print(table(rows | {"mean": mean} if len(rows) > 1 else rows))
    written = args.export or args.weights or args.json or (path if path.is_file() else path / "eval.json")
    print(f"next: look at {written}")


def export_views(args: argparse.Namespace, device: torch.device) -> None:
    """The mesh of a surface from photos, in the scene's units. There is no true mesh to compare it with."""
    if len(args.run) > 1 or not args.export:
        raise InputError(f"{args.run[0]}: a surface from photos has no true mesh; name it alone, and with --export the file for its own")
    run = load_views_run(args.run[0], device)
    mesh = extract(ModelField(run.model, run.sampler.shell), args.resolution, str(args.run[0]))
    export(mesh, args.export, np.array(run.frame.center), run.frame.scale)
    low, high = mesh.bounds * run.frame.scale + np.array(run.frame.center)
    print(f"mesh      {len(mesh.faces):,} faces, {mesh.body_count} bodies, {'' if mesh.is_watertight else 'not '}watertight")
    print(f"extent    {low.round(3).tolist()} to {high.round(3).tolist()}, in the scene's units")
    print(f"next: python render.py --mesh {args.export}")


def save(path: Path, values: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
