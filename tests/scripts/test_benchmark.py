"""The benchmark's reference finds what the operators find, its clock and its table say what they should."""

import json
import sys
import time

import pytest
import torch
from torch.nn.functional import normalize

from dss import ops
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.rendering.isosurface import extract
from dss.shell.dual_shell import DualShell
from scripts import benchmark

PAPER = {"local": False, "octaves": 6, "activation": "leaky_relu", "output": "tanh", "owner": "smallest"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(benchmark, "RUNS", 3)
    monkeypatch.setattr(benchmark, "extract", lambda field: extract(field, 64))


def field(**options):
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(40, generator=generator) * 0.1 + 0.1
    shell = DualShell(torch.rand(40, 3, generator=generator) - 0.5, inner, inner + 0.05)
    torch.manual_seed(0)
    return build(DualShellSettings(latent=4, width=16, **options), shell.geometry).requires_grad_(False)


def test_the_reference_meets_the_spheres_that_the_operator_meets():
    shell = field().shell.packed
    origins = normalize(torch.randn(500, 3), dim=1) * 3
    directions = normalize(0.3 * torch.randn(500, 3) - origins, dim=1)
    mine, theirs = benchmark.all_pairs(shell, origins, directions), ops.shell_intervals(shell, origins, directions)
    same = mine.offsets.diff() == theirs.offsets.diff()
    assert same.float().mean() > 0.99  # the others touch a sphere
    assert ((mine.stop - theirs.stop).abs() < 1e-3)[mine.stop.isfinite() & theirs.stop.isfinite()].all()
    for i in same.nonzero()[:, 0].tolist():
        a, b = (set(part.sphere[part.offsets[i] : part.offsets[i + 1]].tolist()) for part in (mine, theirs))
        assert a == b


def test_stages_add_up_and_hits_agree():
    rows = {row.tracer: row for row in benchmark.measure("small", field(output="radial"), 48)}
    for row in rows.values():
        assert row.total > 0 and row.memory >= 0 and row.ratio == pytest.approx(rows["reference"].total / row.total)
    stages = [getattr(rows["reference"], name) for name in benchmark.STAGES]
    assert min(stages) >= 0 and sum(stages) == pytest.approx(rows["reference"].total, rel=0.2)
    assert rows["exact"].hits == rows["plain"].hits > 300 and abs(rows["exact"].hits - rows["triangles"].hits) < 0.05 * rows["exact"].hits
    assert rows["exact"].queries < rows["plain"].queries


def test_the_plain_field_computes_what_the_operator_does():
    made = field(**PAPER)
    points, owner = torch.rand(100, 3) - 0.5, torch.randint(40, (100,))
    eager = benchmark.Eager(made)
    with torch.no_grad():
        torch.testing.assert_close(eager(points, owner), made(points, owner), atol=1e-6, rtol=0)
    assert eager.queries == 100


def test_clock_and_memory():
    milliseconds, used, result = benchmark.timed(lambda: time.sleep(0.02) or torch.ones(5_000_000), torch.device("cpu"))
    assert 15 < milliseconds < 500 and used["cpu"] < milliseconds + 100 and 15 < used["memory"] < 60 and len(result) == 5_000_000


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "fitted", lambda *arguments: field(output="radial"))
    monkeypatch.setattr(
        sys,
        "argv",
        ["benchmark.py", "demo", "--networks", "fast", "--spheres", "40", "--sizes", "16", "--json", str(tmp_path / "rows.json")],
    )
    benchmark.main()
    head, columns, _, *lines, last = capsys.readouterr().out.splitlines()
    assert "CUDA" in head and last.endswith("rows.json") and len(lines) == 5
    assert {line.count("|") for line in (columns, *lines)} == {len(benchmark.COLUMNS) + 1}
    assert [row["tracer"] for row in json.loads((tmp_path / "rows.json").read_text())] == [
        "reference",
        "paper",
        "exact",
        "triangles",
        "plain",
    ]
