"""Hostile meshes, configurations, runs, coded fields, clouds, scenes and weights, for minutes.

    python scripts/fuzz.py --minutes 20 --seed 1

Prints each case that goes wrong, then a table: tried, traceback, wrong exit code, hang of more than
30 s, silently wrong, input or results lost. The exit code is 1 if anything went wrong. Needs the
packages of the extra `test`, and a checkout: the cases are those of tests/fuzz.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/ is no part of the package

from tests.fuzz.campaign import campaign
from tests.fuzz.judge import Case, Verdict, report


def show(case: Case, verdict: Verdict) -> None:
    if verdict.outcome:
        print(f"{verdict.outcome}: {case.kind}: {case.what}: {verdict.detail}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=20, help="how long (default: 20)")
    options.add_argument("--seed", type=int, default=0, help="of the cases (default: 0)")
    args = options.parse_args()
    tried = campaign(args.minutes, args.seed, show)
    print(report(tried))
    sys.exit(any(verdict.outcome for _, verdict in tried))


if __name__ == "__main__":
    main()
