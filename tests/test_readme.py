"""README's section on adding a method, tried word by word."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import dss.fields
from dss.evaluation.measure import measure_run
from dss.fields import METHODS, Field
from dss.pipeline import fit_run
from dss.plugins import discover
from dss.registry import PLUGINS, load_config
from dss.run import open_run

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^`([\w./]+)`\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = ["samples.count=40000", "fit.epochs=4", "fit.resample=4", "fit.batch_size=512"]
MAX_LINES = 150


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The three files of the example in folders of their own, and the method known to the rest."""
    section = README.read_text().partition("\n## Adding a method\n")[2].partition("\n## ")[0]
    files = {}
    for name, text in BLOCK.findall(section):
        files[name] = tmp_path / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text)
    expected = ["dss/fields/plain.py", "configs/plain.yaml", "tests/fields/test_plain.py"]
    assert list(files) == expected

    folders = [*dss.fields.__path__, str(tmp_path / "dss" / "fields")]
    monkeypatch.setattr(dss.fields, "__path__", folders)
    importlib.invalidate_caches()
    found = discover(dss.fields, Field)
    monkeypatch.setitem(METHODS, "plain", found["plain"])
    monkeypatch.setitem(PLUGINS["field"], "plain", found["plain"].Settings)
    yield files
    sys.modules.pop("dss.fields.plain")


def test_the_example_is_fitted_and_measured(written, tmp_path, ball, fewer_points):
    ball.export(tmp_path / "ball.ply")
    path = written["configs/plain.yaml"]
    config = load_config(path, TINY, str(tmp_path / "ball.ply"))
    assert config.field.method == "plain" and config.field.width == 64
    run = fit_run(config, tmp_path / "run")
    metrics = measure_run(run, resolution=48).metrics
    assert metrics["surface_mean"] < 0.02 and metrics["iou_uniform"] > 0.9
    assert metrics["bytes"] == 4 * (4 * 64 + 65) < metrics["file_bytes"]
    points = torch.rand(100, 3)
    assert torch.equal(open_run(tmp_path / "run").field.sdf(points), run.field.sdf(points))


def test_its_own_test_passes(written):
    names = {}
    exec(compile(written["tests/fields/test_plain.py"].read_text(), "test_plain.py", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= MAX_LINES
