"""Meshes, workers and drivers of sweeps come to harm: nothing is lost, nothing is repeated."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from dss.errors import InputError
from dss.experiments.executors import LocalExecutor, open_executor
from dss.experiments.status import NAME, read_status
from dss.experiments.sweep import sweep
from dss.registry import load_config
from tests.experiments.workers import GB, drive, work

LONG = 400.0  # seconds that anything may take on a busy machine


def rows(out: Path) -> list[tuple[str, str, int]]:
    """All rows of the table, also those that later ones replace."""
    if not (out / NAME).is_file():
        return []
    connection = sqlite3.connect(out / NAME)
    with suppress(sqlite3.OperationalError):  # not made yet
        return connection.execute("SELECT mesh, status, attempts FROM outcomes").fetchall()
    return []


def begun(out: Path) -> list[tuple[str, int, int]]:
    """The processes that began: mesh, number, and that of the parent."""
    file = out / "begun.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [(name, int(own), int(parent)) for name, own, parent in map(str.split, lines)]


def until(condition) -> None:
    """Wait for what will be."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def start_driver(out: Path, names: list[str], address: str = "") -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.experiments.workers", str(out), address, *names]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": paths})


def test_each_end_has_its_status(tmp_path):
    names = ["ok", "raises", "dies", "lost", "hungry", "endless"]
    drive(tmp_path, names[:5], memory_limit=1.5 * GB)
    drive(tmp_path, names, time_limit=2.0)
    found = {outcome.mesh: outcome for outcome in read_status(tmp_path)}
    assert {name: outcome.status for name, outcome in found.items()} == {
        "ok": "ok",
        "raises": "crashed",
        "dies": "crashed",
        "lost": "ok",
        "hungry": "out_of_memory",
        "endless": "timed_out",
    }
    assert "ZeroDivisionError: as the test asked" in found["raises"].reason
    assert "SIGSEGV" in found["dies"].reason and "last words" in found["dies"].reason
    attempts = {name: outcome.attempts for name, outcome in found.items()}
    assert attempts == {"ok": 1, "raises": 1, "dies": 2, "lost": 2, "hungry": 1, "endless": 1}
    assert found["hungry"].peak_memory > 1.5 * GB and "1.5 GB" in found["hungry"].reason
    assert found["endless"].seconds >= 2 and "2 s" in found["endless"].reason
    assert found["endless"].warnings == ["a warning"] and found["endless"].about == "a mesh"
    lines = (tmp_path / "status.csv").read_text().splitlines()
    assert lines[0].startswith("mesh,path,status,reason,") and "seconds_mesh" in lines[0]
    assert not any(map(is_alive, [own for _, own, _ in begun(tmp_path)]))

    drive(tmp_path, names)  # nothing is left to do
    assert len(begun(tmp_path)) == 8
    drive(tmp_path, names, retry=["timed_out"], time_limit=1.0)
    assert [name for name, _, _ in begun(tmp_path)[8:]] == ["endless"]
    assert Counter(name for name, _, _ in rows(tmp_path))["endless"] == 2
    assert [outcome.mesh for outcome in read_status(tmp_path)][-1] == "endless"


def test_a_driver_that_is_killed_goes_on(tmp_path):
    names = [f"slow_{number}" for number in range(5)]
    driver = start_driver(tmp_path, names)
    until(lambda: len(rows(tmp_path)) >= 2 and len(begun(tmp_path)) > len(rows(tmp_path)))
    with pytest.raises(InputError, match="another sweep is at work"):
        drive(tmp_path, names)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = rows(tmp_path)
    until(lambda: not any(is_alive(own) for _, own, _ in begun(tmp_path)))
    drive(tmp_path, names)
    after = rows(tmp_path)
    assert after[: len(before)] == before and len(before) < len(names)
    assert sorted(name for name, _, _ in after) == names  # each has one row
    assert Counter((tmp_path / "ended.txt").read_text().split()) == Counter(names)
    # A row says how often its mesh was begun, and those that had ended were not begun again
    assert Counter(name for name, _, _ in begun(tmp_path)) == {name: n for name, _, n in after}
    assert {status for _, status, _ in after} == {"ok"}


def test_a_worker_that_is_killed_is_replaced(tmp_path):
    driver = start_driver(tmp_path, ["slow_0", "slow_1", "slow_2"])
    until(lambda: begun(tmp_path))
    name, own, _ = begun(tmp_path)[0]
    os.kill(own, signal.SIGKILL)
    assert driver.wait(LONG) == 0
    found = {name: (status, attempts) for name, status, attempts in rows(tmp_path)}
    assert found.pop(name) == ("ok", 2) and set(found.values()) == {("ok", 1)}


def test_an_outcome_outlives_a_driver_that_never_saw_it(tmp_path):
    """Killed between the end of a mesh and its row."""
    drive(tmp_path, ["ok_1"])
    (tmp_path / NAME).rename(tmp_path / "before.sqlite")
    folder = tmp_path / ".work" / "ok_1"
    folder.mkdir()
    (folder / "outcome.json").write_text('{"mesh": "ok_1", "path": "ok_1.ply", "status": "ok"}')
    drive(tmp_path, ["ok_1"])
    assert rows(tmp_path) == [("ok_1", "ok", 0)] and len(begun(tmp_path)) == 1
    assert not folder.exists()


def test_rows_are_only_added(tmp_path):
    drive(tmp_path, ["ok_1"])
    connection = sqlite3.connect(tmp_path / NAME)
    for statement in ("DELETE FROM outcomes", "UPDATE outcomes SET status = 'ok'"):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            connection.execute(statement)


def test_what_a_folder_refuses(tmp_path):
    drive(tmp_path, ["ok_1"])
    config, executor = load_config("tiny"), LocalExecutor(1)
    other = load_config("tiny", ["fit.epochs=3"])
    moved = Path("elsewhere/ok_1.ply")
    for what, meshes, reason in (
        (other, [Path("ok_1.ply")], "another configuration"),
        (config, [moved], "has ok_1.ply under this name"),
        (config, [moved, Path("ok_1.ply")], "'ok_1'"),
        (config, [Path("..")], r"'\.\.'"),
        (config, [], "no mesh"),
    ):
        with pytest.raises(InputError, match=reason):
            list(sweep(what, meshes, tmp_path, executor, work=work))
    (tmp_path / NAME).write_bytes(b"no table" * 200)
    with pytest.raises(InputError, match="damaged"):
        read_status(tmp_path)
    with pytest.raises(InputError, match="no sweep"):
        read_status(tmp_path / "other")


def test_a_mesh_that_the_machine_cannot_hold():
    with pytest.raises(InputError, match="--memory-limit 1e.06"):
        open_executor(memory=1e15, device="cpu")
    with pytest.raises(InputError, match="--cpus-per-task 9999"):
        open_executor(cpus=9999, device="cpu")
    with pytest.raises(InputError, match="--gpus-per-task 1"):
        open_executor(gpus=1.0, device="cpu")
