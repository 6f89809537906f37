"""Compare pictures: of fitted fields or decoded meshes with the truth, or of any renderer with a NeRF-synthetic scene.

    python eval_ssim.py runs/quickstart
    python eval_ssim.py --mesh decoded.ply --truth-mesh original.ply
    python eval_ssim.py runs/neus_chair runs/neus_shell_chair --split test
    python eval_ssim.py --renders DIR --truth data/nerf_synthetic/chair --split test

Fields and meshes: SSIM and PSNR of normal maps by the paper's protocol, on white and on black, and of the true surface seen
by the same cameras. All metrics of pictures are taken from the 8-bit images as written.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from dss import cli
from dss.errors import InputError
from dss.evaluation.geometry import markdown
from dss.evaluation.images import load_lpips, mean, psnr, ssim_rgb
from dss.files import replacing
from dss.reconstruction.nerf_synthetic import listed, posed_images, read_image
from dss.reconstruction.run import is_views
from dss.rendering.cameras import PAPER_SIZE, PAPER_VIEWS

COLUMNS = {  # of the table: key, heading, format
    "ssim_white": ("SSIM white", ".4f"),
    "ssim_black": ("SSIM black", ".4f"),
    "psnr_white": ("PSNR white", ".2f"),
    "mask_iou": ("mask IoU", ".5f"),
    "normal_error_deg": ("normals (deg)", ".2f"),
    "depth_error": ("depth", ".2e"),
    "seconds": ("s / frame", ".2f"),
}
VIEWS_COLUMNS = {
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "seconds": ("s / frame", ".3f"),
    "samples": ("samples / ray", ".1f"),
    "background": ("background rays", ".1%"),
}
WINDOW = 11  # pixels, the larger of the two kinds of SSIM
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="*", type=Path, help="run folders that train.py made")
    options.add_argument("--mesh", help="without a run: the decoded mesh; with one: where its mesh is now")
    options.add_argument("--truth-mesh", help="the mesh that the decoded one stands for, in the same units")
    options.add_argument("--renders", type=Path, help="a folder of images to compare with --truth, matched by name")
    options.add_argument("--truth", type=Path, help="a NeRF-synthetic scene")
    options.add_argument("--split", default="test", help="of the scene: train, val or test")
    options.add_argument("--every", type=int, default=1, help="surfaces from photos: every n-th photo only")
    options.add_argument("--views", type=int, default=PAPER_VIEWS, help="around the mesh; the paper's number is the default")
    options.add_argument("--size", type=int, default=PAPER_SIZE, help="pixels per side; the paper's is the default")
    options.add_argument("--out", type=Path, help="folder for pictures and ssim.json (default: the run's; else ssim/MESH)")
    args = options.parse_args()
    chosen = [bool(args.run), bool(args.truth_mesh and args.mesh), bool(args.renders and args.truth)]
    if chosen.count(True) != 1:
        raise InputError("name one thing to compare: run folders, --mesh with --truth-mesh, or --renders with --truth")
    if args.renders:
        compare_renders(args)
    elif args.run and is_views(args.run[0]):
        compare_views(args)
    else:
        compare_normals(args)


def compare_normals(args) -> None:
    """Fields or a mesh against the truth, by all protocols; table, pictures and ssim.json."""
    from dss.evaluation.geometry import load_prediction
    from dss.evaluation.protocols import PROTOCOLS, compare
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import load_mesh
    from dss.rendering.modes import check_request
    from dss.run import load_run

    check_request(args.views, args.size)
    if args.size < WINDOW:
        raise InputError(f"--size {args.size}: SSIM compares windows of {WINDOW} pixels; ask for at least as many")
    if args.out and len(args.run) > 1:
        raise InputError(f"--out {args.out}: takes one run, got {len(args.run)}")
    device = cli.pick_device(args.device)
    cells = [["", "protocol", *(heading for heading, _ in COLUMNS.values())]]
    means = {protocol.name: [] for protocol in PROTOCOLS}
    for path in args.run or [Path(args.mesh)]:
        if args.run:
            run = load_run(path, device)
            ours, mesh = run.field, run.load_mesh(args.mesh)
        else:
            mesh = load_mesh(args.truth_mesh)
            decoded = load_prediction(path, mesh)
            ours = MeshDistance(decoded.vertices, decoded.faces, device)
        truth = MeshDistance(mesh.vertices, mesh.faces, device)
        out = args.out or (path if args.run else Path("ssim", path.stem))
        result = {"views": args.views, "size": args.size}
        for protocol in PROTOCOLS:
            progress = tqdm(
                compare(protocol, ours, truth, args.size, args.views, out / "ssim"),
                desc=f"{path.name}, {protocol.name}", total=args.views, unit="view", disable=None,
            )  # fmt: skip
            rows = list(progress)
            result[protocol.name] = {"mean": mean(rows), "views": rows}
            means[protocol.name].append(mean(rows))
            cells.append([path.name, protocol.name, *cells_of(mean(rows))])
        save(out / "ssim.json", result)
    if len(args.run) > 1:
        cells += [["mean", name, *cells_of(mean(rows))] for name, rows in means.items()]
    print(markdown(cells))
    print(f"next: look at {out / 'ssim'}, and {out / 'ssim.json'}")


def compare_renders(args) -> None:
    """A folder of images against a scene's split; table and ssim.json."""
    truth = {view.name: view for view in posed_images(args.truth, args.split)}
    if not args.renders.is_dir():
        raise InputError(f"{args.renders}: no such folder; it holds the images to compare, named as in the scene")
    ours = {path.stem: path for path in sorted(args.renders.iterdir()) if path.suffix.lower() in SUFFIXES}
    missing, extra = sorted(truth.keys() - ours.keys()), sorted(ours.keys() - truth.keys())
    if missing or extra:
        parts = [f"{kind} {listed(names)}" for kind, names in (("missing", missing), ("not in the scene", extra)) if names]
        raise InputError(f"{args.renders}: {'; '.join(parts)}; name the images as in {args.truth / args.split}")
    camera = next(iter(truth.values())).camera
    if min(camera.width, camera.height) < WINDOW:
        raise InputError(f"{args.truth}: {camera.width}x{camera.height} images are too small; SSIM compares windows of {WINDOW} pixels")
    lpips = load_lpips()

    def measure(name: str) -> dict[str, float | str]:
        images = read_image(ours[name]), read_image(truth[name].path)
        if images[0].shape != images[1].shape:
            return {"name": name, "shape": images[0].shape}
        row = {"name": name, "psnr": psnr(*images), "ssim": ssim_rgb(*images)}
        return row | {"lpips": lpips(*images)} if lpips else row

    with ThreadPoolExecutor(2) as pool:
        rows = list(tqdm(pool.map(measure, truth), total=len(truth), desc="compare", unit="image", disable=None))
    odd = [f"{row['name']} ({row['shape'][1]}x{row['shape'][0]})" for row in rows if "shape" in row]
    if odd:
        raise InputError(f"{args.renders}: the scene is {camera.width}x{camera.height}, but {listed(odd)} differ; render at that size")
    total = mean([{key: value for key, value in row.items() if key != "name"} for row in rows])
    path = (args.out or args.renders) / "ssim.json"
    save(path, {"scene": str(args.truth), "split": args.split, "mean": total, "images": rows})
    headings = {"psnr": ".2f", "ssim": ".4f", "lpips": ".4f"}
    heads = [key for key in headings if key in total]
    if not lpips:
        print("lpips     left out: it needs torchmetrics, torchvision and AlexNet's weights on this machine")
    print(markdown([["", "images", *heads], [args.renders.name, str(len(rows)), *(format(total[key], headings[key]) for key in heads)]]))
    print(f"next: look at {path}")


