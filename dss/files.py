"""Files that are what they seem: written whole or not at all, and read where they are files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from dss.errors import InputError


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


def is_file(path: Path | str) -> bool:
    """Whether a regular file is there: no folder, and no pipe or device, which may never end.

    False too where the name is too long or otherwise impossible, which Path's own method raises.
    """
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there; False too where the name is impossible, as `is_file`."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False
