"""Make posed photos of a mesh: a scene whose true surface is known, in both layouts.

    python scripts/make_scene.py demo --out scenes/demo             needs no data
    python scripts/make_scene.py bunny.obj --out scenes/bunny --texture checker
    python scripts/make_scene.py demo --out scenes/room --background room

DIR/synthetic has the NeRF-synthetic layout, DIR/dtu that of DTU; both hold mesh.ply and depths.
"""

from pathlib import Path

from dss import cli


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("mesh", help="a mesh file, or `demo`")
    options.add_argument("--out", type=Path, help="the folder (default: scenes/MESH)")
    options.add_argument("--views", type=int, help="train photos (default: 60)")
    options.add_argument("--size", type=int, help="pixels per side (default: 200)")
    options.add_argument("--texture", choices=("noise", "checker", "none"), help="(default: noise)")
    options.add_argument("--background", choices=("none", "room"), help="(default: none)")
    args = options.parse_args()
    with cli.importing():
        from dss.errors import InputError
        from dss.files import is_folder
        from dss.reconstruction.made_scene import make_scene
        from dss.rendering.modes import check_pictures

    shown = cli.given(args, "views", "size")
    check_pictures(**shown)
    out = args.out or Path("scenes", Path(args.mesh).stem)
    if is_folder(out) and any(out.iterdir()):
        raise InputError(f"{out}: not empty; choose another --out, or delete it")
    device = cli.pick_device(args.device)
    shown |= cli.given(args, "texture", "background")
    make_scene(args.mesh, out, device=device, progress=cli.Terminal(), **shown)
    if args.background != "room":
        following = f"--config neus_shell_tiny --data {out / 'synthetic'} scene.downscale=2"
    else:
        following = f"--config neus_room_tiny --data {out / 'synthetic'}"
    print(f"next: python train.py {following}")


if __name__ == "__main__":
    cli.run(main)
