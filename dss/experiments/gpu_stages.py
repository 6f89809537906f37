"""What this project wants to know from a GPU, the most valuable first.

The first two stages need torch and numpy alone. What the others need is loaded when they begin, and
where it is not installed they are skipped.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dss import ops
from dss.errors import InputError
from dss.experiments import parity, sanitizer
from dss.experiments.gpu_inputs import FITTED, QUICK_FITTED, SHORT, Inputs, View, error
from dss.experiments.stages import Row, Stage, Work
from dss.experiments.timing import clock, timed

if TYPE_CHECKING:
    from dss.fields.base import Field

TOLERANCE = 1e-6  # of the bracket around a hit, as frames are traced
EQUAL = 1.05  # errors that differ by less count as equal
RESERVE = 0.8  # of the time left: a fit ends itself then, so that its row says how far it came
RUNS = ("pydantic", "yaml", "safetensors", "scipy", "tensorboard", "tqdm", "PIL")  # of run folders
MESHES = (*RUNS, "trimesh", "skimage", "warp", "pymeshlab", "miniball")
PHOTOS = ("neus", "neus_occupancy", "neus_shell", "neus_fast")


@dataclass(frozen=True)
class Bench:
    """Where and on what everything is measured."""

    inputs: Inputs
    scratch: Path  # for run folders
    device: torch.device
    quick: bool = False  # as little as shows that everything runs
    scene: Path | None = None  # photos


def machine(device: torch.device, quick: bool) -> dict[str, str]:
    """What is measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name + (", quick" if quick else ""), "torch": torch.__version__}


def compare_operators(bench: Bench) -> Iterator[tuple[str, Work]]:
    """Every operator against its recorded results; a row's `fault` is empty where it is right."""
    for name, check in parity.checks(bench.inputs.parity, bench.device):
        yield name, lambda left, check=check: {"fault": check()}


def time_frames(bench: Bench) -> Iterator[tuple[str, Work]]:
    """A view of each field in several sizes, with products of 32 and 16 bits."""
    for size in (32,) if bench.quick else (512, 256, 1024):
        for name in bench.inputs.facts:
            for half in (True, False) if bench.device.type == "cuda" else (False,):
                bits = "16 bits" if half else "32 bits"
                yield f"{name}, {size}x{size}, {bits}", partial(_frame, bench, name, size, half)


def time_fits(bench: Bench) -> Iterator[tuple[str, Work]]:
    """Fits to the samples that the CPU's were fitted to, until the error is as small."""
    for name in QUICK_FITTED if bench.quick else FITTED:
        yield name, partial(_fit, bench, name)


def time_meshing(bench: Bench) -> Iterator[tuple[str, Work]]:
    """Meshes of fitted fields."""
    for name in QUICK_FITTED if bench.quick else FITTED:
        for cells in (32,) if bench.quick else (256, 512):
            yield f"{name}, {cells} cells", partial(_mesh, bench, name, cells)


def run_sanitizer(bench: Bench) -> Iterator[tuple[str, Work]]:
    """What compute-sanitizer finds; a row's `fault` is empty where that is nothing."""
    if bench.device.type != "cuda":
        raise InputError("compute-sanitizer looks at CUDA alone")
    for name, check in sanitizer.checks(bench.inputs.parity):
        yield name, lambda left, check=check: {"fault": check()}


def fill_tables(bench: Bench) -> Iterator[tuple[str, Work]]:
    """The methods of the paper's tables at their published lengths, on the one mesh."""
    from dss.experiments.compare import EvalSettings, measure
    from dss.experiments.mesh_methods import Fitted
    from dss.experiments.presets import PRESETS

    entries, settings = PRESETS["paper"].entries, EvalSettings()
    if bench.quick:
        entries, settings = (Fitted("fast", "", SHORT),), EvalSettings(32, 1, 64)
    for entry in entries:
        folder = bench.scratch / "tables" / entry.name
        yield (
            entry.name,
            lambda left, entry=entry, folder=folder: measure(
                entry, bench.inputs.mesh, folder, settings, bench.device
            ),
        )


def train_on_photos(bench: Bench) -> Iterator[tuple[str, Work]]:
    """NeuS with plain, occupancy and shell sampling, and its fast relative, for equally few
    steps."""
    if bench.scene is None:
        raise InputError("no photos; name a folder with --scene")
    steps = 4 if bench.quick else 2000
    for name in PHOTOS:
        yield name, partial(_train, bench, f"{name}_tiny" if bench.quick else name, steps)


