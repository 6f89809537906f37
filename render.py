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

import numpy as np
import torch
from tqdm import tqdm

from dss import cli
from dss.errors import InputError
from dss.evaluation.photos import pictures, scene_of
from dss.fields.mesh import MeshField
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.reconstruction.run import is_views, load_views_run, normals_of
from dss.rendering.buffers import render
from dss.rendering.cameras import turntable
from dss.rendering.images import contact_sheet, save_animation, save_png
from dss.rendering.mesh_buffers import see
from dss.rendering.modes import IMAGES, NUMBERS, check_request, draw
from dss.rendering.slices import RANGE, draw_shell, draw_slice, planes
from dss.rendering.spheres import draw_spheres
from dss.run import load_run

LEGENDS = {
    "error": "red: only one of mesh and field is hit",
    "slice": "black: the surface; pale: where the shell answers, if there is one",
    "shell": "blue: inner spheres; sand: interlayer; black: the surface",
}
BEADS = 0.25  # of their radii at which spheres are pictured, so that one sees where they are
SECONDS = 6.0  # of an animation
LABELLED = 30  # views on a contact sheet, at most


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("run", nargs="?", type=Path, help="a run folder that train.py made")
    options.add_argument("--mesh", help="without a run: the mesh to picture; with one: where its mesh is now")
    options.add_argument("--mode", choices=[*IMAGES, *NUMBERS, "slice", "shell"], default="shaded", help="what to draw")
    options.add_argument("--views", type=int, default=8, help="number of cameras on the turntable, or of planes to cut")
    options.add_argument("--size", type=int, default=512, help="pixels per side")
    options.add_argument("--up", choices=("x", "y", "z"), default="z", help="the axis that points upwards in the pictures")
    options.add_argument("--animate", choices=("webp", "gif", "mp4"), help="join the views to an animation, too")
    options.add_argument("--out", type=Path, help="folder for the pictures (default: RUN/pictures, or pictures/MESH)")
    options.add_argument("--split", default="test", help="of a surface from photos: the cameras of train, val or test")
    options.add_argument("--every", type=int, default=1, help="of a surface from photos: every n-th camera only")
    options.add_argument("--data", help="of a surface from photos: where its photos are now")
    args = options.parse_args()
    check_request(args.views, args.size)
    device = cli.pick_device(args.device)
    if args.run and is_views(args.run):
        render_views(args, device)
        return

    distance = None
    if args.run:
        run = load_run(args.run, device)
        field, name, out = run.field, args.run.resolve().name, args.run / "pictures"
        about = [f"{sum(field.storage().values()) / 1024:.1f} KiB"]
        about += [f"{len(field.shell)} spheres"] if field.shell else []
        if args.mode == "error":
            mesh = run.load_mesh(args.mesh)
            distance = MeshDistance(mesh.vertices, mesh.faces, device)
    elif args.mesh:
        if args.mode in ("error", "steps", "shell"):
            raise InputError(f"--mode {args.mode}: a mesh alone has none; name a run folder, or choose another mode")
        mesh = load_mesh(args.mesh)
        distance = MeshDistance(mesh.vertices, mesh.faces, device)
        field, name, out = MeshField(distance), Path(args.mesh).stem, Path("pictures", Path(args.mesh).stem)
        about = [f"mesh of {len(mesh.faces):,} faces"]
    else:
        raise InputError("nothing to picture; name a run folder, or --mesh FILE")
    out = args.out or out

    if args.mode in ("slice", "shell"):
        cuts = planes(args.views)
        paint = draw_slice if args.mode == "slice" else draw_shell
        images = [paint(field, cut, args.size) for cut in tqdm(cuts, desc="cut", unit="plane", disable=None)]
        labels, scale = [str(cut) for cut in cuts], RANGE if args.mode == "slice" else None
    else:
        cameras = tqdm(turntable(args.views, args.size, args.up), desc="render", unit="view", disable=None)
        frames = (render(field, camera) if args.run else see(distance, camera, "smooth") for camera in cameras)
        images, scale = draw(frames, args.mode, distance)
        labels = [f"{360 * index / args.views:.0f}\N{DEGREE SIGN}" for index in range(args.views)]

    for index, image in enumerate(images):
        save_png(out / f"{args.mode}_{index:03d}.png", image)
    if args.animate:
        save_animation(out / f"{args.mode}.{args.animate}", images, SECONDS)
    legend = [LEGENDS[args.mode]] if args.mode in LEGENDS else []
    subtitle = "; ".join([", ".join([args.mode, *about, f"{args.size} x {args.size} pixels"]), *legend])
    shown = slice(None, None, -(-args.views // LABELLED))
    sheet = out / f"{args.mode}.png"
    save_png(sheet, contact_sheet(images[shown], labels[shown], name, subtitle, scale))
    print(f"next: look at {sheet}")


def render_views(args: argparse.Namespace, device: torch.device) -> None:
    """A surface from photos, seen by the cameras of a split."""
    run = load_views_run(args.run, device)
    scene = scene_of(run, args.split, args.data, args.every)
    out, name, seconds, sheet = args.out or args.run / args.split, args.run.resolve().name, [], []
    subtitle, beads = f"{args.split}, colours and normals", args.mode == "shell"
    if beads:
        if run.sampler.shell is None:
            raise InputError(f"--mode shell: {args.run} has no spheres; choose another mode")
        subtitle += f", and the spheres at {BEADS:.0%} of their radii"
    bar = tqdm(pictures(run, scene), desc="render", total=len(scene.photos), unit="view", disable=None)
    for photo, picture in bar:
        normals = normals_of(picture)
        save_png(out / f"{photo.name}.png", picture.colour)
        save_png(out / "normals" / f"{photo.name}.png", normals)
        seconds.append(picture.seconds)
        bar.set_postfix_str(f"{picture.seconds:.2f} s / frame")
        panels = [picture.colour, normals]
        if beads:
            panels.append(draw_spheres(run.sampler.shell, photo.camera, BEADS))
            save_png(out / "spheres" / f"{photo.name}.png", panels[-1])
        sheet.append((np.concatenate(panels, 1), photo.name))
    images, labels = zip(*sheet[:: -(-len(sheet) // LABELLED)], strict=True)
    save_png(args.run / f"{args.split}.png", contact_sheet(images, labels, name, subtitle))
    print(f"frames    {len(seconds)}, {sum(seconds) / len(seconds):.3f} s each")
    print(f"next: look at {args.run / f'{args.split}.png'}; python eval_ssim.py {args.run} --split {args.split}")


if __name__ == "__main__":
    cli.run(main)
