"""Pictures of a fitted field, or of a mesh: one PNG per view, a contact sheet, and an animation.

python render.py runs/quickstart
python render.py runs/quickstart --mode error --views 12 --size 1024
python render.py runs/quickstart --views 72 --animate webp
python render.py bunny.dss; python render.py --mesh bunny.obj --mode normal
python render.py runs/neus_shell_chair --split test     from photos: colours and normals
python render.py runs/neus_spheres_chair --mode shell   and the sampler's spheres
python render.py runs/neus_shell_chair --by surface     sphere traced, one colour per ray
"""

from pathlib import Path

from dss import cli
from dss.errors import InputError


def main() -> None:
    with cli.importing():
        from dss.evaluation.photos import draw_photos
        from dss.geometry.mesh import load_mesh
        from dss.pipeline import photo_render
        from dss.rendering.gallery import MODES, draw_field, draw_mesh
        from dss.rendering.modes import check_pictures
        from dss.run import MeshRun, PhotoRun, is_coded, open_run

    options = cli.parser(__doc__)
    options.add_argument("run", nargs="?", type=Path, help="a run folder, or a .dss file")
    options.add_argument(
        "--data", "--mesh", help="a mesh to picture; of a run: where its data is now"
    )
    options.add_argument("--mode", choices=MODES, help="what to draw (default: shaded)")
    options.add_argument("--views", type=int, help="cameras, or planes to cut (default: 8)")
    options.add_argument("--size", type=int, help="pixels per side (default: 512)")
    options.add_argument("--up", choices=("x", "y", "z"), help="what points upwards (default: z)")
    options.add_argument("--animate", choices=("webp", "gif", "mp4"), help="join the views, too")
    options.add_argument("--out", type=Path, help="folder (default: RUN/pictures or pictures/FILE)")
    options.add_argument("--split", help="of photos: train, val or test (default: test)")
    ways = ("volume", "surface", "distilled")
    options.add_argument("--by", choices=ways, help="of photos: how to draw (default: volume)")
    options.add_argument("--every", type=int, help="of photos: every n-th only (default: 1)")
    args = options.parse_args()
    if not (args.run or args.data):
        raise InputError("nothing to picture; name a run folder, or --mesh FILE")
    device, terminal = cli.pick_device(args.device), cli.Terminal()
    shown = cli.given(args, "mode", "views", "size", "up")
    check_pictures(**cli.given(args, "views", "size"))
    run = open_run(args.run, device) if args.run else None
    match run:
        case PhotoRun():
            cli.refuse(args, "surfaces from photos", "views", "size", "up", "animate")
            chosen = cli.given(args, "mode", "split", "every", "out")
            render = photo_render(run, args.by or "volume", terminal)
            sheet = draw_photos(run, args.data, render=render, progress=terminal, **chosen)
        case MeshRun():
            cli.refuse(args, "runs of meshes", "split", "every", "by")
            truth = run.load_mesh(args.data) if args.mode == "error" else None
            gallery = draw_field(run.field, truth=truth, progress=terminal, **shown)
            name = args.run.resolve().name
            own = Path("pictures", args.run.stem) if is_coded(args.run) else args.run / "pictures"
            sheet = gallery.save(args.out or own, name, args.animate)
        case None:
            cli.refuse(args, "meshes", "split", "every", "by")
            name = Path(args.data).stem
            gallery = draw_mesh(load_mesh(args.data), device=device, progress=terminal, **shown)
            sheet = gallery.save(args.out or Path("pictures", name), name, args.animate)
    print(f"next: look at {sheet}")


if __name__ == "__main__":
    cli.run(main)
