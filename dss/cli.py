"""What the scripts share: the common options, the device, progress on the terminal, and the way to
end: on bad input, without memory, where nobody reads the output, and on Ctrl-C.

What takes long to load, such as torch, is imported where it is used: `main` of a script has begun
by then, and ends properly.
"""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

from dss.errors import InputError
from dss.progress import Event

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

Number = TypeVar("Number", int, float)

INTERRUPTED = "interrupted; the same command resumes"
# What the system says of writing where nobody reads, to a full disk, and the like
OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


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


def pick_device(name: str) -> "torch.device":
    """The torch device for `auto`, `cpu` or `cuda`. Raises InputError where CUDA is asked for and
    absent."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch sees no CUDA device; use --device cpu, or install a CUDA build "
            "of torch"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """For `type=` of an option: its value as a number of this kind, which must be above 0."""

    def number(text: str) -> Number:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse says "invalid ... value"
    return number


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
            from tqdm import tqdm

            quiet = None if sys.stderr else True  # None: where stderr is no terminal
            self.bar = tqdm(total=event.total, desc=event.stage, disable=quiet, leave=False)
            self.stage = event.stage  # tqdm forgets it where there is no terminal
        self.bar.update(event.done - self.bar.n)
        self.bar.set_postfix_str(event.text)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextmanager
def importing() -> Iterator[None]:
    """Around the imports of a script's `main`: Ctrl-C ends the process there and then.

    An exception would be lost or turned into another one in the C code of the modules that load.
    """

    def end(*_: object) -> NoReturn:
        os.write(2, f"{INTERRUPTED}\n".encode())
        os._exit(130)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(main: Callable[[], None]) -> None:
    """Call `main`, and leave with the exit code that it deserves and at most one line on stderr.

    2: bad input, no memory, or a file or the output that the system refuses; 130: Ctrl-C; 141:
    nobody reads the output any more, as where SIGPIPE ends other programs.
    """
    code = _code_of(main)
    try:
        if sys.stdout:  # None where it was closed before we began
            sys.stdout.flush()
    except OSError as error:
        code = _code_of_refusal(error)
    if code:
        sys.exit(code)


def _code_of(main: Callable[[], None]) -> int | str | None:
    """The exit code of `main`, after the line that explains it."""
    # Names that the terminal cannot show, of files or in an ASCII locale, are shown escaped.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next Ctrl-C does not wait for Python
        with suppress(OSError):
            print(INTERRUPTED, file=sys.stderr)
        return 130
    except SystemExit as end:  # argparse has said why
        return end.code
    except OSError as error:
        if not error.filename and error.errno not in OUTPUT_ERRORS:
            raise
        return _code_of_refusal(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("not enough memory for this; choose smaller sizes, or a larger machine")
    return 0


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says so. torch raises RuntimeError, on a GPU a kind of it."""
    return isinstance(error, MemoryError) or "allocate" in str(error)


def _code_of_refusal(error: OSError) -> int:
    """The exit code where the system refuses a file, or to take the output."""
    if not error.filename:  # all files have names, so it is the output
        with suppress(OSError, ValueError):  # what is still to be written has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}")


def _fail(message: str) -> int:
    """Say what is wrong, on one line whatever a library's message held; the exit code is 2."""
    with suppress(OSError):
        print("error:", " ".join(message.split()), file=sys.stderr)
    return 2
