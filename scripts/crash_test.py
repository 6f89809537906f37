"""Kill runs at random times, resume them, and compare them bit for bit with undisturbed ones.

    python scripts/crash_test.py --rounds 100 --seed 1

A round is one command: train, eval, eval_ssim, render, sweep or compare, on tiny inputs. It is
killed with SIGKILL up to four times, started again each time, and left to end. Every file must then
be that of an undisturbed run, apart from times, and none may be left over. The table is printed and
written to --out; files that differ are kept there. The exit code is 1 if there are any.
"""

import os
import sys
from pathlib import Path

from dss import cli
from dss.files import replacing

os.environ.setdefault("OMP_NUM_THREADS", "1")  # faster for what is so small


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("--rounds", type=int, default=100, help="how many (default: 100)")
    options.add_argument("--seed", type=int, default=1, help="of the times (default: 1)")
    options.add_argument("--kinds", nargs="+", help="only these kinds of runs (default: all)")
    options.add_argument("--out", type=Path, default=Path("runs/crash_test"), help="the folder")
    args = options.parse_args()
    with cli.importing():
        from tqdm import tqdm

        from dss.tables import Column, table
        from tests.crash.engine import KINDS, Engine

    kinds = [kind for kind in KINDS if not args.kinds or kind.name in args.kinds]
    rows, failures, engine = {}, [], Engine(args.out)
    for number in tqdm(range(args.rounds), "rounds", disable=None):
        kind = kinds[number % len(kinds)]
        kills, differing = engine.round(kind, f"{args.seed}-{number}")
        row = rows.setdefault(kind.name, {"rounds": 0, "kills": 0, "equal": 0})
        row["rounds"] += 1
        row["kills"] += kills
        row["equal"] += not differing
        failures += [f"{kind.name}, {args.seed}-{number}: {name} differs" for name in differing]
    rows["all"] = {
        key: sum(row[key] for row in rows.values()) for key in ("rounds", "kills", "equal")
    }
    columns = [Column(key, key.replace("equal", "bit-equal"), "d") for key in rows["all"]]
    text = "\n".join([table(rows, columns), *failures])
    print(text)
    with replacing(args.out / "table.md") as temporary:
        temporary.write_text(text + "\n")
    print(f"next: look at {args.out / 'table.md'}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    cli.run(main)
