"""Pictures of a fitted field, or of a mesh: one PNG per view, and a contact sheet.

    python render.py runs/quickstart
    python render.py runs/quickstart --mode normal --views 30 --size 1024
    python render.py --mesh bunny.obj --out pictures/bunny
"""

from pathlib import Path

from tqdm import tqdm

from dss import cli
from dss.errors import InputError
from dss.pictures import contact_sheet, save_png
from dss.rays import turntable
from dss.rendering import IMAGES, NUMBERS, check_request, draw, render


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="?", type=Path, help="a run folder that train.py made")
    options.add_argument("--mesh", help="picture this mesh alone, instead of a run")
    options.add_argument("--mode", choices=[*IMAGES, *NUMBERS], default="shaded", help="what to draw")
    options.add_argument("--views", type=int, default=8, help="number of cameras on the turntable")
    options.add_argument("--size", type=int, default=512, help="pixels per side")
    options.add_argument("--up", choices=("x", "y", "z"), default="z", help="the axis that points upwards in the pictures")
    options.add_argument("--out", type=Path, help="folder for the pictures (default: RUN/pictures, or pictures/MESH)")
    args = options.parse_args()
    check_request(args.views, args.size)
    device = cli.pick_device(args.device)

    if args.run and not args.mesh:
        from dss.run import load_run

        run = load_run(args.run, device)
        field, name, out = run.field, args.run.resolve().name, args.run / "pictures"
        about = f"{len(field.shell)} spheres, {sum(field.storage().values()) / 1024:.1f} KiB"
    elif args.mesh and not args.run:
        from dss.distance import MeshDistance
        from dss.fields.mesh import MeshField
        from dss.mesh import load_mesh

        mesh = load_mesh(args.mesh)
        field, name = MeshField(MeshDistance(mesh.vertices, mesh.faces, device)), Path(args.mesh).stem
        out, about = Path("pictures", name), f"mesh of {len(mesh.faces):,} faces"
    else:
        raise InputError("name what to picture: either a run folder, or --mesh FILE")
    out = args.out or out

    cameras = turntable(args.views, args.size, args.up)
    frames = [render(field, camera, device) for camera in tqdm(cameras, desc="render", unit="view", disable=None)]
    images, scale = draw(frames, args.mode)
    for index, image in enumerate(images):
        save_png(out / f"{args.mode}_{index:03d}.png", image)
    labels = [f"{360 * index / args.views:.0f}\N{DEGREE SIGN}" for index in range(args.views)]
    sheet = out / f"{args.mode}.png"
    save_png(sheet, contact_sheet(images, labels, name, f"{args.mode}, {about}, {args.size} x {args.size} pixels", scale))
    print(f"next: look at {sheet}")


if __name__ == "__main__":
    cli.run(main)
