"""Methods against meshes: fits what is missing, measures everything in one frame against one ground truth, and tabulates it."""

import csv
import difflib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import trimesh

from dss.errors import InputError
from dss.evaluation.geometry import average, evaluate, markdown
from dss.evaluation.images import mean
from dss.evaluation.mesh_codecs import load_draco, save_draco, simplify
from dss.evaluation.protocols import PROTOCOLS, centred_cameras, compare
from dss.fields import Field
from dss.files import replacing
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh, load_mesh
from dss.rendering.buffers import render
from dss.rendering.isosurface import extract
from dss.rendering.mesh_buffers import see
from dss.run import load_run

ROOT = Path(__file__).resolve().parents[2]
TRUTH = "ground truth"
COLUMNS = {  # of the tables: key, heading, format
    "bytes": ("KiB", ".1f", 1 / 1024),
    "file_bytes": ("file KiB", ".1f", 1 / 1024),
    "parameters": ("parameters", ",.0f", 1),
    "chamfer": ("chamfer", ".2e", 1),
    "chamfer_excess": ("- floor", ".1e", 1),
    "surface_mean": ("surface mean", ".2e", 1),
    "surface_rms": ("rms", ".2e", 1),
    "surface_max": ("max", ".1e", 1),
    "normal_error_deg": ("normals", ".2f", 1),
    "iou_uniform": ("IoU", ".4f", 1),
    "ssim_paper": ("SSIM paper", ".4f", 1),
    "ssim_surface": ("SSIM surface", ".4f", 1),
    "thickness_mean": ("thickness", ".4f", 1),
    "samples": ("samples M", ".1f", 1e-6),
    "fit_seconds": ("fit s", ".1f", 1),
    "frame_ms": ("frame ms", ".0f", 1),
}

Made = tuple[trimesh.Trimesh | None, Field | None, Path, dict]  # mesh or field, the file that is stored of it, and facts for the table


@dataclass(frozen=True)
class Fitted:
    """A field, fitted by train.py with a configuration of configs/ and changes to it."""

    name: str
    config: str = ""  # the name of a file in configs/; empty: the method's own
    overrides: tuple[str, ...] = ()

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Made:
        config = ROOT / "configs" / f"{self.config or self.name}.yaml"
        command = [sys.executable, ROOT / "train.py", "--device", device.type, "--config", config, "--mesh", path, "--out", folder]
        done = subprocess.run([*map(str, command), *self.overrides], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{self.name}, {path.name}: {done.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
        run = load_run(folder, device)
        about = {"parameters": sum(parameter.numel() for parameter in run.field.parameters())}
        return None, run.field, run.field_path, about | json.loads((folder / "fit.json").read_text())


@dataclass(frozen=True)
class Draco:
    """The mesh itself, coded by Draco, with a share of its faces and a number of bits per coordinate."""

    name: str
    bits: int
    share: float = 1.0

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Made:
        mesh, file = trimesh.Trimesh(truth.vertices, truth.faces, process=False), folder / "mesh.drc"
        start = time.process_time()
        if self.share < 1:
            mesh = simplify(mesh, round(self.share * len(mesh.faces)))
        save_draco(mesh, file, self.bits)
        return load_draco(file), None, file, {"fit_seconds": time.process_time() - start}


@dataclass(frozen=True)
class Truth:
    """The mesh against itself: what the metrics say of a perfect method."""

    name: str = TRUTH

    def make(self, path: Path, truth: Mesh, folder: Path, device: torch.device) -> Made:
        return trimesh.Trimesh(truth.vertices, truth.faces, process=False), None, path, {}


@dataclass(frozen=True)
class Published:
    """A row of somebody else's table. Chamfer in our unit; whatever was not reported is None."""

    name: str
    kib: float
    chamfer: float | None = None
    ssim: float | None = None
    thickness: float | None = None

    def row(self) -> dict:
        values = {"bytes": 1024 * self.kib, "chamfer": self.chamfer, "ssim_paper": self.ssim, "thickness_mean": self.thickness}
        return {key: value for key, value in values.items() if value is not None}


Entry = Fitted | Draco | Truth


@dataclass(frozen=True)
class Request:
    """How to measure: the same for all methods of a table."""

    resolution: int = 256  # marching-cubes cells per edge of [-1, 1]^3
    views: int = 30  # of each protocol
    size: int = 512  # pixels per side


def measure(entry: Entry, path: Path, folder: Path, request: Request, device: torch.device) -> dict:
    """All metrics of a method on the mesh file `path`; what has been done is found in `folder` again.

    Times are of one core on the CPU (process time, so that other work does not count), and of the clock on CUDA.
    """
    asked = {"entry": repr(entry), "mesh": str(path), **asdict(request)}
    file = folder / "comparison.json"
    if file.is_file() and (known := json.loads(file.read_text()))["asked"] == asked:
        return known["row"]
    truth = load_mesh(path)
    mesh, field, stored, about = entry.make(path, truth, folder, device)
    if mesh is None:
        mesh = extract(field, request.resolution, str(folder))
    metrics = evaluate(mesh, truth, stored, field, device)
    row = {"file_bytes": stored.stat().st_size, "chamfer_excess": metrics["chamfer"] - metrics["chamfer_floor"], **metrics, **about}
    ours = field if field is not None else MeshDistance(mesh.vertices, mesh.faces, device)
    exact = MeshDistance(truth.vertices, truth.faces, device)
    for protocol in PROTOCOLS:
        images = mean(list(compare(protocol, ours, exact, request.size, request.views, folder / "ssim")))
        row |= {f"ssim_{protocol.name}": images["ssim_white"], f"mask_iou_{protocol.name}": images["mask_iou"]}
    row["frame_ms"] = 1000 * frame_seconds(ours, request.size)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps({"asked": asked, "row": row}, indent=2) + "\n")
    return row


def frame_seconds(ours: Field | MeshDistance, size: int) -> float:
    """The time of a frame, after one that warms up: of a field by sphere tracing, of a mesh by ray casting."""
    (camera,) = centred_cameras(size, 1)
    cuda = ours.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    for _ in range(2):
        start = clock()
        see(ours, camera, "faces") if isinstance(ours, MeshDistance) else render(ours, camera)
        if cuda:
            torch.cuda.synchronize()
    return clock() - start


def results(
    entries: list[Entry], paths: list[Path], out: Path, request: Request, device: torch.device
) -> Iterator[tuple[str, str, dict | str]]:
    """Method, mesh and metrics, or the reason why there are none; one mesh after the other."""
    for path in paths:
        for entry in entries:
            try:
                result = measure(entry, path, out / entry.name.replace(" ", "_") / path.stem, request, device)
            except InputError as error:
                result = str(error)
            yield entry.name, path.stem, result


def summary(done: list[tuple[str, str, dict]], published: dict[str, Published]) -> dict[str, dict]:
    """The mean row of each method over its meshes, in order; after it, where there is one, what was published for it."""
    result, meshes = {}, {mesh for _, mesh, _ in done}
    for name in dict.fromkeys(method for method, _, _ in done):
        own = [row for method, _, row in done if method == name]
        partly = f" ({len(own)} of {len(meshes)} meshes)" if len(own) < len(meshes) else ""
        result[name + partly] = average(own)
        if name in published:
            result[f"{published[name].name}, published"] = published[name].row()
    return result


def table(means: dict[str, dict]) -> str:
    """Markdown, the columns that no row has left out."""
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in means.values())}
    cells = [["", *(heading for heading, _, _ in columns.values())]]
    for name, row in means.items():
        cells.append([name, *(format(row[key] * unit, style) if key in row else "" for key, (_, style, unit) in columns.items())])
    return markdown(cells)


