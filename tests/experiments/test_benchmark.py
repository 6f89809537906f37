"""The tracer in eager torch finds what the operators find; clock, stages and table are right."""

import json
import time

import pytest
import torch
from torch.nn.functional import normalize

from dss import ops
from dss.config import MeshConfig
from dss.experiments import benchmark, timing
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.fields.neural_implicit import NeuralImplicitSettings
from dss.fields.nglod import NglodField, NglodSettings
from dss.geometry.distance import MeshDistance
from dss.rendering.isosurface import extract
from dss.shell.dual_shell import DualShell

CPU = torch.device("cpu")
PAPER = {"local": False, "octaves": 6, "activation": "leaky_relu", "output": "tanh"}
PAPER |= {"owner": "smallest"}
PLAIN = NeuralImplicitSettings(layers=1, width=8)
TRACERS = ["paper in eager torch", "paper", "exact", "triangles", "reference"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(timing, "MAX_RUNS", 3)
    monkeypatch.setattr(benchmark, "extract", lambda field: extract(field, 64))


def field(**options):
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(40, generator=generator) * 0.1 + 0.1
    shell = DualShell(torch.rand(40, 3, generator=generator) - 0.5, inner, inner + 0.05)
    torch.manual_seed(0)
    settings = DualShellSettings(latent=4, width=16, **options)
    return build(settings, shell.geometry).requires_grad_(False)


def test_the_eager_tracer_meets_the_spheres_that_the_operator_meets():
    shell = field().shell.packed
    origins = normalize(torch.randn(500, 3), dim=1) * 3
    directions = normalize(0.3 * torch.randn(500, 3) - origins, dim=1)
    mine = benchmark.all_pairs(shell, origins, directions)
    theirs = ops.shell_intervals(shell, origins, directions)
    same = mine.offsets.diff() == theirs.offsets.diff()
    assert same.float().mean() > 0.99  # the others touch a sphere
    both = mine.stop.isfinite() & theirs.stop.isfinite()
    assert ((mine.stop - theirs.stop).abs() < 1e-3)[both].all()
    for i in same.nonzero()[:, 0].tolist():
        a, b = (
            set(part.sphere[part.offsets[i] : part.offsets[i + 1]].tolist())
            for part in (mine, theirs)
        )
        assert a == b


def test_stages_add_up_and_hits_agree():
    rows = dict(benchmark.measure(field(output="radial"), 48))
    assert list(rows) == TRACERS
    first = rows["paper in eager torch"]
    for row in rows.values():
        assert row["total"] > 0 and row["memory"] >= 0
        assert row["ratio"] == pytest.approx(first["total"] / row["total"])
    stages = [first[name] for name in benchmark.STAGES]
    assert min(stages) >= 0 and sum(stages) == pytest.approx(first["total"], rel=0.2)
    exact, reference = rows["exact"], rows["reference"]
    assert exact["hits"] == reference["hits"] > 300
    assert abs(exact["hits"] - rows["triangles"]["hits"]) < 0.05 * exact["hits"]
    assert exact["queries"] < reference["queries"]
    assert all(row["per_ray"] == row["queries"] / 48**2 for row in rows.values() if "rate" in row)
    assert exact["rate"] == pytest.approx(exact["queries"] / exact["total"] / 1e3)


@pytest.mark.parametrize("settings", [NglodSettings(lods=2, width=16, features=2), PLAIN])
def test_rivals_are_timed_like_with_like(box, settings):
    """Compiled beside compiled and eager beside eager, with the queries of each."""
    geometry = {}
    if isinstance(settings, NglodSettings):
        config, distance = MeshConfig(field=settings), MeshDistance(box.vertices, box.faces)
        geometry = NglodField.build_geometry(box, distance, config)
    torch.manual_seed(0)
    made = build(settings, geometry).requires_grad_(False)
    with torch.no_grad():
        list(made.parameters())[-1].zero_()
    rows = dict(benchmark.measure(made, 24))
    if not geometry:
        assert list(rows) == ["bracketed in eager torch", "triangles"]
        return
    assert list(rows) == ["octree in eager torch", "octree", "triangles"]
    eager, compiled = rows["octree in eager torch"], rows["octree"]
    assert compiled["per_ray"] > 0
    assert eager["per_ray"] == pytest.approx(compiled["per_ray"], rel=0.02)
    assert compiled["total"] < eager["total"]


def test_the_eager_field_computes_what_the_operator_does():
    made = field(**PAPER)
    points, owner = torch.rand(100, 3) - 0.5, torch.randint(40, (100,))
    stopwatch = benchmark.Stopwatch(CPU)
    eager = benchmark.Eager(made, stopwatch)
    with torch.no_grad():
        expected = made(points, owner)
        torch.testing.assert_close(eager(points, owner), expected, atol=1e-6, rtol=0)
    assert stopwatch.spent["queries"] > 0


def test_a_stopwatch_adds_up():
    stopwatch = benchmark.Stopwatch(CPU)
    sleeping = stopwatch("sleep", lambda seconds: time.sleep(seconds) or seconds)
    assert sleeping(0.02) == 0.02 and sleeping(0.03) == 0.03
    assert 45 < stopwatch.spent["sleep"] < 1000


def test_clock_and_memory():
    def work() -> torch.Tensor:
        time.sleep(0.02)
        return torch.ones(5_000_000)

    row, result = timing.timed(work, CPU)
    assert 15 < row["total"] < 500 and row["cpu"] < row["total"] + 100
    assert 15 < row["memory"] < 60 and len(result) == 5_000_000


def test_a_field_is_fitted_briefly_and_only_once(tmp_path, monkeypatch):
    asked = []

    def fit_run(config, folder, device):
        asked.append((config, folder))
        return type("Run", (), {"field": field()})

    monkeypatch.setattr(benchmark.pipeline, "fit_run", fit_run)
    for name, count in (("2x128", 512), ("fast", 128)):
        benchmark.fitted_field("a.ply", name, count, tmp_path, CPU)
    (paper, folder), (fast, _) = asked
    assert folder == tmp_path / "2x128_512" and paper.mesh.path == "a.ply"
    assert (paper.spheres.count, paper.field.layers, paper.fit.epochs) == (512, 2, 10)
    assert paper.samples.method == "pairs" and paper.samples.count == 50_000
    assert (fast.spheres.count, fast.fit.epochs, fast.samples.count) == (128, 10, 300_000)


def test_command_line(tmp_path, monkeypatch, script):
    monkeypatch.setattr(benchmark, "fitted_field", lambda *_: field(output="radial"))
    options = ["--networks", "fast", "--spheres", 40, "--sizes", 16]
    code, out, error = script(
        "scripts.benchmark", "demo", *options, "--json", tmp_path / "rows.json"
    )
    assert code == 0, error
    lines = out.splitlines()
    assert "CUDA" in lines[0] and lines[-1].endswith("rows.json")
    assert lines[1 : 1 + len(TRACERS)] == [f"{name} done" for name in TRACERS]
    columns, _, *rows = lines[1 + len(TRACERS) : -1]
    assert len(rows) == len(TRACERS) and len({line.count("|") for line in (columns, *rows)}) == 1
    missing = {column.key for column in benchmark.COLUMNS if column.heading not in columns}
    assert missing == {"rounding"}  # of CUDA only
    stored = json.loads((tmp_path / "rows.json").read_text())
    assert [name.removeprefix("fast, S = 40, 16x16, ") for name in stored] == TRACERS
