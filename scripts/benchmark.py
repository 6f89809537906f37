"""How long one view takes, by the paper's algorithm in eager torch, by our operators, and by a cast of the decoded triangles.

    python scripts/benchmark.py bunny.obj
    python scripts/benchmark.py bunny.obj --networks 1x128 2x128 4x128 fast --spheres 128 512 1024 4096 --sizes 256 512 1024

Fields that are missing are fitted first, by train.py and for a short time, into the folder --fields, where they stay. One
camera of the paper's; medians of several runs after one to warm up; all rows in this process.

reference  dss/tracing_paper.py in eager torch: all intervals at once, boolean masks, normals by differences
paper      the operator `shell_trace` with the same rules, all intervals to their ends
exact      the operator with the exact rule, as render.py uses it
triangles  Embree's cast of rays at the mesh decoded at 256 cells per axis; one thread; a control
plain      the operator's reference in plain torch, exact

Steps are queries per interval. The operators' stages are fused: `preparation`, `query` and `normals` are then timed as
operators of their own on the same rays and as many points, and `stepping` is what remains of the total. `CPU ms` add up
all processors; other programs, which lengthen the rest, hardly show in them. Memory is what a run takes on top, results
included. The last column divides the totals by that of the first row of the same field and size.
"""

import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from dss import cli, ops
from dss.errors import InputError
from dss.fields.base import Field
from dss.files import replacing
from dss.ops import reference as plain
from dss.rendering import tracing_paper
from dss.rendering.cameras import paper_cameras
from dss.rendering.isosurface import extract
from dss.rendering.tracing import DEPTH
from dss.run import load_run
from kernels import build

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"1x128": "dss_1x128", "2x128": "dss_2x128", "4x128": "dss_4x128", "fast": "fast"}
SHORT = {  # fits: good enough for the rays to need as many steps as in a long one
    "dss": ["samples.count=50000", "fit.batch=8192", "fit.schedule=cosine"],
    "fast": ["samples.count=300000", "fit.epochs=10", "fit.resample=10"],
}
LONG = 10_000.0  # ms, after which three runs are enough, or the first if it alone took as long
RUNS = 7
PAIRS = 1 << 18  # of rays and spheres that the reference holds at once
STAGES = ("preparation", "query", "stepping", "normals")
COLUMNS = ("field", "S", "size", "tracer", *STAGES, "total ms", "CPU ms", "Mqueries/s", "steps", "hits", "MB", "times faster")


@dataclass(frozen=True)
class Row:
    """What one tracer took for one view."""

    field: str
    spheres: int
    size: int  # pixels per side
    tracer: str
    preparation: float  # milliseconds, as the others
    query: float
    stepping: float
    normals: float
    total: float
    cpu: float  # of all processors together
    queries: int
    steps: float  # queries per interval
    hits: int
    memory: float  # MB
    ratio: float = 1.0  # to the first row of the same field and size


