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

from dss import pipeline
from dss.config import read_yaml
from dss.errors import InputError
from dss.evaluation.geometry import SPREAD, evaluate
from dss.evaluation.measure import measure_pictures
from dss.evaluation.mesh_codecs import load_draco, refined, save_draco, simplify, tuned
from dss.evaluation.protocols import PROTOCOLS, centred_cameras
from dss.experiments.compare import EvalSettings, Row
from dss.fields import Field
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh, load_mesh, surface_samples
from dss.registry import CONFIGS, load_config
from dss.rendering.buffers import render
from dss.rendering.mesh_buffers import render_mesh
from dss.tables import Column

KIB = 1 / 1024
COLUMNS = (
    Column("bytes", "KiB", ".1f", KIB),
    Column("file_bytes", "file KiB", ".1f", KIB),
    Column("parameters", "parameters", ",.0f"),
    Column("chamfer", "chamfer", ".2e"),
    Column("chamfer_excess", "- floor", ".1e"),
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
    Column("frame_ms", "frame ms", ".0f"),
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
        row["chamfer_excess"] = row["chamfer"] - row["chamfer_floor"]
        pictures = measure_pictures(ours, truth, folder / "ssim", settings.views, settings.size)
        for protocol in PROTOCOLS:
            mean = pictures[protocol.name]["mean"]
            row |= {
                f"ssim_{protocol.name}": mean["ssim_white"],
                f"mask_iou_{protocol.name}": mean["mask_iou"],
            }
        return row | {
            "frame_ms": 1000 * frame_seconds(ours, settings.size),
            "resident_bytes": resident_bytes(ours),
            "query_us": 1e6 * query_seconds(ours, truth),
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
        facts = {"parameters": sum(parameter.numel() for parameter in run.field.parameters())}
        if run.file.suffix == ".dss":  # a coded field is stored as that, not in float32
            facts["bytes"] = run.file.stat().st_size
        return Output(run.field, run.file, facts | json.loads((folder / "fit.json").read_text()))


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
        mesh, bits = tuned(trimesh.Trimesh(truth.vertices, truth.faces, process=False), self.size)
        if self.refined:
            mesh = refined(mesh, MeshDistance(truth.vertices, truth.faces))
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
    """A row of somebody else's table. Chamfer in our unit; whatever was not reported is None."""

    name: str
    kib: float
    chamfer: float | None = None
    ssim: float | None = None
    thickness: float | None = None

    def row(self) -> Row:
        values = {
            "chamfer": self.chamfer,
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


def frame_seconds(ours: Field | MeshDistance, size: int) -> float:
    """The time of a frame, after one that warms up: of a field by sphere tracing, of a mesh by ray
    casting."""
    (camera,) = centred_cameras(size, 1)
    if isinstance(ours, MeshDistance):
        return _second_time(lambda: render_mesh(ours, camera, "faces"), ours.device)
    return _second_time(lambda: render(ours, camera), ours.device)


def query_seconds(ours: Field | MeshDistance, truth: Mesh) -> float:
    """The time of one signed distance, of many near the true surface."""
    points, _ = surface_samples(truth.vertices, truth.faces, QUERIES, 0)
    points += np.random.default_rng(0).normal(0, SPREAD, points.shape)
    tensor = torch.from_numpy(points.astype(np.float32)).to(ours.device)
    return _second_time(lambda: ours.sdf(tensor), ours.device) / QUERIES


def resident_bytes(ours: Field | MeshDistance) -> int:
    """What must be in memory to answer a signed distance: of a field its numbers and the tree of
    its shell; of a mesh its vertices and faces in 12 bytes each, and a binary tree of boxes in 24
    bytes per node, with a face in each leaf."""
    if isinstance(ours, MeshDistance):
        return 12 * len(ours.vertices) + 12 * len(ours.faces) + 24 * (2 * len(ours.faces) - 1)
    tree = 0 if ours.shell is None else ours.shell.packed.tree.nbytes
    return sum(ours.storage().values()) + tree


def _second_time(work: Callable[[], object], device: torch.device) -> float:
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    for _ in range(2):
        start = clock()
        work()
        if cuda:
            torch.cuda.synchronize()
    return clock() - start


def find(name: str, data: Path | None, place: str) -> Path:
    """The file or folder that `name` is, or that it names in the folder of data sets, at
    `place`."""
    if Path(name).exists():
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
