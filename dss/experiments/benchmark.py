"""How long one view takes, and how right it is: a published algorithm in torch, the operators, and
casts of triangles."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from dss import ops, pipeline
from dss.errors import InputError
from dss.experiments.timing import clock, timed
from dss.fields.base import Field
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.geometry.simplify import simplify
from dss.ops import reference
from dss.registry import load_config
from dss.rendering.cameras import Camera, paper_cameras
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
FACE_BYTES = (
    18  # of a closed mesh: three integers per face, and half as many vertices, 32 bits each
)
STAGES = ("preparation", "query", "stepping", "normals")
COLUMNS = (
    *(Column(stage, stage, ".1f") for stage in STAGES),
    Column("total", "total ms", ".1f"),
    Column("total_low", "25 %", ".1f"),
    Column("total_high", "75 %", ".1f"),
    Column("cpu", "CPU ms", ".1f"),
    Column("per_ray", "queries / ray", ".2f"),
    Column("rate", "Mqueries/s", ".2f"),
    Column("steps", "steps", ".2f"),
    Column("hits", "hits", ",.0f"),
    Column("wrong", "wrong hits %", ".2f", 100),
    Column("depth", "depth error", ".1e"),
    Column("rounding", "16-bit depth error", ".1e"),
    Column("memory", "MB", ".0f"),
    Column("ratio", "times faster", ".1f"),
    Column("ratio_low", "25 % ", ".1f"),
    Column("ratio_high", "75 % ", ".1f"),
)

Row = dict[str, float]
Measured = tuple[Row, Tensor]  # and the depths (n,) of the rays, inf on a miss


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
    meshes: Sequence[str], named: Iterable[tuple[str, int]], folder: Path, device: torch.device
) -> Iterator[tuple[str, "Subject"]]:
    """`fitted_field` of each network and number of spheres to each mesh, with a name."""
    for name, count in named:
        for mesh in meshes:
            field = fitted_field(mesh, name, count, folder / Path(mesh).stem, device)
            yield f"{name}, S = {count}", Subject.of(field, mesh)


def run_fields(folders: Iterable[Path], device: torch.device) -> Iterator[tuple[str, "Subject"]]:
    """The fields of finished runs; those whose folders lie in one folder have its name. Raises
    InputError."""
    for folder in folders:
        run = open_run(folder, device)
        if not isinstance(run, MeshRun):
            raise InputError(f"{folder}: a surface from photos, not a field of a mesh")
        settings = run.config.mesh
        subject = Subject.of(
            run.field.requires_grad_(False), run.source.path, settings.radius, settings.repair
        )
        yield folder.resolve().parent.name, subject


@dataclass(frozen=True)
class Subject:
    """A field and the mesh that it was fitted to, with what tracers are given beforehand."""

    field: Field
    truth: MeshDistance

    @classmethod
    def of(cls, field: Field, path: str, *settings: object) -> "Subject":
        mesh = load_mesh(path, *settings)
        return cls(field, MeshDistance(mesh.vertices, mesh.faces))

    @cached_property
    def compiled(self) -> Callable:
        """The field by torch.compile, as it was fitted."""
        return torch.compile(self.field, dynamic=True)

    @cached_property
    def decoded(self) -> object:
        """A scene of Embree's with the field's mesh."""
        mesh = extract(self.field)
        return _scene(mesh.vertices, mesh.faces)

    @cached_property
    def decimated(self) -> object:
        """A scene of Embree's with the true mesh, in as many bytes as the field."""
        mesh = trimesh.Trimesh(self.truth.vertices, self.truth.faces, process=False)
        mesh = simplify(mesh, max(4, sum(self.field.storage().values()) // FACE_BYTES))
        return _scene(mesh.vertices, mesh.faces)


def benchmark(
    fields: Iterable[tuple[str, Subject]],
    sizes: Sequence[int],
    views: int,
    report: Callable[[str], None],
) -> dict[str, Row]:
    """The `summary` of every tracer, by the name of the field, the size of the pictures and the
    tracer; meshes of one name, and views, are summed up together. `report` hears what is done."""
    rows: dict[str, list[Row]] = {}
    for (name, subject), size in product(fields, sizes):
        for view, camera in enumerate(paper_cameras(size, views)):
            for tracer, row in measure(subject, camera):
                rows.setdefault(f"{name}, {size}x{size}, {tracer}", []).append(row)
                report(f"{tracer} done, view {view}")
    return {name: summary(of_one) for name, of_one in rows.items()}


@torch.no_grad()
def measure(subject: Subject, camera: Camera) -> Iterator[tuple[str, Row]]:
    """The rows of all tracers, by name, for one view.

    `ratio` is to the first one's total, which is the strongest reference, and `per_ray` the mean
    of the network's queries, without those for normals. `wrong` is the number of rays that hit the
    field and not the mesh, or the other way round, as a share of those that hit the mesh; `depth`
    is the mean error of the depths of the rays that hit both. On CUDA the operators multiply in 16
    bits, as frames are traced.
    """
    field = subject.field
    rays = [tensor.contiguous() for tensor in camera.rays(device=field.device)]
    true = subject.truth.raycast(*(tensor.cpu() for tensor in rays))[0]
    tracers = (_shell_tracers if field.shell else _other_tracers)(subject, rays)
    tracers |= {
        "triangles": lambda: _triangles(subject.decoded, rays),
        "triangles, one thread": lambda: _triangles(subject.decoded, rays, 1),
        "triangles of equal bytes": lambda: _triangles(subject.decimated, rays),
    }
    first = None
    for name, tracer in tracers.items():
        row, t = tracer()
        first = first or row["total"]
        t = t.cpu()
        hit, expected = t.isfinite(), true.isfinite()
        row |= {"hits": int(hit.sum()), "ratio": first / row["total"]}
        row["wrong"] = float((hit != expected).sum() / expected.sum())
        row["depth"] = float((t - true)[hit & expected].abs().mean())
        if row.get("queries"):
            row["rate"] = row["queries"] / row["total"] / 1e3
            row["per_ray"] = row["queries"] / len(rays[0])
        yield name, row


def summary(rows: Sequence[Row]) -> Row:
    """The medians of rows of one tracer, meshes and views together, with quartiles of `total` and
    `ratio`."""
    result = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
    for key in ("total", "ratio"):
        low, high = np.quantile([row[key] for row in rows], [0.25, 0.75])
        result |= {f"{key}_low": float(low), f"{key}_high": float(high)}
    return result


def _shell_tracers(subject: Subject, rays: list[Tensor]) -> dict[str, Callable[[], Measured]]:
    field = subject.field
    exact = (field, rays, field.owner_rule, True, False)
    return {
        "paper, compiled intervals": lambda: _paper(field, field, rays, ops.shell_intervals),
        "paper, torch.compile": lambda: _compiled_paper(subject, rays),
        "paper, all pairs": lambda: _paper(field, field, rays, all_pairs),
        "loose": lambda: _operator(torch.ops.dss, field, rays, "every", False, True),
        "exact": lambda: _rounded(field, rays, _operator(torch.ops.dss, *exact)),
        "reference": lambda: _operator(reference, *exact, stages=False),
    }


def _compiled_paper(subject: Subject, rays: list[Tensor]) -> Measured:
    """The paper's tracer with the field by torch.compile, which compiles while it runs at first."""
    field = subject.field
    trace_paper(Eager(field, subject.compiled, Stopwatch(field.device)), *rays)
    return _paper(field, subject.compiled, rays, ops.shell_intervals)


def _rounded(field: Field, rays: list[Tensor], measured: Measured) -> Measured:
    return measured[0] | rounding(field, *rays), measured[1]


def _other_tracers(subject: Subject, rays: list[Tensor]) -> dict[str, Callable[[], Measured]]:
    """The field's own tracer, else the common one: in eager torch and, where it is, compiled."""
    field = subject.field

    def run() -> Measured:
        used, hits = timed(lambda: trace_fastest(field, *rays), field.device)
        return used | {"queries": int(hits.steps.sum())}, hits.t

    def run_eagerly() -> Measured:
        with ops.eager():
            return run()

    name = field.hit_rule or BRACKETED
    tracers = {f"{name} in eager torch": run_eagerly}
    return tracers | ({name: run} if is_compiled(field) else {})


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
    """A field in plain torch, as `forward`, its module or what that was compiled to, computes it
    while it is fitted."""

    def __init__(self, field: Field, forward: Callable, stopwatch: Stopwatch):
        super().__init__(field.shell, field.owner_rule)
        self.timed = stopwatch("queries", forward)

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


def _paper(field: Field, forward: Callable, rays: list[Tensor], intervals: Callable) -> Measured:
    """The paper's tracer in torch. Its stages are those of the run whose total is the median."""
    runs = []

    def run() -> PaperHits:
        stopwatch = Stopwatch(field.device)
        eager, start = Eager(field, forward, stopwatch), clock(field.device)
        hits = trace_paper(
            eager,
            *rays,
            intervals=stopwatch("preparation", intervals),
            differences=stopwatch("normals", central_differences),
        )
        runs.append((clock(field.device) - start, stopwatch.spent))
        return hits

    used, hits = timed(run, field.device)
    total, spent = sorted(runs[1:] or runs, key=lambda run: run[0])[max(0, len(runs) - 2) // 2]
    row = used | {
        "preparation": spent["preparation"],
        "query": spent["queries"] - spent["normals"],
        "stepping": total - spent["preparation"] - spent["queries"],
        "normals": spent["normals"],
        "total": total,
        "queries": int(hits.steps.sum()),
        "steps": float(hits.steps.sum() / hits.marched.sum()),
    }
    return row, hits.t


def _operator(
    where: object,
    field: Field,
    rays: list[Tensor],
    rule: str,
    exact: bool,
    everywhere: bool,
    stages: bool = True,
) -> Measured:
    """`shell_trace`, and its stages as operators of their own; `where` has the operators by name.

    What remains of the total for `stepping` is NaN, not available, where nothing does: the stages
    are fused, and each is slower by itself.
    """
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
    row = used | {"queries": queries, "steps": steps}
    if not stages:
        return row, traced.t
    points, owner = (rays[0] + traced.t[:, None] * rays[1])[hit], traced.sphere[hit]
    repeated = torch.arange(queries, device=device) % len(points)
    asked = points[repeated], owner[repeated]
    parts = {
        "preparation": lambda: where.shell_intervals(*shell, *rays, number),
        "query": lambda: where.shell_field(shell.spheres, *network, *asked, False),
        "normals": lambda: where.shell_field(shell.spheres, *network, points, owner, True),
    }
    spent = {name: timed(part, device)[0]["total"] for name, part in parts.items()}
    rest = row["total"] - sum(spent.values())
    return row | spent | {"stepping": rest if rest > 0 else float("nan")}, traced.t


def _scene(vertices: np.ndarray, faces: np.ndarray) -> object:
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.astype("float32"), faces.astype("int32"))
    return scene


def _triangles(scene: object, rays: list[Tensor], threads: int | None = None) -> Measured:
    """Embree, on as many threads as torch uses."""
    threads = threads or torch.get_num_threads()
    origins, directions = (np.array_split(tensor.cpu().numpy(), threads) for tensor in rays)
    with ThreadPoolExecutor(threads) as pool:

        def cast() -> list[dict]:
            return list(pool.map(lambda o, d: scene.run(o, d, output=True), origins, directions))

        used, found = timed(cast, torch.device("cpu"))
    t, face = (np.concatenate([part[key] for part in found]) for key in ("tfar", "primID"))
    return used, torch.from_numpy(np.where(face >= 0, t, np.inf).astype(np.float32))
