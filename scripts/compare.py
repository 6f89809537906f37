"""Compare methods: fit what is missing, measure all in one frame, and print the tables.

    python scripts/compare.py --preset quick --data DATA    every method, briefly, on three meshes
    python scripts/compare.py --preset paper --data DATA    Tables I and II of the DSS paper
    python scripts/compare.py --preset compact --data DATA  coded fields and meshes of 4 to 32 KB
    python scripts/compare.py --preset photos --data DATA   samplers and base models on photos
    python scripts/compare.py --preset geometry             base models, plain and guided
    python scripts/compare.py --preset ablations            the sphere cloud's parts
    python scripts/compare.py --methods fast nglod_3 "Draco, 11 bits" --meshes a.obj b.ply

The same command resumes. It writes table.md, table.csv and table.json, of meshes
rate_distortion.png and .svg too, and a run folder per method and mesh, to --out.
"""

import os
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from dss import cli
from dss.experiments.compare import chosen, label, means, results, save, titled
from dss.experiments.mesh_methods import find
from dss.experiments.plots import plot_rate_distortion
from dss.experiments.presets import OF_PHOTOS, PRESETS, one_table
from dss.rendering.modes import check_pictures
from dss.tables import spread_of


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument(
        "--preset", choices=PRESETS, default="quick", help="methods, data and measurement"
    )
    options.add_argument(
        "--methods", nargs="+", help="only these: of the preset, or full-length ones of configs/"
    )
    options.add_argument(
        "--meshes", "--scenes", nargs="+", help="files, or names in DATA (default: the preset's)"
    )
    options.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("DSS_DATA"),
        help="data sets, see data/README.md",
    )
    options.add_argument(
        "--out", type=Path, help="folder of the results (default: runs/compare_PRESET)"
    )
    options.add_argument(
        "--resolution", type=int, help="marching-cubes cells per edge (default: the preset's)"
    )
    options.add_argument("--views", type=int, help="of each SSIM protocol (default: the preset's)")
    options.add_argument(
        "--size", type=int, help="pixels per side of a view (default: the preset's)"
    )
    options.add_argument(
        "--every", type=int, help="of photos: every n-th test photo only (default: 1)"
    )
    args = options.parse_args()
    preset, device = PRESETS[args.preset], cli.pick_device(args.device)
    photos = preset in OF_PHOTOS
    if photos:
        cli.refuse(args, f"the preset {args.preset}", "views", "size")
    known = {entry.name: entry for entry in preset.entries}
    methods = chosen(args.methods, preset.others() | known) if args.methods else known.values()
    entries = [*preset.always, *methods]
    settings = replace(preset.settings, **cli.given(args, "resolution", "views", "size", "every"))
    check_pictures(settings.views, settings.size)
    paths = [find(name, args.data, preset.place) for name in args.meshes or preset.data]
    out = args.out or Path("runs", f"compare_{args.preset}")

    work = results(entries, paths, out, settings, device)
    found = list(tqdm(work, total=len(entries) * len(paths), desc="compare", disable=None))
    measured = [result for result in found if result.row is not None]
    tables = one_table(measured) if args.methods and not photos else preset.tabulate(measured)
    text = [titled(title, rows, preset.columns) + "\n" for title, rows in tables.items()]
    if len(paths) > 1:
        spreads = means(measured, spread_of)
        text += [titled("Standard deviation over meshes", spreads, preset.columns) + "\n"]
    text += [f"On {', '.join(map(label, paths))}. Times are of one core."]
    text += [preset.note] if settings == preset.settings and not args.methods else []
    text += [
        f"Not measured: {result.method}, {result.data}: {result.reason}"
        for result in found
        if result.row is None
    ]
    rows = {name: row for part in tables.values() for name, row in part.items()}
    save(out, measured, rows, preset.columns, "\n".join(text))
    print("\n".join(text))
    plot = out / "table.md" if photos else plot_rate_distortion(out, rows, settings)
    print(f"next: look at {plot} and {out / 'table.md'}")


if __name__ == "__main__":
    cli.run(main)
