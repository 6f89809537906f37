"""Samplers and base models against scenes: trains what is missing, measures the pictures, and says where the time went.

A frame is faster than the plain sampler's because rays are empty, because they end early, and because those that are left
have fewer samples; what remains is the cost of a sample, its up-sampling included. The factors multiply to the speed-up, and
their shares are those of its logarithm.
"""

import copy
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch

from dss.errors import InputError
from dss.evaluation.geometry import markdown
from dss.evaluation.images import mean
from dss.evaluation.photos import compare, scene_of
from dss.files import replacing
from dss.reconstruction.run import ViewsRun, load_views_run
from dss.reconstruction.samplers.base import Sampler
from dss.reconstruction.scene import Photo
from dss.reconstruction.volume_rendering import render_picture

ROOT = Path(__file__).resolve().parents[2]
TINY = [f"{name}_tiny" for name in ("neus", "neus_occupancy", "neus_shell", "neus_spheres", "volsdf", "volsdf_spheres")]
TINY += [f"{name}_tiny" for name in ("unisurf", "unisurf_spheres")]
PUBLISHED = {  # PSNR and seconds per frame of NeuS and DSS (ICME 2025, table II), and the foreground of the test photos, by us
    "hotdog": ((37.3, 45.4), (37.6, 6.5), None),
    "mic": ((32.0, 46.4), (32.2, 2.0), 0.119),
    "chair": ((30.1, 45.1), (31.3, 5.5), 0.208),
}
FACTORS = {"empty": "empty rays", "ended": "rays ended", "fewer": "fewer samples", "cheaper": "cost per sample"}
HEAD = ["", "PSNR", "SSIM", "s / frame", "samples / ray", "background", "speed-up", *FACTORS.values()]


def rows(names: list[str], scenes: list[Path], out: Path, every: int, device: torch.device) -> dict[str, dict]:
    """The measurements {scene: {configuration: row}} of configurations of configs/, by run folders out/CONFIGURATION/SCENE.

    Raises InputError with train.py's reason where a training fails.
    """
    return {
        scene.name: {name: measure(trained(name, scene, out / name / scene.name, device), scene, every) for name in names}
        for scene in scenes
    }


def trained(name: str, scene: Path, folder: Path, device: torch.device) -> ViewsRun:
    """The run in `folder`, which train.py makes, resumes or finds finished."""
    config = ROOT / "configs" / f"{name}.yaml"
    command = [sys.executable, ROOT / "train.py", "--device", device.type, "--config", config, "--data", scene, "--out", folder]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise InputError(f"{name}, {scene.name}: {done.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
    return load_views_run(folder, device)


def measure(run: ViewsRun, path: Path, every: int) -> dict[str, float | str]:
    """Every n-th test photo of the scene against its picture. What has been measured is found in the run folder again.

    Seconds are of one core on the CPU (process time, so that other work does not count), and of the clock on CUDA; `uncut` are
    the samples per ray if no ray ended early.
    """
    file, asked = run.folder / "comparison.json", {"scene": str(path), "every": every}
    if file.is_file() and (known := json.loads(file.read_text()))["asked"] == asked:
        return known["row"]
    photos = scene_of(run, "test", str(path), every).photos
    values = [photo_row(run, photo) for photo in [photos[0], *photos]][1:]  # the first one warms up
    row = {"model": run.config.model.method, "sampler": run.config.sampler.method, **mean(values)}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps({"asked": asked, "row": row}, indent=2) + "\n")
    return row


def photo_row(run: ViewsRun, photo: Photo) -> dict[str, float]:
    """One photo's measurements."""
    cuda = run.model.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    start = clock()
    picture = render_picture(run.model, run.sampler, photo.camera, run.background, run.config.render)
    if cuda:
        torch.cuda.synchronize()
    seconds = clock() - start
    return compare(picture, photo, run.background) | {"seconds": seconds, "uncut": uncut(run, photo)}


@torch.no_grad()
def uncut(run: ViewsRun, photo: Photo) -> float:
    """Samples per ray of a picture, if none ended at an inner sphere or for want of light."""
    pixels = photo.camera.centers().to(run.model.device)
    sampler: Sampler = copy.deepcopy(run.sampler)
    if sampler.shell is not None:
        sampler.shell.inner_radii.zero_()
    parts = [len(sampler.sections(run.model, *photo.camera.rays(part)).ray) for part in pixels.split(run.config.render.chunk)]
    return sum(parts) / len(pixels)


def factors(plain: dict, row: dict) -> dict[str, float]:
    """What the seconds of `plain` over those of `row` are the product of."""
    seen = 1 - row["background"]
    return {
        "empty": (1 - plain["background"]) / seen,
        "ended": row["uncut"] / row["samples"],
        "fewer": plain["samples"] / (1 - plain["background"]) * seen / row["uncut"],
        "cheaper": plain["seconds"] / plain["samples"] / (row["seconds"] / row["samples"]),
    }


def tables(found: dict[str, dict[str, dict]]) -> str:
    """One Markdown table per scene: ours, with the speed-up over the plain sampler of the same model, and what was published."""
    parts = []
    for scene, measured in found.items():
        cells = [HEAD]
        for name, row in measured.items():
            line = [name, *(format(row[key], style) for key, style in (("psnr", ".2f"), ("ssim", ".4f"), ("seconds", ".3f")))]
            line += [format(row["samples"], ".1f"), format(row["background"], ".1%")]
            plain = next((r for r in measured.values() if r["model"] == row["model"] and r["sampler"] == "uniform"), None)
            cells.append(line + (speed(plain["seconds"] / row["seconds"], factors(plain, row)) if plain and plain is not row else [""] * 5))
        cells += published(scene)
        parts.append(f"{scene}\n\n{markdown(cells)}")
    return "\n\n".join(parts)


def published(scene: str) -> list[list[str]]:
    """The paper's rows for a scene, where it has any."""
    known = PUBLISHED.get(scene.split("_")[0])
    if known is None:
        return []
    (psnr, seconds), (shell_psnr, shell_seconds), seen = known
    parts = {"empty": 1 / seen} if seen else {}
    return [
        ["NeuS, published, 800x800", f"{psnr:.1f}", "", f"{seconds:.1f}", *[""] * 7],
        ["DSS, published, 800x800", f"{shell_psnr:.1f}", "", f"{shell_seconds:.1f}", "", "", *speed(seconds / shell_seconds, parts)],
    ]


def speed(total: float, parts: dict[str, float]) -> list[str]:
    """Cells: the speed-up, and its factors with their shares of it."""
    share = {key: f" ({math.log(value) / math.log(total):.0%})" if total > 1.05 else "" for key, value in parts.items()}
    return [f"{total:.1f}x", *(f"{parts[key]:.1f}x{share[key]}" if key in parts else "" for key in FACTORS)]


def save(out: Path, found: dict[str, dict[str, dict]]) -> None:
    """views.md and views.json in `out`."""
    with replacing(out / "views.md") as temporary:
        temporary.write_text(tables(found) + "\n")
    with replacing(out / "views.json") as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n")
