"""What the scripts share: the common options, the device, and the way to end on bad input."""

import argparse
import sys
from collections.abc import Callable

import torch

from dss.errors import InputError


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every script has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    return result


def pick_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`. Raises InputError where CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu, or install a CUDA build of torch")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn bad input into one line on stderr and exit code 2, an interrupt into exit code 130."""
    try:
        main()
    except InputError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # one line, whatever a library's message held
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)