def save(out: Path, done: list[tuple[str, str, dict]], means: dict[str, dict], tables: str) -> None:
    """table.md, table.csv and table.json in `out`: the means as printed, and in the latter two every mesh."""
    every = [{"method": name, "mesh": mesh, **row} for name, mesh, row in done]
    every += [{"method": name, "mesh": "mean", **row} for name, row in means.items()]
    with replacing(out / "table.md") as temporary:
        temporary.write_text(tables + "\n")
    with replacing(out / "table.json") as temporary:
        temporary.write_text(json.dumps(every, indent=2) + "\n")
    with replacing(out / "table.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["method", "mesh", *COLUMNS], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(every)


def chosen(names: list[str], entries: list[Entry]) -> list[Entry]:
    """The named ones of a preset's entries, or of configs/. Raises InputError, with the nearest name, where there is no such method."""
    known = {entry.name: entry for entry in entries}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        if path.stem not in known and "\nfield:" in path.read_text():  # the others are not of fields of meshes
            known[path.stem] = Fitted(path.stem)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0)
            raise InputError(f"--methods {name}: no such method; did you mean {near[0]}? There are {', '.join(known)}")
    return [known[name] for name in names]


def plot(out: Path, means: dict[str, dict]) -> None:
    """rate_distortion.png and .svg in `out`: bytes against the surface's error, and against the SSIM of normal maps."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    kinds = {"fields": "o", "published": "*", "classic": "s"}
    panels = (("surface_mean", "mean distance to the surface", 1), ("ssim_paper", "1 - SSIM of normal maps, the paper's protocol", -1))
    for axis, (key, label, sign) in zip(axes, panels, strict=True):
        for name, row in means.items():
            value = row.get(key)
            if value is None or name.startswith(TRUTH):
                continue
            kind = "published" if name.endswith("published") else "classic" if "Draco" in name else "fields"
            point = row["bytes"] / 1024, value if sign > 0 else 1 - value
            axis.scatter(*point, marker=kinds[kind], color={"fields": "tab:blue", "published": "tab:gray", "classic": "tab:orange"}[kind])
            axis.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
        axis.set(xscale="log", yscale="log" if axis.collections else "linear", xlabel="KiB", ylabel=label)
        axis.grid(True, which="both", alpha=0.2)
    for suffix in ("png", "svg"):
        with replacing(out / f"rate_distortion.{suffix}") as temporary:
            figure.savefig(temporary, dpi=150)
    pyplot.close(figure)
