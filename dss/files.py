"""Files that are what they seem: written whole or not at all, and read where they are files."""

import os
import re
import tempfile
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

    The temporary name keeps the suffix, because many writers choose their format by it. What a
    killed process left of an earlier try is removed, too.
    Raises InputError where the folder cannot be written, the disk is full, or the name is no text
    in this locale, which the writers in native code need.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, path)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError, UnicodeEncodeError) as error:
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


def remove_stale(folder: Path, target: Path | None = None) -> None:
    """Remove the temporary files in `folder`, of `target` alone if it is given, of processes that
    are gone: they were killed while they wrote. One of our own number is of an earlier process, as
    nothing is being written now."""
    for path in folder.iterdir():
        found = TEMPORARY.fullmatch(path.name)
        own = target is None or (found and path.name == f".{target.stem}.{found[1]}{target.suffix}")
        if found and own and not _runs_elsewhere(int(found[1])):
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


@contextmanager
def unicode_name(path: Path | str) -> Iterator[str]:
    """The path of a file for readers in native code, which take Unicode alone: that of a link in a
    temporary folder where the file's own name is no text in this locale."""
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, "file").with_suffix(ascii(path.suffix).strip("'"))
            link.symlink_to(path.resolve())
            yield str(link)
    else:
        yield str(path)
