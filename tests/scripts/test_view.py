"""What scripts/view.py refuses, in one line."""

import sys

import pytest


def test_three_things(script):
    code, _, error = script("scripts.view", "a", "b", "c")
    assert code == 2 and "name one, or two" in error


def test_nothing_there(script, tmp_path):
    pytest.importorskip("viser")
    code, _, error = script("scripts.view", tmp_path / "none.ply")
    assert code == 2 and "none.ply" in error and len(error.splitlines()) == 1


def test_without_viser(script, ball_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.delitem(sys.modules, "dss.viewer.server", raising=False)
    code, _, error = script("scripts.view", ball_run)
    assert code == 2 and "viser: not installed" in error and ".[view]" in error
