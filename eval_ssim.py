"""Compare pictures: of fields or decoded meshes with the truth, or of any renderer with a scene.

python eval_ssim.py runs/quickstart
python eval_ssim.py --mesh decoded.ply --truth-mesh original.ply
python eval_ssim.py runs/neus_chair runs/neus_shell_chair --split test    (--by surface: traced)
python eval_ssim.py --renders DIR --truth data/nerf_synthetic/chair --split test
"""

from pathlib import Path

from dss import cli
from dss.errors import InputError


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="*", type=Path, help="run folders of train.py, or .dss files")
    options.add_argument("--data", "--mesh", help="a mesh; of runs: where their data is now")
    options.add_argument("--truth-mesh", help="the true mesh of --mesh")
    options.add_argument("--renders", type=Path, help="a folder of images, matched by name")
    options.add_argument("--truth", type=Path, help="the NeRF-synthetic scene of --renders")
    options.add_argument("--split", help="of a scene: train, val or test (default: test)")
    options.add_argument("--every", type=int, help="of photos: every n-th only (default: 1)")
    options.add_argument("--by", choices=("volume", "surface", "distilled"), help="of photos")
    options.add_argument("--views", type=int, help="around a mesh (default: 30, as in the paper)")
    options.add_argument("--size", type=int, help="pixels per side (default: 512, as in the paper)")
    options.add_argument("--out", type=Path, help="folder (default: the run's; else ssim/MESH)")
    args = options.parse_args()
    with cli.importing():
        from dss.evaluation import measure, photos, renders
        from dss.geometry.mesh import load_mesh
        from dss.pipeline import photo_render
        from dss.rendering.modes import check_pictures
        from dss.run import MeshRun, is_coded, open_run
        from dss.tables import table, write_json

    pairs = args.truth_mesh and args.data, args.renders and args.truth
    if [bool(kind) for kind in (args.run, *pairs)].count(True) != 1:
        raise InputError("name runs, or --mesh and --truth-mesh, or --renders and --truth")
    cli.refuse(args, f"{len(args.run)} runs at once", *["out"] * (len(args.run) > 1))
    around, split = cli.given(args, "views", "size"), cli.given(args, "split", "every")
    check_pictures(**around)
    device, terminal, rows = cli.pick_device(args.device), cli.Terminal(), {}
    if args.renders:
        cli.refuse(args, "images of a scene", "data", "every", "by", "views", "size")
        out, inputs = args.out or args.renders, (args.renders, args.truth, args.split or "test")
        result = renders.compare_renders(*inputs, terminal)
        rows[str(args.renders)] = result["mean"]
        write_json(out / "ssim.json", result)
    if args.truth_mesh:
        cli.refuse(args, "meshes", "split", "every", "by", "truth")
        out, truth = args.out or Path("ssim", Path(args.data).stem), load_mesh(args.truth_mesh)
        inputs = measure.decoded(args.data, truth, device), truth, out / "ssim"
        result = measure.measure_pictures(*inputs, progress=terminal, **around)
        rows |= measure.protocol_means(args.data, result)
        write_json(out / "ssim.json", result)
    for path in args.run:
        out = args.out or (Path("ssim", path.stem) if is_coded(path) else path)
        if isinstance(run := open_run(path, device), MeshRun):
            cli.refuse(args, "runs of meshes", "split", "every", "by", "truth")
            inputs = run.field, run.load_mesh(args.data), out / "ssim"
            result = measure.measure_pictures(*inputs, progress=terminal, **around)
            rows |= measure.protocol_means(str(path), result)
        else:
            cli.refuse(args, "surfaces from photos", "views", "size", "truth")
            split["render"] = photo_render(run, args.by or "volume", terminal)
            result = photos.measure_photos(run, args.data, progress=terminal, **split)
            rows[str(path)] = result["mean"]
        write_json(out / "ssim.json", result)
    print(table(measure.with_means(rows), measure.PICTURE_COLUMNS))
    print(f"next: look at {out / 'ssim.json'}")


if __name__ == "__main__":
    cli.run(main)
