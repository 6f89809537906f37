"""How long one view takes: a published algorithm in eager torch, our operators, and triangles.

    python scripts/benchmark.py bunny.obj
    python scripts/benchmark.py bunny.obj --networks 1x128 2x128 4x128 fast --spheres 128 512 4096
    python scripts/benchmark.py --runs runs/dss_2x128/bunny runs/nglod_4/bunny

Fields that are missing are fitted first, for a short time, into the folder --fields, where they
stay; or --runs names fitted ones. One camera of the paper's; medians of several runs after one to
warm up; all rows in this process.

    paper in eager torch   all intervals at once, boolean masks, normals by differences
    paper                  the operator `shell_trace` by the same rules, all intervals to their ends
    exact                  the operator by the exact rule, as render.py uses it
    triangles              Embree's cast at the mesh decoded at 256 cells per axis; one thread
    reference              the operator's reference in plain torch, exact
    octree                 NGLOD's own tracer, as an operator; and in eager torch, as its reference

Queries do not count those for normals; steps are queries per interval. The operators' stages are
fused: `preparation`, `query` and `normals` are then timed as operators of their own on the same
rays and as many points, and `stepping` is what remains of the total. `CPU ms` add up all
processors; other programs, which lengthen the rest, hardly show in them. Memory is what a run takes
on top, results included. The last column divides the totals by that of the first row of the same
field and size.
"""

from itertools import product
from pathlib import Path

import torch

from dss import cli
from dss.errors import InputError
from dss.experiments.benchmark import COLUMNS, NETWORKS, fitted_fields, measure, run_fields
from dss.tables import table, write_json
from kernels import build


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("mesh", nargs="?", help="what fields are fitted to: a file, or `demo`")
    options.add_argument("--runs", nargs="+", type=Path, help="run folders of fitted fields")
    options.add_argument(
        "--fields", type=Path, default=Path("runs/benchmark"), help="run folders of the fields"
    )
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=["2x128", "fast"])
    options.add_argument("--spheres", nargs="+", type=int, default=[512, 4096])
    options.add_argument("--sizes", nargs="+", type=int, default=[512], help="pixels per side")
    options.add_argument("--json", type=Path, help="write the rows here, too")
    args = options.parse_args()
    device, rows = cli.pick_device(args.device), {}
    if bool(args.mesh) == bool(args.runs):
        raise InputError("name a mesh, or --runs of fitted fields")
    libraries = ", ".join(f"{name}: {what}" for name, what in build.load().items())
    measured = "measured" if device.type == "cuda" else "not measured"
    print(f"device {device}, {torch.get_num_threads()} threads; {libraries}; CUDA {measured}")
    if args.runs:
        fields = run_fields(args.runs, device)
    else:
        named = product(args.networks, args.spheres)
        fields = fitted_fields(args.mesh, named, args.fields / Path(args.mesh).stem, device)
    for name, field in fields:
        for size in args.sizes:
            for tracer, row in measure(field, size):
                rows[f"{name}, {size}x{size}, {tracer}"] = row
                print(f"{tracer} done", flush=True)
    print(table(rows, COLUMNS))
    if args.json:
        write_json(args.json, rows)
        print(f"next: look at {args.json}")


if __name__ == "__main__":
    cli.run(main)
