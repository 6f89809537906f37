"""Does an installed wheel work by itself? Imports dss and kernels, builds the operators and asks
one of them.

pip install --target site dist/dss-*.whl && cd /tmp && PYTHONPATH=site python check_wheel.py
"""

from pathlib import Path

import torch

import dss
import kernels
from dss import ops
from kernels import build


def main() -> None:
    roots = {Path(package.__file__).parents[1] for package in (dss, kernels)}
    checkout = [root for root in roots if (root / "train.py").exists()]
    if checkout:
        raise SystemExit(f"{checkout[0]}: the checkout was imported in place of the wheel")
    page = Path(dss.__file__).parent / "experiments" / "report.html"
    if not page.is_file():
        raise SystemExit(f"{page}: the template of the report is missing in the wheel")
    found = build.load()["cpu"]
    shell = ops.pack(torch.zeros(1, 3), torch.tensor([0.5]), torch.tensor([1.0]))
    intervals = ops.shell_intervals(
        shell, torch.tensor([[-2.0, 0, 0]]), torch.tensor([[1.0, 0, 0]])
    )
    if (
        not found.startswith("compiled")
        or intervals.start.tolist() != [1.0]
        or intervals.stop.tolist() != [1.5]
    ):
        raise SystemExit(f"the wheel's operators do not work: {found}, {intervals}")
    print(f"the wheel works: operators {found}")


if __name__ == "__main__":
    main()
