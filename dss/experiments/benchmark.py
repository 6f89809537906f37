"""How long one view takes: a published algorithm in eager torch, the operators, and a cast of the
decoded triangles."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dss import ops, pipeline
from dss.errors import InputError
from dss.experiments.timing import clock, timed
from dss.fields.base import Field
from dss.ops import reference
from dss.registry import load_config
from dss.rendering.cameras import paper_cameras
from dss.rendering.hit_rules import BRACKETED, is_compiled, trace_fastest
from dss.rendering.isosurface import extract
from dss.rendering.tracing import MAX_BRACKET, rounding, tracing_network
from dss.rendering.tracing_paper import PaperHits, central_differences, trace_paper
from dss.run import MeshRun, open_run
from dss.tables import Column

NETWORKS = {"1x128": "dss_1x128", "2x128": "dss_2x128", "4x128": "dss_4x128", "fast": "fast"}
SHORT = {  # fits that are good enough for the rays to need as many steps as in a long one
    "dss": ["samples.count=50000", "fit.batch_size=8192", "fit.schedule=cosine"],
    "fast": ["samples.count=300000", "fit.epochs=10", "fit.resample=10"],
}
MAX_PAIRS = 1 << 18  # of rays and spheres that the paper's algorithm holds at once
STAGES = ("preparation", "query", "stepping", "normals")
COLUMNS = (
    *(Column(stage, stage, ".1f") for stage in STAGES),
    Column("total", "total ms", ".1f"),
    Column("cpu", "CPU ms", ".1f"),
    Column("per_ray", "queries / ray", ".2f"),
    Column("rate", "Mqueries/s", ".2f"),
    Column("steps", "steps", ".2f"),
    Column("hits", "hits", ",.0f"),
    Column("rounding", "16-bit depth error", ".1e"),
    Column("memory", "MB", ".0f"),
    Column("ratio", "times faster", ".1f"),
)

Row = dict[str, float]


def fitted_field(
    mesh: str, name: str, count: int, folder: Path, device: torch.device,
    overrides: tuple[str, ...] = (),
) -> Field:  # fmt: skip
    """The field of a network (one of NETWORKS) and a number of spheres, from its run folder or
    fitted into it, with further settings."""
    settings = SHORT["fast" if name == "fast" else "dss"] + [f"spheres.count={count}"]
    if name != "fast":  # a point has more owners where there are more spheres
        epochs = min(10, max(2, 5120 // count))
        settings += [f"fit.epochs={epochs}", f"fit.resample={epochs}"]
    config = load_config(NETWORKS[name], [*settings, *overrides], mesh)
    return pipeline.fit_run(config, folder / f"{name}_{count}", device).field.requires_grad_(False)


def fitted_fields(
    mesh: str, named: Iterable[tuple[str, int]], folder: Path, device: torch.device
) -> Iterator[tuple[str, Field]]:
    """`fitted_field` of each network and number of spheres, with a name."""
    for name, count in named:
        yield f"{name}, S = {count}", fitted_field(mesh, name, count, folder, device)


def run_fields(folders: Iterable[Path], device: torch.device) -> Iterator[tuple[str, Field]]:
    """The fields of finished runs, with their folders for names. Raises InputError."""
    for folder in folders:
        run = open_run(folder, device)
        if not isinstance(run, MeshRun):
            raise InputError(f"{folder}: a surface from photos, not a field of a mesh")
        yield str(folder), run.field.requires_grad_(False)


@torch.no_grad()
def measure(field: Field, size: int) -> Iterator[tuple[str, Row]]:
    """The rows of all tracers, by name, for one view of size x size pixels; `ratio` is to the first
    one's total, and `per_ray` the mean of the network's queries, without those for normals. On CUDA
    the operators multiply in 16 bits, as frames are traced."""
    rays = [tensor.contiguous() for tensor in paper_cameras(size, 1)[0].rays(device=field.device)]
    tracers = (_shell_tracers if field.shell else _other_tracers)(field, rays)
    first = None
    for name, tracer in tracers.items():
        row = tracer()
        first = first or row["total"]
        if row.get("queries"):
            row["rate"] = row["queries"] / row["total"] / 1e3
            row["per_ray"] = row["queries"] / len(rays[0])
        yield name, row | {"ratio": first / row["total"]}


def _shell_tracers(field: Field, rays: list[Tensor]) -> dict[str, Callable[[], Row]]:
    exact = (field, rays, field.owner_rule, True, False)
    return {
        "paper in eager torch": lambda: _eager(field, rays),
        "paper": lambda: _operator(torch.ops.dss, field, rays, "every", False, True),
        "exact": lambda: _operator(torch.ops.dss, *exact) | rounding(field, *rays),
        "triangles": lambda: _triangles(field, rays),
        "reference": lambda: _operator(reference, *exact, stages=False),
    }


def _other_tracers(field: Field, rays: list[Tensor]) -> dict[str, Callable[[], Row]]:
    """The field's own tracer, else the common one: in eager torch and, where it is, compiled."""

    def run() -> Row:
        used, hits = timed(lambda: trace_fastest(field, *rays), field.device)
        return used | {"queries": int(hits.steps.sum()), "hits": int(hits.hit.sum())}

    def run_eagerly() -> Row:
        with ops.eager():
            return run()

    name = field.hit_rule or BRACKETED
    tracers = {f"{name} in eager torch": run_eagerly}
    if is_compiled(field):
        tracers[name] = run
    return tracers | {"triangles": lambda: _triangles(field, rays)}


