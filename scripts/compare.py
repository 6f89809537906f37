"""Compare methods on meshes: fit what is missing, measure all in one frame, and print one table; the same command resumes.

    python scripts/compare.py --preset quick --data DATA         every method, briefly, on three meshes
    python scripts/compare.py --preset paper --data DATA         Tables I and II of the DSS paper, at full length
    python scripts/compare.py --methods fast nglod_3 "Draco, 11 bits" --meshes bunny.obj dragon.ply

    python scripts/compare.py --preset views --data DATA         samplers and base models on photos, and where the time goes

Writes table.md, table.csv, table.json and rate_distortion.png, .svg, and a run folder per method and mesh, to --out;
of photos, views.md and views.json.
"""

import argparse
import difflib
import os
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from dss import cli
from dss.errors import InputError
from dss.experiments import compare_photos as comparison
from dss.experiments.compare import Truth, chosen, plot, results, save, summary, table
from dss.experiments.presets import PRESETS
from dss.rendering.modes import check_request

VIEWS = "views"  # the preset of surfaces from photos


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("--preset", default="quick", help=f"methods, meshes and measurement: {', '.join(PRESETS)}, {VIEWS}")
    options.add_argument("--methods", nargs="+", help="only these: of the preset, or full-length ones of configs/")
    options.add_argument("--meshes", nargs="+", help="files, or ids of meshes in DATA/thingi32 (default: the preset's)")
    options.add_argument("--data", type=Path, default=os.environ.get("DSS_DATA"), help="the folder of data sets, see data/README.md")
    options.add_argument("--out", type=Path, help="folder of the results (default: runs/compare_PRESET)")
    options.add_argument("--resolution", type=int, help="marching-cubes cells per edge (default: the preset's)")
    options.add_argument("--views", type=int, help="of each SSIM protocol (default: the preset's)")
    options.add_argument("--size", type=int, help="pixels per side of a view (default: the preset's)")
    options.add_argument("--scenes", nargs="+", default=["chair_400"], help=f"of {VIEWS}: folders, or names in DATA/nerf_synthetic")
    options.add_argument("--every", type=int, default=1, help=f"of {VIEWS}: every n-th test photo only")
    args = options.parse_args()
    if args.preset == VIEWS:
        compare_views(args)
        return
    if args.preset not in PRESETS:
        near = difflib.get_close_matches(args.preset, [*PRESETS, VIEWS], 1, 0)[0]
        raise InputError(f"--preset {args.preset}: no such preset; did you mean {near}? There are {', '.join(PRESETS)}, {VIEWS}")
    preset = PRESETS[args.preset]
    entries = chosen(args.methods, preset.entries) if args.methods else preset.entries
    asked = {key: value for key in ("resolution", "views", "size") if (value := getattr(args, key)) is not None}
    request = replace(preset.request, **asked)
    check_request(request.views, request.size)
    paths = [find(name, args.data) for name in args.meshes or preset.meshes]
    out = args.out or Path("runs", f"compare_{args.preset}")

    done, failed = [], []
    progress = tqdm(total=(len(entries) + 1) * len(paths), desc="compare", disable=None)
    for name, mesh, result in results([Truth(), *entries], paths, out, request, cli.pick_device(args.device)):
        progress.set_postfix_str(f"{name}, {mesh}")
        progress.update()
        (failed if isinstance(result, str) else done).append((name, mesh, result))
    progress.close()

    parts = []
    for title, names in (preset.tables if preset.tables and not args.methods else {"": [entry.name for entry in entries]}).items():
        part = [row for row in done if row[0] in (Truth().name, *names)]
        parts += [f"**{title}**\n"] if title else []
        parts += [table(summary(part, preset.published or {})), ""]
    settings = f"Means over {len(paths)} meshes: {', '.join(path.stem for path in paths)}. Times are of one core."
    parts += [settings, *([preset.note] if request == preset.request and not args.methods else [])]
    parts += [f"Not measured: {reason}" for _, _, reason in failed]
    means = summary(done, preset.published or {})
    save(out, done, means, "\n".join(parts))
    plot(out, means)
    print("\n".join(parts))
    print(f"next: look at {out / 'rate_distortion.png'} and {out / 'table.md'}")


def compare_views(args: argparse.Namespace) -> None:
    """Samplers and base models against the photos of scenes."""
    out, scenes = args.out or Path("runs", f"compare_{VIEWS}"), [find(name, args.data, "nerf_synthetic/{}") for name in args.scenes]
    found = comparison.rows(args.methods or comparison.TINY, scenes, out, args.every, cli.pick_device(args.device))
    comparison.save(out, found)
    print(comparison.tables(found))
    print(f"next: look at {out / 'views.md'}; python render.py {out / 'neus_spheres_tiny' / scenes[0].name} --mode shell")


def find(name: str, data: Path | None, place: str = "thingi32/{}.ply") -> Path:
    """The mesh file or scene folder that `name` is, or that it names in the data folder."""
    if Path(name).exists():
        return Path(name)
    if data is None:
        raise InputError(f"{name}: no such file, and no folder of data sets; name it with --data, or set DSS_DATA")
    path = data / place.format(name)
    if not path.exists():
        raise InputError(f"{path}: not there; name others, or see data/README.md")
    return path


if __name__ == "__main__":
    cli.run(main)
