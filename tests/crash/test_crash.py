"""Runs that are killed end as undisturbed ones; scripts/crash_test.py has many more of them."""

from pathlib import Path

import pytest

from tests.crash.engine import KINDS, Engine, differences

BY_NAME = {kind.name: kind for kind in KINDS}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    return Engine(tmp_path_factory.mktemp("crash") / "runs")


@pytest.mark.parametrize("name", ["train, photos"])
def test_a_run_that_is_killed_at_random_times(engine, name):
    _, differing = engine.round(BY_NAME[name], "1")
    assert not differing


@pytest.mark.parametrize("name", ["train, points", "train, weights", "render, photos"])
def test_a_run_that_is_killed_at_each_of_its_writes(engine, name):
    kills, differing = engine.round_at_writes(BY_NAME[name])
    assert kills >= 2 and not differing


def test_what_differs_is_found(tmp_path):
    for folder, seconds in (("one", 1.5), ("other", 2.5)):
        Path(tmp_path, folder, "log").mkdir(parents=True)
        Path(tmp_path, folder, "log", folder).touch()
        Path(tmp_path, folder, "eval.json").write_text(f'{{"a": 1, "fit_seconds": {seconds}}}')
        Path(tmp_path, folder, "table.md").write_text(folder)
    assert not differences(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one" / "eval.json").write_text('{"a": 2, "fit_seconds": 1.5}')
    (tmp_path / "one" / ".b.7.png").touch()
    (tmp_path / "other" / "c.png").touch()
    assert differences(tmp_path / "one", tmp_path / "other") == [".b.7.png", "c.png", "eval.json"]
