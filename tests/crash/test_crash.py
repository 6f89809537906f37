"""Runs that are killed end as undisturbed ones; scripts/crash_test.py has many more of them."""

from pathlib import Path

from tests.crash.engine import KINDS, Engine, differences


def test_runs_that_are_killed(tmp_path):
    """In one test, because the engine imports much when it starts."""
    engine, kinds = Engine(tmp_path / "runs"), {kind.name: kind for kind in KINDS}
    kills, differing = engine.round(kinds["train, photos"], "1")
    assert kills and not differing
    for name in ("train, points", "train, weights", "render, photos"):
        kills, differing = engine.round_at_writes(kinds[name])
        assert kills >= 2 and not differing, name


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