STAGES = (
    Stage("parity", 150, (), compare_operators),
    Stage("frames", 60, (), time_frames),
    Stage("fits", 120, RUNS, time_fits),
    Stage("meshing", 30, MESHES, time_meshing),
    Stage("sanitizer", 60, (), run_sanitizer),
    Stage("photos", 120, RUNS, train_on_photos),
    Stage("tables", 600, MESHES, fill_tables),
)


def _frame(bench: Bench, name: str, size: int, half: bool, left: float) -> Row:
    """Time and spread in ms, work, and quality: against 32 bits, and against the mesh."""
    view, rays = bench.inputs.view(name), bench.inputs.rays(size)
    used, traced = timed(lambda: _trace(view, rays, half), bench.device)
    hit = traced.t.isfinite()
    row = used | {
        "queries": int(traced.steps.sum()),
        "steps": float(traced.steps.sum() / traced.intervals.sum().clamp(min=1)),
        "hits": int(hit.sum()),
    }
    if half:
        full = _trace(view, rays, False).t
        both = hit & full.isfinite()
        row["rounding"] = (traced.t - full)[both].abs().mean().item()
    if (true := bench.inputs.depth(size)) is not None:
        both = hit & true.isfinite()
        row["depth_error"] = (traced.t - true)[both].abs().mean().item()
        row["wrong_hits"] = (hit != true.isfinite()).float().mean().item()
    return row


def _trace(view: View, rays: tuple[torch.Tensor, torch.Tensor], half: bool) -> ops.Traced:
    network = view.network._replace(half=half)
    return ops.shell_trace(view.shell, network, *rays, view.rule, tolerance=TOLERANCE)


class _Ended(Exception):
    """A fit has come as far as it should."""


def _fit(bench: Bench, name: str, left: float) -> Row:
    """The seconds until the error is that of the fit on the CPU, those of measuring the error not
    counted; `reached` is 0 where the time ended, or the fit, before."""
    from dss.fitting.fit import fit
    from dss.registry import load_config
    from dss.run import load_samples

    folder, facts = bench.inputs.run(name), bench.inputs.facts[name]
    config = load_config(folder / "config.yaml")
    _, geometry, rounds = load_samples(folder)
    begin, measuring, row = clock(bench.device), 0.0, {}

    def report(epoch: int, field: "Field", scalars: dict[str, float]) -> None:
        nonlocal measuring
        now = clock(bench.device)
        found = error(field, bench.inputs.surface)
        row.update(
            seconds=(now - begin - measuring) / 1e3, epochs=epoch, error=found,
            reached=int(found <= EQUAL * facts["error"]),
        )  # fmt: skip
        measuring += clock(bench.device) - now
        if row["reached"] or now - begin > 1e3 * RESERVE * left:
            raise _Ended

    state = bench.scratch / "fits" / name / "training.safetensors"
    shutil.rmtree(state.parent, ignore_errors=True)  # a cut fit would not be timed from its start
    with suppress(_Ended):
        fit(config, geometry, rounds, bench.device, state, report)
    samples = len(rounds[0]) * row["epochs"]
    cpu = {"cpu_error": facts["error"], "cpu_seconds": facts["seconds"]}
    return row | {"rate": samples / row["seconds"]} | cpu


def _mesh(bench: Bench, name: str, cells: int, left: float) -> Row:
    from dss.rendering.isosurface import extract
    from dss.run import open_run

    field = open_run(bench.inputs.run(name), bench.device).field
    start = clock(bench.device)
    mesh = extract(field, cells)
    seconds = (clock(bench.device) - start) / 1e3
    return {"seconds": seconds, "faces": len(mesh.faces), "watertight": mesh.is_watertight}


def _train(bench: Bench, name: str, steps: int, left: float) -> Row:
    from dss import pipeline
    from dss.experiments.compare import EvalSettings
    from dss.experiments.photo_methods import Trained
    from dss.registry import load_config

    overrides = (f"train.steps={steps}", f"train.checkpoint={steps}")
    folder, path = bench.scratch / "photos" / name, str(bench.scene)
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    pipeline.fit_run(load_config(name, list(overrides), path), folder, bench.device)
    seconds = time.perf_counter() - start
    every = EvalSettings(every=4 if bench.quick else 40)
    row = Trained(name, overrides).measure(bench.scene, folder, every, bench.device)
    return row | {"train_seconds": seconds, "steps": steps}