def compare_views(args) -> None:
    """Surfaces from photos against the photos; a table, and views.json in each run folder."""
    from dss.evaluation.photos import compare, pictures, scene_of
    from dss.reconstruction.run import load_views_run

    device = cli.pick_device(args.device)
    cells = [["", "photos", *(heading for heading, _ in VIEWS_COLUMNS.values())]]
    for path in args.run:
        run = load_views_run(path, device)
        scene = scene_of(run, args.split, str(args.truth) if args.truth else None, args.every)
        progress = tqdm(pictures(run, scene), desc=path.name, total=len(scene.photos), unit="view", disable=None)
        rows = {photo.name: compare(picture, photo, run.background) for photo, picture in progress}
        total = mean(list(rows.values()))
        cells.append([path.name, str(len(rows)), *(format(total[key], style) for key, (_, style) in VIEWS_COLUMNS.items())])
        save(path / "views.json", {"split": args.split, "mean": total, "photos": rows})
    print(markdown(cells))
    print(f"next: look at {path / 'views.json'}; python render.py {path} --split {args.split}")


def cells_of(row: dict[str, float]) -> list[str]:
    return [format(row[key], style) for key, (_, style) in COLUMNS.items()]


def save(path: Path, values: dict) -> None:
    """JSON has no infinity and no NaN: null stands for the PSNR of equal images, and for errors where nothing was hit."""

    def finite(value: object) -> object:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite(values), indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
