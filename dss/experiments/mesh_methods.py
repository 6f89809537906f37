"""Methods that store the surface of a mesh: fitted fields, coded meshes, and what other people
published of theirs."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh

from dss import ops, pipeline
from dss.config import read_yaml
from dss.errors import InputError
from dss.evaluation.geometry import SPREAD, evaluate
from dss.evaluation.measure import measure_pictures
from dss.evaluation.protocols import PROTOCOLS, centred_cameras
from dss.experiments.compare import EvalSettings, Row
from dss.fields import Field
from dss.fitting.fit import samples_seen
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh, load_mesh, surface_samples
from dss.geometry.mesh_codecs import load_draco, save_draco, tuned
from dss.geometry.simplify import simplify
from dss.registry import CONFIGS, load_config
from dss.rendering.cameras import Camera
from dss.rendering.hit_rules import is_compiled, trace_fastest
from dss.rendering.mesh_buffers import render_mesh
from dss.rendering.tracing import Hits, rounding
from dss.run import load_samples
from dss.tables import Column

KIB = 1 / 1024
WARM_UP = 32  # pixels per side of a frame, or points, before what is timed
COLUMNS = (
    Column("bytes", "KiB", ".1f", KIB),
    Column("file_bytes", "file KiB", ".1f", KIB),
    Column("parameters", "parameters", ",.0f"),
    Column("chamfer", "chamfer", ".2e"),
    Column("chamfer_excess", "- floor", ".1e"),
    Column("chamfer_rays", "by rays", ".2e"),
    Column("chamfer_rays_excess", "- its floor", ".1e"),
    Column("surface_mean", "surface mean", ".2e"),
    Column("surface_rms", "rms", ".2e"),
    Column("surface_max", "max", ".1e"),
    Column("normal_error_deg", "normals", ".2f"),
    Column("iou_uniform", "IoU", ".4f"),
    Column("ssim_paper", "SSIM paper", ".4f"),
    Column("ssim_surface", "SSIM surface", ".4f"),
    Column("thickness_mean", "thickness", ".4f"),
    Column("samples", "samples M", ".1f", 1e-6),
    Column("fit_seconds", "fit s", ".1f"),
    Column("frame_ms", "compiled ms", ".0f"),
    Column("queries", "queries / ray", ".2f"),
    Column("rounding", "16-bit depth error", ".1e"),
    Column("eager_ms", "eager ms", ".0f"),
    Column("eager_queries", "queries / ray, eager", ".2f"),
    Column("resident_bytes", "resident KiB", ".1f", KIB),
    Column("query_us", "query us", ".2f"),
)
QUERIES = 1 << 16  # points near the surface, of a time


@dataclass(frozen=True)
class Output:
    """What a method made of a mesh: a mesh or a field, the file that is stored of it, and facts for
    the table."""

    shape: trimesh.Trimesh | Field
    file: Path
    facts: Row


class MeshMethod(ABC):
    """A method that is measured by what `make` returns."""

    @abstractmethod
    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Output:
        """Make the method's version of the mesh at `path`, or find it in `folder`."""

    def measure(
        self, path: Path, folder: Path, settings: EvalSettings, device: torch.device
    ) -> Row:
        """Geometry, pictures, bytes and times. Times are of one core on the CPU, and of the clock
        on CUDA."""
        from dss.rendering.isosurface import extract

        truth = load_mesh(path)
        made = self.make(path, truth, folder, device)
        field = made.shape if isinstance(made.shape, Field) else None
        mesh = extract(field, settings.resolution, str(folder)) if field else made.shape
        ours = field or MeshDistance(mesh.vertices, mesh.faces, device)
        row = evaluate(mesh, truth, made.file, field, device) | made.facts
        for key in ("chamfer", "chamfer_rays"):
            row[f"{key}_excess"] = row[key] - row[f"{key}_floor"]
        pictures = measure_pictures(ours, truth, folder / "ssim", settings.views, settings.size)
        for protocol in PROTOCOLS:
            mean = pictures[protocol.name]["mean"]
            row |= {
                f"ssim_{protocol.name}": mean["ssim_white"],
                f"mask_iou_{protocol.name}": mean["mask_iou"],
            }
        return row | {
            "resident_bytes": ours.resident_bytes(),
            "query_us": query_us(ours, truth),
            **frame_times(ours, settings.size),
        }


@dataclass(frozen=True)
class Fitted(MeshMethod):
    """A field, fitted with a configuration of configs/ and changes to it."""

    name: str
    config: str = ""  # the name of a file in configs/; empty: the method's own
    overrides: tuple[str, ...] = ()

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Output:
        config = load_config(
            CONFIGS / f"{self.config or self.name}.yaml", list(self.overrides), str(path)
        )
        run = pipeline.fit_run(config, folder, device)
        facts = json.loads((folder / "fit.json").read_text()) | {
            "parameters": sum(parameter.numel() for parameter in run.field.parameters()),
            # anew: the file of an earlier version counts those held out
            "samples": samples_seen(config, load_samples(folder)[2]),
        }
        if run.file.suffix == ".dss":  # a coded field is stored as that, not in float32
            facts["bytes"] = run.file.stat().st_size
        return Output(run.field, run.file, facts)


