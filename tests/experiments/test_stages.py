"""Measurements that are cut keep what they have, and go on."""

import json
import os
import signal
import time

import pytest

from dss.errors import InputError
from dss.experiments import stages
from dss.experiments.stages import Stage

ABOUT = {"device": "an abacus"}


def stage(name, *rows, limit=60.0, needs=()):
    """A stage of rows (name, function)."""
    work = [(row, lambda left, make=make: make()) for row, make in rows]
    return Stage(name, limit, needs, lambda bench: iter(work))


def run(out, *parts, minutes=10.0):
    return stages.run(parts, lambda: None, out, ABOUT, minutes, lambda text: None)["stages"]


def fails():
    raise RuntimeError("CUDA error: unspecified\n launch failure")


def refuses():
    raise InputError("no photos")


def dies():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_start_makes_only_what_is_missing(tmp_path):
    out, asked = tmp_path / "out.json", tmp_path / "asked"

    def counted(value):
        asked.write_text(asked.read_text() + "." if asked.exists() else ".")
        return {"value": value}

    rows = [("a", lambda: counted(1)), ("b", lambda: counted(2))]
    first = run(out, stage("one", rows[0], ("b", fails), ("c", lambda: counted(3))))
    assert first["one"]["rows"] == {"a": {"value": 1}, "c": {"value": 3}}
    assert first["one"]["failed"] == {"b": "RuntimeError: CUDA error: unspecified launch failure"}
    again = run(out, stage("one", *rows, ("c", lambda: counted(4))))
    assert again["one"]["rows"] == {"a": {"value": 1}, "b": {"value": 2}, "c": {"value": 3}}
    assert again["one"]["failed"] == {} and asked.read_text() == "..."
    assert json.loads(out.read_text()) == {"about": ABOUT, "stages": again}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [(lambda: time.sleep(60), "its time ended at b"), (dies, "it died (-15) at b")],
)
def test_a_stage_that_hangs_or_dies_keeps_its_rows_and_the_next_one_runs(tmp_path, trouble, reason):
    bad = stage("bad", ("a", lambda: {"value": 1}), ("b", trouble), limit=3)
    good = stage("good", ("c", lambda: {"value": 2}))
    start = time.monotonic()
    measured = run(tmp_path / "out.json", bad, good)
    assert time.monotonic() - start < 30
    assert measured["bad"]["rows"] == {"a": {"value": 1}} and measured["bad"]["reason"] == reason
    assert measured["good"]["rows"] == {"c": {"value": 2}} and not measured["good"]["reason"]


def test_no_stage_begins_after_the_end(tmp_path):
    slow = stage("slow", ("a", lambda: time.sleep(60)), limit=600)
    measured = run(tmp_path / "out.json", slow, stage("late", ("b", dict)), minutes=0.01)
    assert measured["late"]["rows"] == {} == measured["slow"]["rows"]
    assert measured["late"]["reason"] == "its time ended at its start"


def test_what_is_skipped_says_why(tmp_path):
    rows = [("a", dict)]
    measured = run(
        tmp_path / "out.json", stage("one", *rows, needs=("json", "not_there")),
        stage("two", ("b", refuses)),
    )  # fmt: skip
    assert measured["one"]["reason"] == "skipped: no not_there here"
    assert measured["two"]["reason"] == "skipped: no photos"


def test_another_machine_or_file_is_refused(tmp_path):
    out = tmp_path / "out.json"
    run(out, stage("one", ("a", dict)))
    with pytest.raises(InputError, match="abacus.*choose another --out"):
        stages.run((), dict, out, {"device": "another"})
    for text in ("{", "[]", '{"about": {}, "stages": {}}', '{"about": {"a": "b"}, "stages": [1]}'):
        out.write_text(text)
        with pytest.raises(InputError, match="out.json: not what was measured"):
            stages.known(out)
    assert stages.known(tmp_path / "none.json") is None
