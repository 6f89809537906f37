"""The tracer in eager torch finds what the operators find; clock, stages and table are right."""

import json
import math
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
from dss.rendering.cameras import paper_cameras
from dss.rendering.isosurface import extract
from dss.shell.dual_shell import DualShell
from dss.tables import table

CPU = torch.device("cpu")
PAPER = {"local": False, "octaves": 6, "activation": "leaky_relu", "output": "tanh"}
PAPER |= {"owner": "smallest"}
PLAIN = NeuralImplicitSettings(layers=1, width=8)
TRIANGLES = ["triangles", "triangles, one thread", "triangles of equal bytes"]
PAPERS = [f"paper, {how}" for how in ("compiled intervals", "torch.compile", "all pairs")]
TRACERS = [*PAPERS, "loose", "exact", "reference", *TRIANGLES]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(timing, "MAX_RUNS", 3)
    monkeypatch.setattr(benchmark, "extract", lambda field: extract(field, 64))
    # takes half a minute, and is torch's affair
    monkeypatch.setattr(torch, "compile", lambda field, dynamic: field)


def field(**options):
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(40, generator=generator) * 0.1 + 0.1
    shell = DualShell(torch.rand(40, 3, generator=generator) - 0.5, inner, inner + 0.05)
    torch.manual_seed(0)
    settings = DualShellSettings(latent=4, width=16, **options)
    return build(settings, shell.geometry).requires_grad_(False)


def subject(made) -> benchmark.Subject:
    """A field with its own zero set for the true mesh."""
    mesh = extract(made, 64)
    return benchmark.Subject(made, MeshDistance(mesh.vertices, mesh.faces))


def camera(size):
    return paper_cameras(size, 1)[0]


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
    made = subject(field(output="radial"))
    rows = dict(benchmark.measure(made, camera(48)))
    assert list(rows) == TRACERS
    first = rows["paper, compiled intervals"]
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
    same = [[rows[name][key] for name in PAPERS] for key in ("queries", "depth", "wrong")]
    for values in same:  # one algorithm, three ways to run it
        assert values == pytest.approx([values[0]] * 3, rel=0.02)


def test_depths_are_those_of_the_true_mesh():
    """Triangles that are the truth have no error; a field in a mesh that is moved has one."""
    made = subject(field(output="radial"))
    rows = dict(benchmark.measure(made, camera(48)))
    assert rows["triangles"]["depth"] < 1e-6 and rows["triangles"]["wrong"] < 0.01
    assert rows["triangles"]["hits"] == rows["triangles, one thread"]["hits"]
    assert 1e-6 < rows["exact"]["depth"] < 1e-2 and rows["exact"]["wrong"] < 0.05
    ahead = camera(48).pose[:3, 2].numpy() * 0.02
    for sign in (-1, 1):
        truth = MeshDistance(made.truth.vertices + sign * ahead, made.truth.faces)
        row = dict(benchmark.measure(benchmark.Subject(made.field, truth), camera(48)))["triangles"]
        assert 0.015 < row["depth"] < 0.04


def test_a_mesh_of_equal_bytes(ball, monkeypatch):
    made = benchmark.Subject(field(output="radial"), MeshDistance(ball.vertices, ball.faces))
    monkeypatch.setattr(benchmark, "_scene", lambda *mesh: mesh)
    vertices, faces = made.decimated
    size = sum(made.field.storage().values())
    assert 0.9 * size < 12 * len(vertices) + 12 * len(faces) <= 1.1 * size


def test_what_does_not_remain_is_not_available(monkeypatch):
    """A stage that is left with less than nothing is not clamped to zero."""
    monkeypatch.setattr(benchmark, "timed", lambda call, _: ({"total": 1.0}, call()))
    made, rays = field(output="radial"), camera(16).rays()
    rays = [tensor.contiguous() for tensor in rays]
    row, _ = benchmark._operator(torch.ops.dss, made, rays, made.owner_rule, True, False)
    assert math.isnan(row["stepping"])
    assert "n/a" in table({"exact": row}, benchmark.COLUMNS)


def test_medians_and_quartiles():
    rows = [{"total": total, "ratio": 10 / total, "hits": 5} for total in (1.0, 2.0, 5.0)]
    summary = benchmark.summary(rows)
    assert (summary["total"], summary["total_low"], summary["total_high"]) == (2, 1.5, 3.5)
    assert (summary["ratio"], summary["ratio_low"], summary["ratio_high"]) == (5, 3.5, 7.5)
    assert summary["hits"] == 5


def test_meshes_and_views_are_summed_up_together(monkeypatch):
    monkeypatch.setattr(
        benchmark, "measure", lambda made, camera: [("exact", {"total": made, "ratio": 1.0})]
    )
    fields = [("a", 1.0), ("a", 3.0), ("b", 7.0)]
    said = []
    rows = benchmark.benchmark(fields, [16], 2, said.append)
    assert {name: row["total"] for name, row in rows.items()} == {
        "a, 16x16, exact": 2.0, "b, 16x16, exact": 7.0,
    }  # fmt: skip
    assert len(said) == 6


@pytest.mark.parametrize("settings", [NglodSettings(lods=2, width=16, features=2), PLAIN])
def test_rivals_are_timed_like_with_like(box, settings, monkeypatch):
    """Compiled beside compiled and eager beside eager, with the queries of each."""
    geometry = {}
    if isinstance(settings, NglodSettings):
        config, distance = MeshConfig(field=settings), MeshDistance(box.vertices, box.faces)
        geometry = NglodField.build_geometry(box, distance, config)
    torch.manual_seed(0)
    made = build(settings, geometry).requires_grad_(False)
    with torch.no_grad():
        list(made.parameters())[-1].zero_()
    truth = MeshDistance(box.vertices, box.faces)
    monkeypatch.setattr(benchmark, "extract", lambda _: box)
    rows = dict(benchmark.measure(benchmark.Subject(made, truth), camera(24)))
    if not geometry:
        assert list(rows) == ["bracketed in eager torch", *TRIANGLES]
        return
    assert list(rows) == ["octree in eager torch", "octree", *TRIANGLES]
    eager, compiled = rows["octree in eager torch"], rows["octree"]
    assert compiled["per_ray"] > 0
    assert eager["per_ray"] == pytest.approx(compiled["per_ray"], rel=0.02)
    assert compiled["total"] < eager["total"]


def test_the_eager_field_computes_what_the_operator_does():
    made = field(**PAPER)
    points, owner = torch.rand(100, 3) - 0.5, torch.randint(40, (100,))
    stopwatch = benchmark.Stopwatch(CPU)
    eager = benchmark.Eager(made, made, stopwatch)
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
    options = ["--networks", "fast", "--spheres", 40, "--sizes", 16, "--views", 2]
    code, out, error = script(
        "scripts.benchmark", "demo", *options, "--json", tmp_path / "rows.json"
    )
    assert code == 0, error
    lines = out.splitlines()
    assert "CUDA" in lines[0] and lines[-1].endswith("rows.json")
    done = [f"{name} done, view {view}" for view in (0, 1) for name in TRACERS]
    assert lines[1 : 1 + len(done)] == done
    columns, _, *rows = lines[1 + len(done) : -1]
    assert len(rows) == len(TRACERS) and len({line.count("|") for line in (columns, *rows)}) == 1
    missing = {column.key for column in benchmark.COLUMNS if column.heading not in columns}
    assert missing == {"rounding"}  # of CUDA only
    stored = json.loads((tmp_path / "rows.json").read_text())
    assert [name.removeprefix("fast, S = 40, 16x16, ") for name in stored] == TRACERS
