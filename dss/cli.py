"""What the scripts share: the common options, the device, progress on the terminal, and the way to
end on bad input."""

import argparse
import io
import sys
from collections.abc import Callable

import torch
from tqdm import tqdm

from dss.errors import InputError
from dss.progress import Event


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every script has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute (default: auto)",
    )
    return result


def pick_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`. Raises InputError where CUDA is asked for and
    absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch sees no CUDA device; use --device cpu, or install a CUDA build "
            "of torch"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def given(args: argparse.Namespace, *names: str) -> dict[str, object]:
    """Those of the named options that the command line gave a value; the functions have the
    defaults of the others."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    """Raise InputError where one of the named options is given: it does not apply to `what`."""
    for name in given(args, *names):
        raise InputError(f"--{name.replace('_', '-')}: does not apply to {what}; leave it out")


class Terminal:
    """Shows events: a finished stage as a line, an unfinished one as a bar (quiet where there is no
    terminal)."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.stage = ""  # of the bar

    def __call__(self, event: Event) -> None:
        if event.done == event.total == 1:
            self.close()
            print(f"{event.stage:<9} {event.text}")
            return
        if event.stage != self.stage:
            self.close()
        if self.bar is None:
            self.bar = tqdm(total=event.total, desc=event.stage, disable=None, leave=False)
            self.stage = event.stage  # tqdm forgets it where there is no terminal
        self.bar.update(event.done - self.bar.n)
        self.bar.set_postfix_str(event.text)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def run(main: Callable[[], None]) -> None:
    """Call `main`; turn bad input into one line on stderr and exit code 2, an interrupt into exit
    code 130."""
    # names that the terminal cannot show, of files or in a locale of ASCII, are shown escaped
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except InputError as error:
        # one line, whatever a library's message held
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)
