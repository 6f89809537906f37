"""Runs of the scripts that are killed at random times and resumed, against undisturbed ones."""

import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from tqdm import tqdm

from dss import cli, pipeline
from dss.checkpoint import load_tensors
from dss.evaluation import geometry
from dss.experiments import sweep
from dss.experiments.mesh_process import Job, work_on
from dss.experiments.status import Outcome
from dss.fields.neural_implicit import NeuralImplicitField, NeuralImplicitSettings
from tests.helpers import write_synthetic

MESH = (
    *("spheres.method=farthest", "spheres.count=12", "spheres.resolution=32", "fit.epochs=12"),
    *("samples.count=2000", "field.width=16", "field.latent=4", "fit.resample=6"),
    *("fit.batch_size=512", "fit.checkpoint=2"),
)
# At this rate the last epoch is not the best one, which is kept
JUMPY = (
    *("fit.keep=best", "fit.rate_weight=0", "fit.schedule=constant", "fit.optimizer=adam"),
    "fit.lr=0.3",
)
CLOUD = ("samples.count=4", "field.width=16", "fit.epochs=8", "fit.checkpoint=2")
PHOTOS = (
    *("scene.downscale=1", "model.layers=2", "model.width=16", "model.skip=0", "model.feature=4"),
    *("model.colour_layers=1", "model.colour_width=8", "train.steps=60", "train.checkpoint=7"),
    *("train.rays=32", "train.warm_up_steps=5", "sampler.coarse=8", "sampler.fine=8"),
)
SPHERES = ("sampler.spheres=40", "sampler.start_step=5", "sampler.relocate_every=10")
FEW = ("--views", "2", "--size", "64")
# Imported once, before the processes part: it takes longer than most of the runs
PRELOADED = (
    *("train", "eval", "eval_ssim", "render", "scripts.compare", "scripts.sweep"),
    *("dss.evaluation.photos", "dss.evaluation.renders", "scipy.spatial", "miniball", "warp"),
    *("dss.geometry.distance", "dss.reconstruction.model_shell", "dss.rendering.gallery"),
    *("h5py", "pymeshlab", "torch._dynamo", "tests.crash.engine"),
)
# Times are in these tables and plots; table.json beside them has all the other numbers
TIMED = {
    *("table.md", "table.csv", "rate_distortion.png", "rate_distortion.svg"),
    *("status.sqlite", "status.csv"),
}
LONGEST = 120.0  # seconds that a run may take


@dataclass(frozen=True)
class Kind:
    """A command; it runs where the inputs are, and the results of what it `needs`."""

    name: str
    script: str
    arguments: tuple[str, ...]
    needs: str = ""


KINDS = [
    Kind("train, mesh", "train", ("--mesh", "ball.ply", "--out", "run", *MESH)),
    Kind("train, best", "train", ("--mesh", "ball.ply", "--out", "run", *MESH, *JUMPY)),
    Kind(
        "train, points", "train",
        ("--config", "deepsdf_points", "--mesh", "cloud.xyz", "--out", "run", *CLOUD),
    ),
    Kind(
        "train, photos", "train",
        ("--config", "neus_spheres_tiny", "--data", "scene", "--out", "run", *PHOTOS, *SPHERES),
    ),
    Kind(
        "train, weights", "train",
        ("--config", "neural_implicit_8x32", "--mesh", "box.ply", "--weights", "net.h5",
         "--out", "run"),
    ),
    Kind(
        "eval", "eval",
        ("run", "--resolution", "48", "--export", "decoded.ply", "--json", "all.json"),
        "train, mesh",
    ),
    Kind("eval, weights", "eval", ("run", "--resolution", "32", "--weights", "out.h5"),
         "train, weights"),
    Kind("eval_ssim, mesh", "eval_ssim", ("run", *FEW), "train, mesh"),
    Kind("eval_ssim, photos", "eval_ssim", ("run", "--split", "test"), "train, photos"),
    Kind("render, mesh", "render", ("run", *FEW, "--animate", "webp"), "train, mesh"),
    Kind("render, photos", "render", ("run", "--mode", "shell"), "train, photos"),
    Kind(
        "sweep", "scripts.sweep",
        ("ball.ply", "egg.ply", "--config", "tiny.yaml", "--out", "run", "--resolution", "32"),
    ),
    Kind(
        "compare", "scripts.compare",
        ("--methods", "Draco, 11 bits", "--meshes", "box.ply", "egg.ply", "--out", "run",
         "--resolution", "32", *FEW),
    ),
]  # fmt: skip


def make_inputs(folder: Path) -> None:
    """Write all that the kinds of runs begin with."""
    folder.mkdir(parents=True)
    trimesh.creation.box((3, 2, 1)).export(folder / "box.ply")
    ball = trimesh.creation.icosphere(subdivisions=3)
    ball.export(folder / "ball.ply")
    trimesh.creation.icosphere(subdivisions=2).apply_scale((1, 1, 1.4)).export(folder / "egg.ply")
    np.savetxt(folder / "cloud.xyz", np.hstack([ball.vertices, ball.vertices]))
    torch.manual_seed(0)
    NeuralImplicitField(NeuralImplicitSettings(), {}).to_weights(folder / "net.h5")
    (folder / "scene").mkdir()
    write_synthetic(folder / "scene", 24)
    sections: dict[str, list[str]] = {}
    for setting in MESH:
        section, _, rest = setting.partition(".")
        sections.setdefault(section, []).append(rest.replace("=", ": "))
    text = [f"{name}: {{{', '.join(values)}}}\n" for name, values in sections.items()]
    (folder / "tiny.yaml").write_text("".join(text))


