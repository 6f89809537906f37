"""Compare pictures: of fitted fields or decoded meshes with the truth, or of any renderer with a NeRF-synthetic scene.

    python eval_ssim.py runs/quickstart
    python eval_ssim.py --mesh decoded.ply --truth-mesh original.ply
    python eval_ssim.py runs/neus_chair runs/neus_shell_chair --split test
    python eval_ssim.py --renders DIR --truth data/nerf_synthetic/chair --split test

Fields and meshes: SSIM and PSNR of normal maps by the paper's protocol, on white and on black, and of the true surface
seen by the same cameras. All metrics of pictures are taken from the 8-bit images as written.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from dss import cli
from dss.errors import InputError
from dss.evaluation import photos, protocols, renders
from dss.evaluation.geometry import load_prediction
from dss.evaluation.measure import measure_pictures
from dss.fields import Field
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh, load_mesh
from dss.rendering.modes import check_pictures
from dss.run import MeshRun, PhotoRun, open_run
from dss.tables import mean_of, table, write_json


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="*", type=Path, help="run folders that train.py made")
    options.add_argument("--data", "--mesh", help="with runs: where their mesh or scene is now; else: the mesh to compare")
    options.add_argument("--truth-mesh", help="without runs: the true mesh of --mesh")
    options.add_argument("--renders", type=Path, help="a folder of images to compare with --truth, matched by name")
    options.add_argument("--truth", type=Path, help="the NeRF-synthetic scene of --renders")
    options.add_argument("--split", help="of a scene: train, val or test (default: test)")
    options.add_argument("--every", type=int, help="surfaces from photos: every n-th photo only (default: 1)")
    options.add_argument("--views", type=int, help="around the mesh (default: 30, as in the paper)")
    options.add_argument("--size", type=int, help="pixels per side (default: 512, as in the paper)")
    options.add_argument("--out", type=Path, help="folder for pictures and ssim.json (default: the run's; else ssim/MESH)")
    args = options.parse_args()
    if [bool(args.run), bool(args.truth_mesh), bool(args.renders)].count(True) != 1:
        raise InputError("name one thing to compare: run folders, --mesh with --truth-mesh, or --renders with --truth")
    if args.out and len(args.run) > 1:
        cli.refuse(args, f"{len(args.run)} runs at once", "out")
    check_pictures(**cli.given(args, "views", "size"))
    device = cli.pick_device(args.device)
    runs = [open_run(path, device) for path in args.run]
    if args.renders:
        compare_renders(args)
    elif args.truth_mesh:
        truth = load_mesh(args.truth_mesh)
        decoded = load_prediction(args.data or "", truth)
        distance = MeshDistance(decoded.vertices, decoded.faces, device)
        compare_normals(args, [(distance, truth, Path("ssim", Path(args.data).stem))])
    elif all(isinstance(run, MeshRun) for run in runs):
        compare_normals(args, ((run.field, run.load_mesh(args.data), run.folder) for run in runs))
    elif all(isinstance(run, PhotoRun) for run in runs):
        compare_photos(args, runs)
    else:
        raise InputError(f"{args.run[0]}: some of the runs are of meshes and some of photos; compare them by two calls")


def compare_normals(args: argparse.Namespace, pairs: Iterable[tuple[Field | MeshDistance, Mesh, Path]]) -> None:
    """Fields or meshes against the truth, by all protocols; a table, pictures and ssim.json."""
    cli.refuse(args, "meshes", "split", "every", "truth")
    rows, means = {}, {protocol.name: [] for protocol in protocols.PROTOCOLS}
    for ours, truth, folder in pairs:
        out = args.out or folder
        sizes = cli.given(args, "views", "size")
        result = measure_pictures(ours, truth, out / "ssim", progress=cli.Terminal(), **sizes)
        write_json(out / "ssim.json", result)
        for name, own in means.items():
            rows[f"{folder.name}, {name}"] = result[name]["mean"]
            own.append(result[name]["mean"])
    if len(args.run) > 1:
        rows |= {f"mean, {name}": mean_of(own) for name, own in means.items()}
    print(table(rows, protocols.COLUMNS))
    print(f"next: look at {out / 'ssim'}, and {out / 'ssim.json'}")


def compare_photos(args: argparse.Namespace, runs: list[PhotoRun]) -> None:
    """Surfaces from photos against the photos; a table, and ssim.json in each run folder."""
    cli.refuse(args, "surfaces from photos", "views", "size", "truth")
    rows, split = {}, cli.given(args, "split", "every")
    for run in runs:
        result = photos.measure_photos(run, args.data, progress=cli.Terminal(), **split)
        write_json(path := (args.out or run.folder) / "ssim.json", result)
        rows[run.folder.name] = {"count": len(result["photos"]), **result["mean"]}
    print(table(rows, photos.COLUMNS))
    print(f"next: look at {path}; python render.py {run.folder} --split {result['split']}")


def compare_renders(args: argparse.Namespace) -> None:
    """A folder of images against a scene's split; a table and ssim.json."""
    cli.refuse(args, "images of a scene", "data", "every", "views", "size")
    if not args.truth:
        raise InputError(f"--renders {args.renders}: name the scene to compare with by --truth")
    result = renders.compare_renders(args.renders, args.truth, args.split or "test", cli.Terminal())
    write_json(path := (args.out or args.renders) / "ssim.json", result)
    if "lpips" not in result["mean"]:
        print("lpips     left out: it needs torchmetrics, torchvision and AlexNet's weights on this machine")
    print(table({f"{args.renders.name}, {len(result['images'])} images": result["mean"]}, renders.COLUMNS))
    print(f"next: look at {path}")


if __name__ == "__main__":
    cli.run(main)
