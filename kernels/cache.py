"""Folders for compiled code: what is loaded from one runs, so no one else may write to it."""

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path


@functools.cache
def cache_folder(name: str) -> Path:
    """A writable folder for compiled code that belongs to this user alone.

    It is ~/.cache/dss/NAME, else dss-UID/NAME in the system's temporary folder, and where neither
    can be used, or someone else made it, a new folder for this process alone. Raises OSError where
    nothing can be written.
    """
    for root in _roots():
        with contextlib.suppress(OSError):
            folder = root.parent.resolve() / root.name / name
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            above = all(is_safe(parent, shared=True) for parent in folder.parents[1:])
            if above and is_safe(folder.parent) and is_safe(folder) and os.access(folder, os.W_OK):
                return folder
    folder = Path(tempfile.mkdtemp(prefix="dss-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def is_safe(path: Path, owners: tuple[int, ...] = (), shared: bool = False) -> bool:
    """Whether a folder or a file is no link, and only this user or one of `owners` can change it.

    `shared` is for folders above one's own: they may also be root's, and everyone may write to them
    where the sticky bit keeps others' entries as they are. False where there is nothing.
    """
    try:
        found = path.lstat()
    except OSError:
        return False
    plain = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    owned = found.st_uid in (os.getuid(), *owners, *([0] if shared else []))
    closed = not found.st_mode & 0o022 or (shared and bool(found.st_mode & stat.S_ISVTX))
    return plain and owned and closed


def _roots() -> list[Path]:
    roots = []
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry among the system's users
        roots.append(Path.home() / ".cache" / "dss")
    with contextlib.suppress(OSError):  # no temporary folder
        roots.append(Path(tempfile.gettempdir()) / f"dss-{os.getuid()}")
    return [root for root in roots if root.is_absolute()]