@dataclass(frozen=True)
class Draco(MeshMethod):
    """The mesh itself, coded by Draco, with a share of its faces and a number of bits per
    coordinate."""

    name: str
    bits: int
    share: float = 1.0

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Output:
        mesh, file = (
            trimesh.Trimesh(truth.vertices, truth.faces, process=False),
            folder / "mesh.drc",
        )
        start = time.process_time()
        if self.share < 1:
            mesh = simplify(mesh, round(self.share * len(mesh.faces)))
        save_draco(mesh, file, self.bits)
        return Output(load_draco(file), file, {"fit_seconds": time.process_time() - start})


@dataclass(frozen=True)
class TunedDraco(MeshMethod):
    """The best that quadric edge collapse and Draco do in a number of bytes; `refined` with the
    vertices moved to fit the surface before they are coded."""

    name: str
    size: int
    refined: bool = False

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Output:
        file, start = folder / "mesh.drc", time.process_time()
        whole = trimesh.Trimesh(truth.vertices, truth.faces, process=False)
        mesh, bits = tuned(whole, self.size, self.refined)
        save_draco(mesh, file, bits)
        return Output(load_draco(file), file, {"fit_seconds": time.process_time() - start})


@dataclass(frozen=True)
class Truth(MeshMethod):
    """The mesh against itself: what the metrics say of a perfect method."""

    name: str = "ground truth"

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Output:
        return Output(trimesh.Trimesh(truth.vertices, truth.faces, process=False), path, {})


@dataclass(frozen=True)
class Published:
    """A row of somebody else's table. Chamfer in our unit; whatever was not reported is None.

    `by_rays`: the predicted points of Chamfer were hits of random rays.
    """

    name: str
    kib: float
    chamfer: float | None = None
    ssim: float | None = None
    thickness: float | None = None
    by_rays: bool = True

    def row(self) -> Row:
        values = {
            "chamfer_rays" if self.by_rays else "chamfer": self.chamfer,
            "ssim_paper": self.ssim,
            "thickness_mean": self.thickness,
        }
        return {"bytes": 1024 * self.kib} | {
            key: value for key, value in values.items() if value is not None
        }


def with_published(rows: dict[str, Row], published: dict[str, Published]) -> dict[str, Row]:
    """The rows, each followed, where there is one, by what was published for its method."""
    result = {}
    for name, row in rows.items():
        result[name] = row
        if theirs := published.get(name.partition(" (")[0]):
            result[f"{theirs.name}, published"] = theirs.row()
    return result


def configured() -> dict[str, Fitted]:
    """A method for each configuration of a field in configs/."""
    paths = sorted(CONFIGS.glob("*.yaml"))
    return {path.stem: Fitted(path.stem) for path in paths if "field" in read_yaml(path)}


def frame_times(ours: Field | MeshDistance, size: int) -> Row:
    """What a frame takes, like with like: `frame_ms` by compiled code, of a field only where all of
    it is, and of a mesh by ray casting; `eager_ms` of every field, in plain torch. Beside them the
    network's queries per ray, and the error of compiled depths where they come from products of 16
    bits. A field's tracer is its own, else the common one."""
    device = ours.device

    def trace(pixels: int) -> Hits:
        return trace_fastest(ours, *_camera(pixels).rays(device=device))

    if isinstance(ours, MeshDistance):
        cast = lambda pixels: render_mesh(ours, _camera(pixels), "faces")  # noqa: E731
        return {"frame_ms": _timed(cast, size, device)[0]}
    row = {}
    if is_compiled(ours):
        row["frame_ms"], hits = _timed(trace, size, device)
        row["queries"] = float(hits.steps.float().mean())
        row |= rounding(ours, *_camera(size).rays(device=device))
    with ops.eager():
        row["eager_ms"], hits = _timed(trace, size, device)
    return row | {"eager_queries": float(hits.steps.float().mean())}


def _camera(pixels: int) -> Camera:
    return centred_cameras(pixels, 1)[0]


def query_us(ours: Field | MeshDistance, truth: Mesh) -> float:
    """The microseconds of one signed distance, of many near the true surface."""
    points, _ = surface_samples(truth.vertices, truth.faces, QUERIES, 0)
    points += np.random.default_rng(0).normal(0, SPREAD, points.shape)
    tensor = torch.from_numpy(points.astype(np.float32)).to(ours.device)
    return 1000 * _timed(lambda count: ours.sdf(tensor[:count]), QUERIES, ours.device)[0] / QUERIES


def _timed(work: Callable[[int], object], size: int, device: torch.device) -> tuple[float, object]:
    """Milliseconds of `work(size)`, after a small one that warms up, and what it returns."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for value in (WARM_UP, size):
        start = clock()
        result = work(value)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return 1000 * (clock() - start), result


def find(name: str, data: Path | None, place: str) -> Path:
    """The file or folder that `name` is, or that it names in the folder of data sets, at
    `place`."""
    if name == "demo" or Path(name).exists():
        return Path(name)
    if data is None:
        raise InputError(
            f"{name}: no such file, and no folder of data sets; name it with --data, or set "
            "DSS_DATA"
        )
    path = data / place.format(name)
    if not path.exists():
        raise InputError(f"{path}: not there; name others, or see data/README.md")
    return path
