"""Pictures of a fitted field, or of a mesh: one PNG per view, a contact sheet, and on demand an animation.

    python render.py runs/quickstart
    python render.py runs/quickstart --mode error --views 12 --size 1024
    python render.py runs/quickstart --views 72 --animate webp
    python render.py --mesh bunny.obj --mode normal
    python render.py runs/neus_shell_chair --split test         of a surface from photos: colours and normals
    python render.py runs/neus_spheres_chair --mode shell       and its spheres
"""

import argparse
from pathlib import Path

import torch

from dss import cli
from dss.errors import InputError
from dss.evaluation.photos import draw_photos
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.rendering.gallery import MODES, draw_field, draw_mesh
from dss.rendering.modes import check_pictures
from dss.run import MeshRun, PhotoRun, open_run


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="?", type=Path, help="a run folder that train.py made")
    options.add_argument("--data", "--mesh", help="without a run: the mesh to picture; with one: where its data is now")
    options.add_argument("--mode", choices=MODES, help="what to draw (default: shaded); of photos: shell, or nothing")
    options.add_argument("--views", type=int, help="cameras on the turntable, or planes to cut (default: 8)")
    options.add_argument("--size", type=int, help="pixels per side (default: 512)")
    options.add_argument("--up", choices=("x", "y", "z"), help="the axis that points upwards (default: z)")
    options.add_argument("--animate", choices=("webp", "gif", "mp4"), help="join the views to an animation, too")
    options.add_argument("--out", type=Path, help="folder for the pictures (default: RUN/pictures, or pictures/MESH)")
    options.add_argument("--split", help="of photos: the cameras of train, val or test (default: test)")
    options.add_argument("--every", type=int, help="of photos: every n-th camera only (default: 1)")
    args = options.parse_args()
    check_pictures(**cli.given(args, "views", "size"))
    device = cli.pick_device(args.device)
    match args.run and open_run(args.run, device):
        case PhotoRun() as run:
            render_photos(run, args)
        case MeshRun() as run:
            render_field(run, args)
        case None:
            render_mesh(args, device)


def render_field(run: MeshRun, args: argparse.Namespace) -> None:
    """A fitted field."""
    cli.refuse(args, "runs of meshes", "split", "every")
    truth = None
    if args.mode == "error":
        mesh = run.load_mesh(args.data)
        truth = MeshDistance(mesh.vertices, mesh.faces, run.field.device)
    shown = cli.given(args, "mode", "views", "size", "up")
    gallery = draw_field(run.field, truth=truth, progress=cli.Terminal(), **shown)
    about = [f"{sum(run.field.storage().values()) / 1024:.1f} KiB"]
    about += [f"{len(run.field.shell)} spheres"] if run.field.shell else []
    sheet = gallery.save(args.out or run.folder / "pictures", run.folder.resolve().name, about, args.animate)
    print(f"next: look at {sheet}")


def render_mesh(args: argparse.Namespace, device: torch.device) -> None:
    """A mesh without a run."""
    cli.refuse(args, "meshes", "split", "every")
    if not args.data:
        raise InputError("nothing to picture; name a run folder, or --mesh FILE")
    mesh, name = load_mesh(args.data), Path(args.data).stem
    distance = MeshDistance(mesh.vertices, mesh.faces, device)
    gallery = draw_mesh(distance, progress=cli.Terminal(), **cli.given(args, "mode", "views", "size", "up"))
    about = [f"mesh of {len(mesh.faces):,} faces"]
    print(f"next: look at {gallery.save(args.out or Path('pictures', name), name, about, args.animate)}")


def render_photos(run: PhotoRun, args: argparse.Namespace) -> None:
    """A surface from photos, seen by the cameras of a split."""
    cli.refuse(args, "surfaces from photos", "views", "size", "up", "animate")
    if args.mode not in (None, "shell"):
        raise InputError(f"--mode {args.mode}: does not apply to surfaces from photos; choose shell, or leave it out")
    shown = cli.given(args, "split", "every", "out")
    drawn = draw_photos(run, args.data, spheres=args.mode == "shell", progress=cli.Terminal(), **shown)
    print(f"frames    {drawn.frames}, {drawn.seconds:.3f} s each")
    print(f"next: look at {drawn.sheet}; python eval_ssim.py {run.folder} --split {drawn.split}")


if __name__ == "__main__":
    cli.run(main)
