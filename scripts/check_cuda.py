"""Are the operators right on this machine's GPU? One line per operator and case.

    python scripts/check_cuda.py parity.npz --record           on a machine with all of dss, once
    PYTHONPATH=. python scripts/check_cuda.py parity.npz       on the machine with the GPU

Checking needs torch and numpy alone, and nvcc. The file holds what every operator was asked and
what it gave on a CPU, in 32 bits. Here the library is compiled, every operator is compared with the
file, with products of 32 and of 16 bits, and compute-sanitizer, where there is one, looks for wrong
accesses to memory and for races. The exit code is 1 if anything is wrong.
"""

import sys
from itertools import chain
from pathlib import Path

import torch

from dss import cli
from dss.experiments import parity, sanitizer


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("file", type=Path, help="the recorded results")
    options.add_argument("--record", action="store_true", help="make the file")
    args = options.parse_args()
    if args.record:
        parity.record(args.file)
        print(f"next: check_cuda.py {args.file}, on the machine with the GPU")
        return
    device, failed = cli.pick_device(args.device), 0
    tools = sanitizer.checks(args.file) if device.type == "cuda" else ()
    for name, check in chain(parity.checks(args.file, device), tools):
        failed += bool(fault := check())
        print(f"FAIL  {name}: {fault}" if fault else f"pass  {name}", flush=True)
    print(f"{failed} failed" if failed else "all passed", f"(torch {torch.__version__}, {device})")
    sys.exit(bool(failed))


if __name__ == "__main__":
    cli.run(main)