class Stopwatch:
    """Wraps functions so that the milliseconds that each takes are added up under a name."""

    def __init__(self, device: torch.device):
        self.device, self.spent = device, {}

    def __call__(self, name: str, function: Callable) -> Callable:
        def wrapped(*arguments: object, **options: object) -> object:
            start = clock(self.device)
            result = function(*arguments, **options)
            self.spent[name] = self.spent.get(name, 0.0) + clock(self.device) - start
            return result

        return wrapped


class Eager(Field):
    """A field in plain torch, as its module computes it while it is fitted."""

    def __init__(self, field: Field, stopwatch: Stopwatch):
        super().__init__(field.shell, field.owner_rule)
        self.field = field
        self.timed = stopwatch("queries", field)

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        with torch.enable_grad():  # the parameters are frozen, so nothing is recorded
            return self.timed(points, owner)


def all_pairs(shell: ops.Shell, origins: Tensor, directions: Tensor) -> ops.Intervals:
    """The paper's interval kernel in eager torch: every ray against every sphere, by matrix
    products (docs/method.md, section 7). Where an interval ends is not asked for, so `end` is
    `start`."""
    centers, squares = shell.spheres[:, :3].T.contiguous(), shell.spheres[:, 3:].square().T
    chunk, parts = MAX_PAIRS // len(shell.spheres), []
    for first in range(0, len(origins), chunk):
        o, d = (tensor[first : first + chunk] for tensor in (origins, directions))
        middle = d @ centers - (o * d).sum(1, keepdim=True)
        distances = (
            o.square().sum(1, keepdim=True) + shell.spheres[:, :3].square().sum(1) - 2 * o @ centers
        )
        across = distances - middle.square()
        inner, outer = (middle - (square - across).clamp(min=0).sqrt() for square in squares)
        meets_inner, meets_outer = (across < square for square in squares)
        stop = torch.where(meets_inner & (inner > 0), inner, torch.inf).amin(1)
        ray, sphere = (meets_outer & (outer > 0) & (outer < stop[:, None])).nonzero(as_tuple=True)
        parts.append((ray + first, outer[ray, sphere], sphere, stop))
    ray, start, sphere, stop = (torch.cat(part) for part in zip(*parts, strict=True))
    offsets = torch.bincount(ray, minlength=len(origins)).cumsum(0)
    return ops.Intervals(torch.nn.functional.pad(offsets, (1, 0)), start, start, sphere, stop)


def _eager(field: Field, rays: list[Tensor]) -> Row:
    """The paper's tracer in eager torch. Its stages are those of the run whose total is the
    median."""
    runs = []

    def run() -> PaperHits:
        stopwatch = Stopwatch(field.device)
        eager, start = Eager(field, stopwatch), clock(field.device)
        hits = trace_paper(
            eager,
            *rays,
            intervals=stopwatch("preparation", all_pairs),
            differences=stopwatch("normals", central_differences),
        )
        runs.append((clock(field.device) - start, stopwatch.spent))
        return hits

    used, hits = timed(run, field.device)
    total, spent = sorted(runs[1:] or runs, key=lambda run: run[0])[max(0, len(runs) - 2) // 2]
    return used | {
        "preparation": spent["preparation"],
        "query": spent["queries"] - spent["normals"],
        "stepping": total - spent["preparation"] - spent["queries"],
        "normals": spent["normals"],
        "total": total,
        "queries": int(hits.steps.sum()),
        "steps": float(hits.steps.sum() / hits.marched.sum()),
        "hits": int(hits.hit.sum()),
    }


def _operator(
    where: object,
    field: Field,
    rays: list[Tensor],
    rule: str,
    exact: bool,
    everywhere: bool,
    stages: bool = True,
) -> Row:
    """`shell_trace`, and its stages as operators of their own; `where` has the operators by
    name."""
    shell, network, number, device = (
        field.shell.packed,
        tracing_network(field),
        ops.RULES.index(rule),
        field.device,
    )
    arguments = (*shell, *network, *rays, number, exact, everywhere, MAX_BRACKET if exact else 1e-5)
    used, result = timed(lambda: where.shell_trace(*arguments), device)
    traced = ops.Traced(*result)
    hit, queries = traced.sphere >= 0, int(traced.steps.sum())
    steps = queries / max(1, int(traced.intervals.sum()))
    row = used | {"queries": queries, "steps": steps, "hits": int(hit.sum())}
    if not stages:
        return row
    points, owner = (rays[0] + traced.t[:, None] * rays[1])[hit], traced.sphere[hit]
    repeated = torch.arange(queries, device=device) % len(points)
    asked = points[repeated], owner[repeated]
    parts = {
        "preparation": lambda: where.shell_intervals(*shell, *rays, number),
        "query": lambda: where.shell_field(shell.spheres, *network, *asked, False),
        "normals": lambda: where.shell_field(shell.spheres, *network, points, owner, True),
    }
    spent = {name: timed(part, device)[0]["total"] for name, part in parts.items()}
    return row | spent | {"stepping": max(0.0, row["total"] - sum(spent.values()))}


def _triangles(field: Field, rays: list[Tensor]) -> Row:
    """Embree on the decoded mesh, built before."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    mesh, scene = extract(field), rtcore_scene.EmbreeScene()
    TriangleMesh(scene, mesh.vertices.astype("float32"), mesh.faces.astype("int32"))
    arrays = [tensor.cpu().numpy() for tensor in rays]
    used, found = timed(lambda: scene.run(*arrays, output=True), torch.device("cpu"))
    return used | {"hits": int((found["primID"] >= 0).sum())}
