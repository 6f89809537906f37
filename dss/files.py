"""Writing files so that a reader never sees half of one."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from dss.errors import InputError

TEMPORARY = re.compile(r"\..+\.(\d{1,7})(\.[^.]*)?")  # names that `replacing` makes


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on failure it is
    removed.

    The temporary name keeps the suffix, because many writers choose their format by it.
    Raises InputError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = os.strerror(error.errno) if getattr(error, "errno", None) else error
        raise InputError(
            f"{path}: cannot be written ({reason}); free some space or choose another --out"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def is_temporary(path: Path) -> bool:
    """Whether `replacing` makes such names."""
    return bool(TEMPORARY.fullmatch(path.name))


def remove_stale(folder: Path) -> None:
    """Remove the temporary files in `folder` of processes that are gone: they were killed while
    they wrote. One of our own number is of an earlier process, as nothing is being written now."""
    for path in folder.iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if found and not _runs_elsewhere(int(found[1])):
            with suppress(OSError):
                path.unlink()


def _runs_elsewhere(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)  # signal 0 asks whether it is there, and does nothing
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        return True
    return True