class Engine:
    """Runs kinds of commands in `folder`, undisturbed once and then disturbed."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))
        self._end(self.context.Process(target=os.getpid))  # all is imported now
        self.seconds: dict[str, float] = {}  # that the undisturbed run of a kind takes
        shutil.rmtree(self.folder, ignore_errors=True)
        make_inputs(self.folder / "inputs")

    def reference(self, kind: Kind) -> Path:
        """The folder of an undisturbed run."""
        folder = self.folder / "references" / kind.name
        if kind.name not in self.seconds:
            self._begin(kind, folder)
            start = time.monotonic()
            self._run(kind, folder)
            self.seconds[kind.name] = time.monotonic() - start
        return folder

    def round(self, kind: Kind, seed: str) -> tuple[int, list[str]]:
        """Kill a run up to four times, let it end, and compare: how often it was killed, and the
        names of the files that differ."""
        choice, reference = random.Random(seed), self.reference(kind)
        folder, kills = self.folder / "rounds" / f"{kind.name}, {seed}", 0
        self._begin(kind, folder)
        for _ in range(choice.randint(1, 4)):
            killed = self._run(kind, folder, choice.uniform(0, self.seconds[kind.name]))
            kills += killed
            if not killed:
                break
        self._run(kind, folder)
        differing = differences(reference, folder)
        if not differing:  # else it is kept for who wants to know why
            shutil.rmtree(folder)
        return kills, differing

    def round_at_writes(self, kind: Kind) -> tuple[int, list[str]]:
        """Kill a run at its first write, the next one at its second, and so on, until one ends: as
        `round`. A killed run has written its file, and not yet renamed it."""
        folder = self.folder / "rounds" / f"{kind.name}, writes"
        self._begin(kind, folder)
        kills = next(n for n in itertools.count() if not self._run(kind, folder, write=n + 1))
        return kills, differences(self.reference(kind), folder)

    def _begin(self, kind: Kind, folder: Path) -> None:
        before = {each.name: each for each in KINDS}.get(kind.needs)
        shutil.copytree(self.reference(before) if before else self.folder / "inputs", folder)

    def _run(self, kind: Kind, folder: Path, seconds: float = LONGEST, write: int = 0) -> bool:
        """Run to the end, for `seconds`, or to a certain write: whether it was killed."""
        process = self.context.Process(target=_command, args=(kind, folder, write))
        code = self._end(process, seconds)
        if code not in (0, -signal.SIGKILL) or (code and seconds == LONGEST and not write):
            output = (folder / "output.txt").read_text()
            raise RuntimeError(f"{kind.name} in {folder}: exit code {code}\n{output}")
        return code != 0

    def _end(self, process: Any, seconds: float = LONGEST) -> int:
        """The exit code of a process after at most `seconds`."""
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode


def _command(kind: Kind, folder: Path, write: int) -> None:
    """What a shell does: run a script in `folder`, with its output in a file. Pictures and
    measurements are smaller than usual."""
    os.chdir(folder)
    os.environ["DSS_CACHE"] = "cache"
    with Path("output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, which would outlive us
    _do_less()
    sweep.sweep = partial(sweep.sweep, work=_work)
    numbers = itertools.count(1)
    if write:  # `dss.files.replacing` calls it for every file that it has written
        os.fsync = lambda _: next(numbers) != write or os.kill(os.getpid(), signal.SIGKILL)
    sys.argv = [kind.script, *kind.arguments]
    cli.run(importlib.import_module(kind.script).main)


def _do_less() -> None:
    pipeline._thumbnail = lambda field: np.zeros((8, 8, 3), np.uint8)
    geometry.SAMPLES, geometry.UNIFORM = 1 << 12, 1 << 13


def _work(job: Job, attempt: int) -> Outcome:
    """In the process of a mesh, which is not a child of the one that runs the command."""
    _do_less()
    return work_on(job, attempt)


def differences(one: Path, other: Path) -> list[str]:
    """The names of files below two folders that only one has, or that differ: in more than times.
    Logs and the output of the terminal may."""
    names = {
        str(path.relative_to(folder))
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "log" and path.name != "output.txt"
    }
    return sorted(name for name in names if _content(one / name) != _content(other / name))


def _content(path: Path) -> Any:
    if not path.is_file() or path.name in TIMED:
        return path.is_file()
    if path.suffix == ".json":
        return repr(_without_times(json.loads(path.read_text())))
    if path.name == "training.safetensors":  # of photos it holds the seconds so far
        tensors, about = load_tensors(path)
        state = {name: (value.shape, value.numpy().tobytes()) for name, value in tensors.items()}
        return state, repr(_without_times(about))
    return path.read_bytes()


def _without_times(values: Any) -> Any:
    if isinstance(values, dict):
        return {
            key: _without_times(value)
            for key, value in values.items()
            if not key.endswith(("seconds", "_ms"))
        }
    return [_without_times(value) for value in values] if isinstance(values, list) else values
