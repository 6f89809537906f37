"""What NVIDIA's compute-sanitizer finds while the operators run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dss.experiments.parity import Check

PROGRAM = "compute-sanitizer"
TOOLS = ("memcheck", "racecheck", "synccheck")
FEW = 200  # rays and points: everything takes a hundred times as long
CALL = """
import sys
from pathlib import Path
import torch
from dss.experiments import parity
parity.call(Path(sys.argv[1]), torch.device("cuda"), int(sys.argv[2]))
torch.cuda.synchronize()
"""


def checks(path: Path, limit: float = 300) -> Iterator[Check]:
    """A check for each tool, of the operators on the inputs that `parity.record` wrote at `path`;
    none where it is not installed. A tool has `limit` seconds; not to
    be done by then is a fault, too, for it says nothing."""
    if program := shutil.which(PROGRAM):
        for tool in TOOLS:
            yield f"{PROGRAM} {tool}", partial(_fault, program, tool, path, limit)


def _fault(program: str, tool: str, path: Path, limit: float) -> str:
    command = [program, "--tool", tool, "--error-exitcode", "1", sys.executable, "-c", CALL]
    root = os.pathsep.join(part for part in sys.path if part)
    try:
        ran = subprocess.run(
            [*command, str(path), str(FEW)],
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "PYTHONPATH": root},
        )
    except subprocess.TimeoutExpired:
        return f"not done after {limit:.0f} s"
    last = [f"exit code {ran.returncode}", *ran.stdout.strip().splitlines()][-1]
    return last if ran.returncode else ""
