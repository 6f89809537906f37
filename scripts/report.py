"""One HTML file about runs or a sweep, with pictures, to open in a browser or to send.

    python scripts/report.py runs/quickstart
    python scripts/report.py runs/sweep --out sweep.html    a folder of runs: those with the largest
                                                            errors are pictured
The metrics are those that eval.py, or the sweep, has left in the run folders.
"""

from pathlib import Path

from dss import cli


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("what", nargs="+", type=Path, help="run folders, or the folder of a sweep")
    options.add_argument("--out", type=Path, default=Path("report.html"), help="(report.html)")
    options.add_argument("--data", "--mesh", help="the true mesh or scene, where it has moved")
    options.add_argument("--worst", type=int, default=20, help="of a sweep, how many to picture")
    options.add_argument("--size", type=int, default=320, help="pixels per side of a picture")
    args = options.parse_args()
    with cli.importing():
        from dss.experiments.report import grouped, rows_of, worst, write_report
        from dss.rendering.modes import check_pictures

    check_pictures(1, args.size)
    groups = grouped([rows_of(path) for path in args.what])
    rows = [row for group in groups for row in group]
    detailed = [row for group in groups for row in worst(group, args.worst)]
    device = cli.pick_device(args.device)
    title = ", ".join(path.resolve().name for path in args.what[:3])
    title += f" and {len(args.what) - 3} more" if len(args.what) > 3 else ""
    write_report(args.out, title, rows, detailed, args.data, args.size, device, cli.Terminal())
    print(f"next: open {args.out} in a browser")


if __name__ == "__main__":
    cli.run(main)
