"""Samplers and base models on the photos of scenes, and where the time of a frame goes.

A frame is faster than the plain sampler's because rays are empty, because they end early, and
because those that are left have fewer samples; what remains is the cost of a sample, its
up-sampling included. The factors multiply to the speed-up, and their shares are those of its
logarithm.
"""

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from dss import pipeline
from dss.errors import InputError
from dss.evaluation import photo_geometry
from dss.evaluation.measure import measure_run
from dss.evaluation.photos import compare, scene_of
from dss.experiments.compare import EvalSettings, Row
from dss.files import is_file
from dss.reconstruction.made_scene import MESH
from dss.reconstruction.scene import Photo
from dss.reconstruction.volume_rendering import render_picture
from dss.registry import CONFIGS, load_config
from dss.run import PhotoRun
from dss.tables import Column, mean_of

FACTORS = {
    "empty": "empty rays",
    "ended": "rays ended",
    "fewer": "fewer samples",
    "cheaper": "cost per sample",
}
COLUMNS = (
    Column("psnr", "PSNR", ".2f"),
    Column("ssim", "SSIM", ".4f"),
    Column("seconds", "s / frame", ".3f"),
    Column("samples", "samples / ray", ".1f"),
    Column("background", "background", ".1%"),
    Column("speed_up", "speed-up", ".1f"),
    *(Column(f"{key}_factor", heading, ".1f") for key, heading in FACTORS.items()),
    *(Column(f"{key}_share", f"its share, {heading}", ".0%") for key, heading in FACTORS.items()),
)
# Pictures and surface of a scene that is known, and what they cost
GEOMETRY_COLUMNS = (
    Column("psnr", "PSNR", ".2f"),
    Column("ssim", "SSIM", ".4f"),
    *photo_geometry.COLUMNS[:6],
    Column("surface_mean", "surface mean", ".2e"),
    Column("normal_error_deg", "normals", ".2f"),
    Column("queries", "queries / ray", ".1f"),
    Column("steps", "steps", ",.0f"),
    Column("fit_seconds", "training s", ".0f"),
)
KEPT = {column.key for column in (*GEOMETRY_COLUMNS, *photo_geometry.COLUMNS)}
MIN_SPEED_UP = 1.05  # below which there is nothing to share out
# PSNR and seconds per frame of NeuS, then of DSS (ICME 2025, table II); and the share of foreground
# in the test photos, which we counted
PUBLISHED = {
    "hotdog": ((37.3, 45.4), (37.6, 6.5), None),
    "mic": ((32.0, 46.4), (32.2, 2.0), 0.119),
    "chair": ((30.1, 45.1), (31.3, 5.5), 0.208),
}
IN_A_FIGURE = {"chair": 30.7}  # PSNR of NeuS, where a figure of the paper contradicts its table


@dataclass(frozen=True)
class Trained:
    """A model, trained with changes to a configuration, by default the one of its name."""

    name: str
    config: str = ""
    overrides: tuple[str, ...] = ()

    def measure(
        self, path: Path, folder: Path, settings: EvalSettings, device: torch.device
    ) -> Row:
        """Every n-th test photo of the scene against its picture.

        Seconds are of one core on the CPU (process time, so that other work does not count), and of
        the clock on CUDA; `uncut` are the samples per ray if no ray ended early. `fit_seconds` and
        `steps` are of the training, and the geometry's metrics of scenes with a known surface.
        """
        file = CONFIGS / f"{self.config or self.name}.yaml"
        config = load_config(file, list(self.overrides), data=str(path))
        run = pipeline.fit_run(config, folder, device)
        scene = scene_of(run, "test", str(path), settings.every)
        photos = scene.photos
        # the first one warms up
        rows = [_measure_photo(run, photo) for photo in [photos[0], *photos]][1:]
        facts = _facts(folder)
        if is_file(scene.path / MESH):
            facts |= measure_run(run, resolution=settings.resolution).metrics
        return mean_of(rows) | {key: value for key, value in facts.items() if key in KEPT}


