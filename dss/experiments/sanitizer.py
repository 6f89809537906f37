"""What NVIDIA's compute-sanitizer finds while the operators run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def sanitized(path: Path, limit: float = 300) -> Iterator[tuple[str, str]]:
    """Each tool, and what it found wrong in the operators on the inputs that `parity.record` wrote
    at `path`; empty where nothing is. A tool has `limit` seconds; one that takes longer says
    nothing, and is left out, as they all are where they are not installed."""
    if not (program := shutil.which(PROGRAM)):
        return
    root = os.pathsep.join(part for part in sys.path if part)
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", "1", sys.executable, "-c", CALL]
        try:
            ran = subprocess.run(
                [*command, str(path), str(FEW)],
                capture_output=True,
                text=True,
                timeout=limit,
                env={**os.environ, "PYTHONPATH": root},
            )
        except subprocess.TimeoutExpired:
            continue
        last = [f"exit code {ran.returncode}", *ran.stdout.strip().splitlines()][-1]
        yield f"{PROGRAM} {tool}", last if ran.returncode else ""