def fitted(mesh: str, name: str, count: int, folder: Path, device: torch.device) -> Field:
    """The field of a network and a number of spheres, from its run folder or fitted into it."""
    run = folder / f"{name}_{count}"
    if not (run / "field.safetensors").is_file():
        settings = SHORT["fast" if name == "fast" else "dss"] + [f"spheres.count={count}"]
        if name != "fast":  # a point has more owners where there are more spheres
            epochs = min(10, max(2, 5120 // count))
            settings += [f"fit.epochs={epochs}", f"fit.resample={epochs}"]
        command = [sys.executable, ROOT / "train.py", "--config", ROOT / "configs" / f"{NETWORKS[name]}.yaml", "--mesh", mesh, "--out", run]
        if subprocess.run([*command, *settings], check=False).returncode:
            raise InputError(f"{run}: the fit failed, see above")
    return load_run(run, device).field.requires_grad_(False)


def clock(device: torch.device) -> float:
    """Milliseconds, after all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * time.perf_counter()


def timed(function: Callable[[], object], device: torch.device) -> tuple[float, dict[str, float], object]:
    """Median milliseconds of a call after a first one (of that one, where it is long); `cpu`, the processors' milliseconds,
    and `memory`, MB that the first one took on top of what was held before; the last result."""
    start, cpu = clock(device), 1e3 * time.process_time()
    result, used = memory(function, device)
    runs = [(clock(device) - start, 1e3 * time.process_time() - cpu)]
    if runs[0][0] < LONG:
        runs, begin = [], clock(device)
        while len(runs) < 3 or (len(runs) < RUNS and clock(device) - begin < LONG):
            start, cpu = clock(device), 1e3 * time.process_time()
            result = function()
            runs.append((clock(device) - start, 1e3 * time.process_time() - cpu))
    total, cpu = (statistics.median(part) for part in zip(*runs, strict=True))
    return total, {"cpu": cpu, "memory": used}, result


def memory(function: Callable[[], object], device: torch.device) -> tuple[object, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = function()
        return result, (torch.cuda.max_memory_allocated(device) - before) / 1e6
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, so that its reuse counts
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set starts anew
    before = _status("VmRSS")
    result = function()
    return result, max(0, _status("VmHWM") - before) * 1024 / 1e6


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


class Eager(Field):
    """A field in plain torch, as its module computes it while it is fitted; it counts what it is asked."""

    def __init__(self, field: Field):
        super().__init__(field.shell, field.owner_rule)
        self.field, self.queries = field, 0

    def forward(self, points: Tensor, owner: Tensor | None = None) -> Tensor:
        self.queries += len(points)
        with torch.enable_grad():  # the parameters are frozen, so nothing is recorded
            return self.field(points, owner)


class Stages:
    """Wraps functions so that the time that each takes is added up under a name."""

    def __init__(self, device: torch.device):
        self.device, self.spent = device, {}

    def __call__(self, name: str, function: Callable) -> Callable:
        def wrapped(*arguments: object, **options: object) -> object:
            start = clock(self.device)
            result = function(*arguments, **options)
            self.spent[name] = self.spent.get(name, 0.0) + clock(self.device) - start
            return result

        return wrapped


def all_pairs(shell: ops.Shell, origins: Tensor, directions: Tensor) -> ops.Intervals:
    """The paper's interval kernel in eager torch: every ray against every sphere, by matrix products (docs/method.md, section 7)."""
    centers, squares = shell.spheres[:, :3].T.contiguous(), shell.spheres[:, 3:].square().T
    parts = []
    for first in range(0, len(origins), PAIRS // len(shell.spheres)):
        o, d = (tensor[first : first + PAIRS // len(shell.spheres)] for tensor in (origins, directions))
        middle = d @ centers - (o * d).sum(1, keepdim=True)
        across = o.square().sum(1, keepdim=True) + shell.spheres[:, :3].square().sum(1) - 2 * o @ centers - middle.square()
        inner, outer = (middle - (square - across).clamp(min=0).sqrt() for square in squares)
        meets_inner, meets_outer = (across < square for square in squares)
        stop = torch.where(meets_inner & (inner > 0), inner, torch.inf).amin(1)
        ray, sphere = (meets_outer & (outer > 0) & (outer < stop[:, None])).nonzero(as_tuple=True)
        parts.append((ray + first, outer[ray, sphere], sphere, stop))
    ray, start, sphere, stop = (torch.cat(part) for part in zip(*parts, strict=True))
    offsets = torch.bincount(ray, minlength=len(origins)).cumsum(0)
    return ops.Intervals(torch.nn.functional.pad(offsets, (1, 0)), start, start, sphere, stop)  # where they end is not asked for


def reference(field: Field, origins: Tensor, directions: Tensor) -> dict[str, float]:
    """The paper's tracer in eager torch. Its stages are those of the run whose total is the median."""
    eager, device, runs = Eager(field), field.device, []

    def run() -> tracing_paper.PaperHits:
        stages, eager.queries = Stages(device), 0
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(tracing_paper.ops, "shell_intervals", stages("preparation", all_pairs)))
            stack.enter_context(mock.patch.object(tracing_paper, "_differences", stages("normals", tracing_paper._differences)))
            stack.enter_context(mock.patch.object(eager, "forward", stages("all queries", eager.forward)))
            start = clock(device)
            hits = tracing_paper.trace_paper(eager, origins, directions)
            total = clock(device) - start
        runs.append((total, stages.spent))
        return hits

    _, used, hits = timed(run, device)
    total, spent = sorted(runs[1:] or runs, key=lambda run: run[0])[max(0, len(runs) - 2) // 2]
    return {
        "preparation": spent["preparation"], "query": spent["all queries"] - spent["normals"],
        "stepping": total - spent["preparation"] - spent["all queries"], "normals": spent["normals"], "total": total,
        "queries": eager.queries, "steps": float(hits.steps.sum() / hits.marched.sum()), "hits": int(hits.hit.sum()), **used,
    }  # fmt: skip


def operator(
    where: object, field: Field, rays: list[Tensor], rule: str, exact: bool, everywhere: bool, stages: bool = True
) -> dict[str, float]:
    """`shell_trace`, and its stages on their own; `where` has the operators by name."""
    shell, network, number, device = field.shell.packed, field.network(), ops.RULES.index(rule), field.device
    arguments = (*shell, *network, *rays, number, exact, everywhere, DEPTH if exact else 1e-5)
    total, used, result = timed(lambda: where.shell_trace(*arguments), device)
    traced = ops.Traced(*result)
    hit = traced.sphere >= 0
    queries = int(traced.steps.sum())
    row = dict.fromkeys(STAGES, float("nan")) | {
        "total": total, "queries": queries, "steps": queries / max(1, int(traced.intervals.sum())), "hits": int(hit.sum()), **used,
    }  # fmt: skip
    if not stages:
        return row
    points, owner = (rays[0] + traced.t[:, None] * rays[1])[hit], traced.sphere[hit]
    repeated = torch.arange(queries, device=device) % len(points)
    preparation = timed(lambda: where.shell_intervals(*shell, *rays, number), device)[0]
    query = timed(lambda: where.shell_field(shell.spheres, *network, points[repeated], owner[repeated], False), device)[0]
    normals = timed(lambda: where.shell_field(shell.spheres, *network, points, owner, True), device)[0]
    stepping = max(0.0, total - preparation - query - normals)
    return row | {"preparation": preparation, "query": query, "stepping": stepping, "normals": normals}


def triangles(field: Field, rays: list[Tensor]) -> dict[str, float]:
    """Embree on the decoded mesh, built before."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    mesh = extract(field)
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, mesh.vertices.astype("float32"), mesh.faces.astype("int32"))
    arrays = [tensor.cpu().numpy() for tensor in rays]
    total, used, found = timed(lambda: scene.run(*arrays, output=True), torch.device("cpu"))
    hits = int((found["primID"] >= 0).sum())
    return dict.fromkeys((*STAGES, "steps"), float("nan")) | {"total": total, "queries": 0, "hits": hits, **used}


@torch.no_grad()
def measure(label: str, field: Field, size: int) -> Iterator[Row]:
    """All tracers' rows for one field and picture size."""
    rays = [tensor.contiguous() for tensor in paper_cameras(size, 1)[0].rays(field.device)]
    exact = (field, rays, field.owner_rule, True, False)
    tracers = {
        "reference": lambda: reference(field, *rays),
        "paper": lambda: operator(torch.ops.dss, field, rays, "every", False, True),
        "exact": lambda: operator(torch.ops.dss, *exact),
        "triangles": lambda: triangles(field, rays),
        "plain": lambda: operator(plain, *exact, stages=False),
    }
    first = None
    for name, tracer in tracers.items():
        row = Row(label, len(field.shell), size, name, **tracer())
        first = first or row
        yield replace(row, ratio=first.total / row.total)


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("mesh", help="what the fields are fitted to: a file, or `demo`")
    options.add_argument("--fields", type=Path, default=ROOT / "runs" / "benchmark", help="run folders of the fields, made here")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=["2x128", "fast"])
    options.add_argument("--spheres", nargs="+", type=int, default=[512, 4096])
    options.add_argument("--sizes", nargs="+", type=int, default=[512], help="pixels per side")
    options.add_argument("--json", type=Path, help="write the rows here, too")
    args = options.parse_args()
    device = cli.pick_device(args.device)
    libraries = ", ".join(f"{name}: {what}" for name, what in build.load().items())
    print(f"device {device}, {torch.get_num_threads()} threads; {libraries}; CUDA {'' if device.type == 'cuda' else 'not '}measured")
    print(f"| {' | '.join(COLUMNS)} |\n|---|--:|--:|---|{'--:|' * (len(COLUMNS) - 4)}")
    rows = []
    for name in args.networks:
        for count in args.spheres:
            field = fitted(args.mesh, name, count, args.fields / Path(args.mesh).stem, device)
            for size in args.sizes:
                for row in measure(name, field, size):
                    print(line(row), flush=True)
                    rows.append(row)
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        print(args.json)


def line(row: Row) -> str:
    """A row of the table; a dash where a tracer has no such thing."""
    stages = (row.preparation, row.query, row.stepping, row.normals)
    rate = row.queries / row.total / 1e3 if row.queries else float("nan")
    numbers = [
        *(f"{value:.1f}" for value in (*stages, row.total, row.cpu)),
        f"{rate:.2f}",
        f"{row.steps:.2f}",
        f"{row.hits}",
        f"{row.memory:.0f}",
    ]
    cells = [row.field, str(row.spheres), str(row.size), row.tracer, *numbers, f"{row.ratio:.1f}"]
    return "| " + " | ".join("-" if cell == "nan" else cell for cell in cells) + " |"


if __name__ == "__main__":
    cli.run(main)