@dataclass(frozen=True)
class EqualSeconds:
    """The same as `of`, trained for as many seconds as `like` took: with more steps or fewer. Both
    must have been measured before."""

    of: Trained
    like: Trained

    @property
    def name(self) -> str:
        return f"{self.of.name}, equal seconds"

    def measure(
        self, path: Path, folder: Path, settings: EvalSettings, device: torch.device
    ) -> Row:
        """As `Trained`."""
        own, other = (
            _facts(folder.parents[1] / entry.name.replace(" ", "_") / folder.name)
            for entry in (self.of, self.like)
        )
        if not {"steps", "fit_seconds"} <= own.keys() & other.keys():
            raise InputError(
                f"{self.name}: {self.of.name} and {self.like.name} have not been timed; measure "
                "them first, in a new --out"
            )
        steps = max(1, round(own["steps"] * other["fit_seconds"] / own["fit_seconds"]))
        overrides = (*self.of.overrides, f"train.steps={steps}")
        same = Trained(self.name, self.of.config or self.of.name, overrides)
        return same.measure(path, folder, settings, device)


def _facts(folder: Path) -> Row:
    """What is known of the fit in a run folder."""
    file = folder / "fit.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _measure_photo(run: PhotoRun, photo: Photo) -> Row:
    cuda = run.model.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    picture = render_picture(
        run.model, run.sampler, photo.camera, run.background, run.config.render
    )
    if cuda:
        torch.cuda.synchronize()
    seconds = clock() - start
    return compare(picture, photo, run.background) | {
        "seconds": seconds,
        "uncut": _uncut(run, photo),
    }


@torch.no_grad()
def _uncut(run: PhotoRun, photo: Photo) -> float:
    """Samples per ray of a picture, if none ended at an inner sphere or for want of light."""
    sampler = copy.deepcopy(run.sampler)
    if sampler.shell is not None:
        sampler.shell.inner_radii.zero_()
    rays = zip(
        *(
            rays.split(run.config.render.chunk)
            for rays in photo.camera.rays(device=run.model.device)
        ),
        strict=True,
    )
    count = sum(len(sampler.sample(run.model, *chunk).ray) for chunk in rays)
    return count / (photo.camera.width * photo.camera.height)


def with_speed_ups(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows of one scene by configuration, each with its speed-up over the plain sampler of the
    same model."""
    result = {}
    for name, row in rows.items():
        config = load_config(CONFIGS / f"{name}.yaml")
        plain = next(
            (other for other, _ in rows.items() if _is_plain(other, config.model.method)), None
        )
        faster = speed_up(rows[plain], row) if plain not in (None, name) else {}
        result[name] = row | faster
    return result


def _is_plain(name: str, model: str) -> bool:
    config = load_config(CONFIGS / f"{name}.yaml")
    return config.model.method == model and config.sampler.method == "uniform"


def speed_up(plain: Row, row: Row) -> Row:
    """How many times faster a row is than the plain one; the factors that multiply to it, and their
    shares of it."""
    seen = 1 - row["background"]
    factors = {
        "empty": (1 - plain["background"]) / seen,
        "ended": row["uncut"] / row["samples"],
        "fewer": plain["samples"] / (1 - plain["background"]) * seen / row["uncut"],
        "cheaper": plain["seconds"] / plain["samples"] / (row["seconds"] / row["samples"]),
    }
    return _shared(plain["seconds"] / row["seconds"], factors)


def _shared(total: float, factors: dict[str, float]) -> Row:
    row = {"speed_up": total} | {f"{key}_factor": value for key, value in factors.items()}
    if total > MIN_SPEED_UP:
        row |= {f"{key}_share": math.log(value) / math.log(total) for key, value in factors.items()}
    return row


def published(scene: str) -> dict[str, Row]:
    """The paper's rows for a scene, where it has any."""
    name = scene.split("_")[0]
    if name not in PUBLISHED:
        return {}
    (psnr, seconds), (shell_psnr, shell_seconds), seen = PUBLISHED[name]
    factors = {"empty": 1 / seen} if seen else {}
    rows = {"NeuS, published, 800x800": {"psnr": psnr, "seconds": seconds}}
    if name in IN_A_FIGURE:
        rows["NeuS, published in a figure"] = {"psnr": IN_A_FIGURE[name]}
    theirs = {"psnr": shell_psnr, "seconds": shell_seconds}
    rows["DSS, published, 800x800"] = theirs | _shared(seconds / shell_seconds, factors)
    return rows
