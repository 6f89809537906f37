import resource
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from dss.errors import InputError
from dss.files import replacing


@contextmanager
def full_disk():
    """No file may grow beyond 4 KiB: to a writer that is a full disk, an error amid a write.

    This is no fixture, because the limit would still hold while pytest reports, and would end its
    own output where that goes to a file.
    """
    limits, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_into_a_new_folder(tmp_path):
    with replacing(tmp_path / "a" / "b.txt") as temporary:
        assert temporary.parent == tmp_path / "a" and temporary.suffix == ".txt"
        temporary.write_text("new")
    assert names(tmp_path / "a") == ["b.txt"] and (tmp_path / "a/b.txt").read_text() == "new"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(str(path)) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
    assert path.read_text() == "half"
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half again")
        1 / 0  # noqa: B018
    assert path.read_text() == "half" and names(tmp_path) == ["file.txt"]


WRITERS = {
    "text": lambda path: path.write_text("x" * 100_000),
    "arrays": lambda path: np.savez(path.open("wb"), a=np.random.default_rng(0).random(100_000)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_nothing_half_written(tmp_path, write):
    path = tmp_path / "file.bin"
    path.write_text("old")
    refusal = pytest.raises(
        InputError, match="file.bin: cannot be written .*[Ff]ile too large.*free some space"
    )
    with refusal, full_disk(), replacing(path) as temporary:
        write(temporary)
    assert path.read_text() == "old" and names(tmp_path) == ["file.bin"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.txt", tmp_path / "folder", tmp_path / ("x" * 300 + ".txt")):
        with pytest.raises(InputError, match="cannot be written"), replacing(path) as temporary:
            temporary.write_text("x")
    assert names(tmp_path) == ["file", "folder"]
