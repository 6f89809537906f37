"""How long one view takes, and how right it is: a published algorithm, our operators, triangles.

    python scripts/benchmark.py bunny.obj dragon.obj --views 5
    python scripts/benchmark.py bunny.obj --networks 1x128 2x128 4x128 fast --spheres 128 512 4096
    python scripts/benchmark.py --runs runs/dss_2x128/* runs/nglod_4/*

Fields that are missing are fitted first, for a short time, into the folder --fields, where they
stay; or --runs names fitted ones, those of one folder together. Cameras are the paper's. Numbers
are medians over meshes and views of the medians of several runs after one to warm up, with
quartiles over meshes and views; all rows in this process.

    paper, compiled intervals  the paper's tracer in torch: boolean masks, normals by differences,
                               intervals by an operator, as the paper has a kernel for them
    paper, torch.compile       the same with its network compiled by torch.compile
    paper, all pairs           the same, every ray against every sphere in torch
    loose                      the operator `shell_trace` with the paper's rule for hits, but
                               intervals that end at inner spheres
    exact                      the operator by the exact rule, as render.py uses it
    reference                  the operator's reference in plain torch, exact
    octree                     NGLOD's own tracer, as an operator; and in eager torch
    triangles                  Embree's cast at the mesh decoded at 256 cells per axis; and at the
                               true mesh, decimated to the bytes of the field

The first row is the strongest reference: `times faster` divides its total by those of the others.
`wrong hits` and `depth error` compare with the true mesh. Queries do not count those for normals;
steps are queries per interval. The operators' stages are fused: `preparation`, `query` and
`normals` are then timed as operators of their own on the same rays and as many points; `stepping`
is what remains of the total, n/a where nothing does. `CPU ms` add up all processors, and hardly
show what other programs do. Memory is what a run takes on top, results included.
"""

from functools import partial
from itertools import product
from pathlib import Path

import torch

from dss import cli
from dss.errors import InputError
from dss.experiments.benchmark import COLUMNS, NETWORKS, benchmark, fitted_fields, run_fields
from dss.tables import table, write_json
from kernels import build


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("meshes", nargs="*", help="what fields are fitted to: files, or `demo`")
    options.add_argument("--runs", nargs="+", type=Path, help="run folders of fitted fields")
    options.add_argument("--fields", type=Path, default=Path("runs/benchmark"), help="of the fits")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=["2x128", "fast"])
    options.add_argument("--spheres", nargs="+", type=int, default=[512, 4096])
    options.add_argument("--sizes", nargs="+", type=int, default=[512], help="pixels per side")
    options.add_argument("--views", type=int, default=1, help="of each mesh")
    options.add_argument("--json", type=Path, help="write the rows here, too")
    args = options.parse_args()
    device = cli.pick_device(args.device)
    if bool(args.meshes) == bool(args.runs):
        raise InputError("name meshes, or --runs of fitted fields")
    libraries = ", ".join(f"{name}: {what}" for name, what in build.load().items())
    measured = "measured" if device.type == "cuda" else "not measured"
    print(f"device {device}, {torch.get_num_threads()} threads; {libraries}; CUDA {measured}")
    named = product(args.networks, args.spheres)
    if args.runs:
        fields = run_fields(args.runs, device)
    else:
        fields = fitted_fields(args.meshes, named, args.fields, device)
    rows = benchmark(fields, args.sizes, args.views, partial(print, flush=True))
    print(table(rows, COLUMNS))
    if args.json:
        write_json(args.json, rows)
        print(f"next: look at {args.json}")


if __name__ == "__main__":
    cli.run(main)
