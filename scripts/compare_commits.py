"""Is the tracer faster than that of another commit, and as right? On the CPU.

    python scripts/compare_commits.py runs/dss_2x128/53159 runs/fast/53159 --repeats 15
    python scripts/compare_commits.py runs/fast/53159 --commit HEAD~5

The kernels of the commit are compiled beside those of the working tree, and both trace the same
camera's rays in turns, in one process, by the exact rule with tolerance 1e-6. Milliseconds are
medians by the clock; `times faster` is the median of the ratios of two runs in a row, with
quartiles. `wrong` are rays whose depth is farther than 1e-5 from that of the reference in float64,
or that hit what it does not; it is slow and gets `rays checked`, evenly spread over the picture.
`hits that differ` counts all rays that hit something by one of the two tracers only.
"""

from pathlib import Path

import torch

from dss import cli
from dss.errors import InputError
from dss.experiments.commits import COLUMNS, compare, tracers
from dss.fields.dual_shell import DualShellField
from dss.rendering.cameras import paper_cameras
from dss.run import open_run
from dss.tables import table


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of fields")
    options.add_argument("--commit", default="d812043", help="to compare with")
    options.add_argument("--repeats", type=cli.positive(int), default=15, help="runs of each")
    options.add_argument("--size", type=cli.positive(int), default=512, help="pixels per side")
    options.add_argument("--checked", type=cli.positive(int), default=20_000, help="rays, about")
    args = options.parse_args()
    if args.device == "cuda":
        raise InputError("--device cuda: the commits are compared on the CPU; leave it out")
    fields = {folder: open_run(folder).field for folder in args.runs}
    for folder, field in fields.items():
        if not isinstance(field, DualShellField):
            raise InputError(f"{folder}: expected a field in a dual shell; its spheres are traced")
        field.requires_grad_(False)
    pair = tracers(args.commit)
    print(f"{args.commit} and now, {args.size}x{args.size}, {torch.get_num_threads()} threads")
    rays = paper_cameras(args.size, 1)[0].rays()
    rows = {}
    for folder, field in fields.items():
        name = f"{folder.resolve().parent.name}/{folder.resolve().name}"
        rows[name] = compare(pair, field, rays, args.repeats, args.checked)
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    cli.run(main)
