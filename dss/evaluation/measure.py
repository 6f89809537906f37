"""Finished runs, and mesh files, against their truth: what eval.py and eval_ssim.py print."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trimesh

from dss.codec.pack import decode_field, parts_of
from dss.errors import InputError
from dss.evaluation import geometry, photo_geometry, photos, protocols, renders
from dss.evaluation.geometry import evaluate, evaluate_cloud, load_prediction, shape_of
from dss.evaluation.images import SSIM_WINDOW
from dss.evaluation.photo_geometry import measure_geometry
from dss.evaluation.protocols import PROTOCOLS, compare
from dss.fields import Field
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import Mesh, load_mesh
from dss.geometry.similarity import Similarity
from dss.progress import Progress, silent, tracked
from dss.rendering.cameras import PAPER_SIZE, PAPER_VIEWS
from dss.run import CodedRun, PhotoRun, Run
from dss.tables import mean_of, write_json

COLUMNS = (*photo_geometry.COLUMNS, *geometry.COLUMNS)
DECODINGS = 3  # of a coded field; the fastest counts
PICTURE_COLUMNS = tuple(
    {
        column.key: column for module in (protocols, renders, photos) for column in module.COLUMNS
    }.values()
)


@dataclass(frozen=True)
class Measured:
    """A predicted mesh in the normalised frame, the similarity to the input's units, and the
    metrics."""

    mesh: trimesh.Trimesh
    similarity: Similarity
    metrics: dict[str, float | dict[str, int]]


def measure_run(run: Run, data: str | None = None, resolution: int = 256) -> Measured:
    """The run's mesh, from `resolution` cells per edge, against what it was fitted to (at `data`,
    where it has moved).

    After a fit to a point cloud, `data` may name the true mesh; else the mesh is compared with the
    points. A surface from photos is compared with the scene's mesh or with `data`, see
    `measure_geometry`; where there is neither, what is known of it is its own shape. Of a coded
    field, `file_parts` has the bytes of its file by part, and `decode_ms` the milliseconds that it
    takes to be read.
    """
    mesh = run.surface(resolution)
    if isinstance(run, PhotoRun):
        metrics = measure_geometry(run, mesh, data) | shape_of(mesh)
        return Measured(mesh, run.similarity, metrics)
    truth = run.load_truth(data)
    if isinstance(truth, Mesh):
        metrics = evaluate(mesh, truth, run.file, run.field, run.field.device)
    else:
        metrics = evaluate_cloud(mesh, truth, run.field)
    if run.file.suffix == ".dss":
        metrics |= coded_facts(run.file, run.field)
    return Measured(mesh, truth.similarity, metrics)


def save_metrics(run: Run, metrics: dict[str, Any]) -> tuple[Path, bool]:
    """Write a run's metrics to its eval.json. Returns the path, and whether it could be written; of
    a .dss file, beside which nothing is written, its own."""
    if isinstance(run, CodedRun):
        return run.file, True
    path = run.folder / "eval.json"
    try:
        write_json(path, metrics)
    except InputError:
        return path, False
    return path, True


def coded_facts(path: Path, field: Field) -> dict[str, float | dict[str, int]]:
    """What `measure_run` tells of a field's .dss file."""
    data, seconds = path.read_bytes(), []
    for _ in range(DECODINGS):
        start = time.perf_counter()
        decode_field(data, str(path))
        seconds.append(time.perf_counter() - start)
    parts = parts_of(data, field)
    return {"file_bytes": len(data), "file_parts": parts, "decode_ms": 1000 * min(seconds)}


def measure_file(
    path: Path, truth_path: str | None, device: torch.device | str = "cpu"
) -> Measured:
    """A mesh file, such as any codec's output, against the true mesh. Raises InputError where none
    is named."""
    if not truth_path:
        raise InputError(
            f"{path}: a file, not a run folder; to compare meshes, name the true one with --mesh"
        )
    truth = load_mesh(truth_path)
    mesh = load_prediction(path, truth)
    return Measured(mesh, truth.similarity, evaluate(mesh, truth, path, None, device))


def decoded(path: str, truth: Mesh, device: torch.device | str = "cpu") -> MeshDistance:
    """The distance to a mesh file, in the frame of the true mesh."""
    mesh = load_prediction(path, truth)
    return MeshDistance(mesh.vertices, mesh.faces, device)


def measure_pictures(
    ours: Field | MeshDistance,
    truth: Mesh,
    folder: Path,
    views: int = PAPER_VIEWS,
    size: int = PAPER_SIZE,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Pictures of normals of a field, or of a decoded mesh, against the truth by all protocols:
    what ssim.json holds.

    By protocol, the name of the `hit_rule`, the `mean`, and the metrics of all `views` of size x
    size pixels. The pictures go to `folder`.
    """
    if size < SSIM_WINDOW:
        raise InputError(
            f"--size {size}: SSIM compares windows of {SSIM_WINDOW} pixels; ask for at least as "
            "many"
        )
    exact, result = (
        MeshDistance(truth.vertices, truth.faces, ours.device),
        {"views": views, "size": size},
    )
    for protocol in PROTOCOLS:
        rows = list(
            tracked(
                compare(protocol, ours, exact, size, views, folder), protocol.name, views, progress
            )
        )
        rule = protocol.rule(ours) if isinstance(ours, Field) else "as the truth"
        result[protocol.name] = {"hit_rule": rule, "mean": mean_of(rows), "views": rows}
    return result


def protocol_means(name: str, result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The mean rows by protocol of what `measure_pictures` returned, under the name of what was
    measured."""
    return {f"{name}, {protocol.name}": result[protocol.name]["mean"] for protocol in PROTOCOLS}


def with_means(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The rows, followed by the means of those that several runs have by the same protocol."""
    kinds = {name: name.rpartition(", ")[2] if ", " in name else "photos" for name in rows}
    means = {}
    for kind in dict.fromkeys(kinds.values()):
        own = [row for name, row in rows.items() if kinds[name] == kind]
        if len(own) > 1:
            means[f"mean, {kind}"] = mean_of(own)
    return rows | means
