"""Turn a run, a coded field or a mesh around in the browser; two are shown beside each other.

    python scripts/view.py runs/quickstart
    python scripts/view.py runs/fast runs/paper             two runs, with one camera
    python scripts/view.py bunny.ply
    python scripts/view.py runs/neus_shell_chair            from photos: cameras and pictures, too

The page is served to this machine alone; --host 0.0.0.0 lets others in. From a server:
ssh -L 8080:localhost:8080 SERVER. Needs the extra `view`: pip install -e '.[view]'.
"""

from dataclasses import replace

from dss import cli
from dss.errors import InputError

MAX_SUBJECTS = 2


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("what", nargs="+", help="run folders, .dss files, meshes, or `demo`")
    options.add_argument("--data", help="where the mesh or the scene of the runs is now")
    options.add_argument("--host", default="localhost", help="who may look (default: localhost)")
    options.add_argument("--port", type=int, default=8080, help="the next free one is taken")
    options.add_argument("--size", type=int, default=1024, help="pixels per side when still")
    args = options.parse_args()
    if len(args.what) > MAX_SUBJECTS:
        raise InputError(f"{len(args.what)} things to view; name one, or two to compare")
    with cli.importing():
        from dss.rendering.modes import check_pictures
        from dss.viewer.subject import open_subject

        try:
            from dss.viewer.server import Viewer
        except ModuleNotFoundError as error:
            remedy = "pip install -c constraints.txt -e '.[view]'"
            raise InputError(
                f"{error.name}: not installed; the viewer needs it: {remedy}"
            ) from None
    check_pictures(1, args.size)
    device = cli.pick_device(args.device)
    subjects = [open_subject(what, args.data, device) for what in args.what]
    if len({subject.name for subject in subjects}) < len(subjects):  # tell them apart
        subjects = [
            replace(subject, name=what) for subject, what in zip(subjects, args.what, strict=True)
        ]
    for subject in subjects:
        print(f"opened    {subject.name}: {subject.about}")
    with Viewer(subjects, args.host, args.port, args.size) as viewer:
        print(f"next: open {viewer.url} in a browser; Ctrl-C ends", flush=True)
        viewer.server.sleep_forever()


if __name__ == "__main__":
    cli.run(main)
