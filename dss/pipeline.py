"""The whole road as functions to call: mesh, cloud or photos -> Run. Scripts, tables and sweeps
call these."""

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dss.checkpoint import MISFITS, REMEDY, load_tensors
from dss.config import MAX_NUMBER, Config, MeshConfig, PhotoConfig
from dss.errors import InputError
from dss.fields import METHODS, Field, build
from dss.fields.base import Geometry, Samples
from dss.files import is_file, replacing
from dss.fitting.fit import fit, samples_seen
from dss.fitting.samples import draw_samples, oriented_samples
from dss.log import Log
from dss.progress import Event, Progress, silent
from dss.reconstruction.training import Training, train
from dss.reconstruction.volume_rendering import background_colour, render_picture
from dss.registry import check, load_config
from dss.rendering.buffers import render
from dss.rendering.cameras import turntable
from dss.rendering.images import studio
from dss.run import (
    MeshRun,
    PhotoRun,
    Run,
    Source,
    enter_folder,
    load_samples,
    open_folder,
    open_run,
    save_field,
    save_model,
    save_samples,
)
from dss.tables import write_json

if TYPE_CHECKING:
    from dss.evaluation.photos import Render
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

PICTURE = 160  # pixels per side of the pictures of a field in TensorBoard
DISTILLED = "fast"  # configuration of the field that stands for a model's surface
CELLS = 256  # marching-cubes cells per axis of the mesh that it is fitted to
MAX_THUMBNAIL = 100  # pixels per side of the pictures of a model in TensorBoard
LOG_EVERY = 20  # training steps between scalars in TensorBoard
MAX_THICK = 0.1  # share of the surface with a shell far too thick that is worth a warning


def fit_run(
    config: Config, folder: Path, device: torch.device | str = "cpu", progress: Progress = silent
) -> Run:
    """Fit what the configuration names into a run folder; whatever is there already is not made
    again.

    A run that was interrupted goes on where it stopped, and ends with the same field. Raises
    InputError on bad input.
    """
    device = torch.device(device)
    check(config)
    match config:
        case MeshConfig():
            return _fit_mesh(config, folder, device, progress)
        case PhotoConfig():
            return _fit_photos(config, folder, device, progress)


def import_weights(
    path: Path,
    config: MeshConfig,
    folder: Path,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> MeshRun:
    """The field that a method's authors fitted, as a run of ours. Raises InputError where the file
    is not theirs."""
    method = METHODS[config.field.method]
    if method.from_weights.__func__ is Field.from_weights.__func__:  # it refuses, before any work
        method.from_weights(path, config.field, {})
    enter_folder(folder, config)
    source, _, _, geometry = _geometry_of(config, torch.device(device), progress)
    field = method.from_weights(path, config.field, geometry)
    config = config.model_copy(update={"field": field.settings})
    open_folder(folder, config)
    progress(Event("field", 1, 1, f"{path}, {_kib(field)}"))
    return save_field(folder, field, config, source)


def _fit_mesh(
    config: MeshConfig, folder: Path, device: torch.device, progress: Progress
) -> MeshRun:
    enter_folder(folder, config)
    found = (folder / "samples.npz").is_file()
    if not found:
        prepare = _prepare_cloud if config.samples.method == "oriented" else _prepare_mesh
        prepare(config, folder, device, progress)
    source, geometry, rounds = load_samples(folder)
    if found:
        _check_samples(folder / "samples.npz", config, geometry, rounds)
    # The fit goes on without the file, but not beside another one of the same name.
    if config.mesh.path != "demo" and is_file(config.mesh.path):
        content = Path(config.mesh.path).read_bytes()
        _check_source(folder, source, hashlib.sha256(content).hexdigest())
    progress(Event("samples", 1, 1, f"{len(rounds[0]):,} x {len(rounds)} rounds"))
    if (folder / "field.safetensors").is_file():
        run = open_run(folder, device)
        progress(Event("field", 1, 1, "already fitted"))
        return run

    state = folder / "training.safetensors"
    _check_threads(state, device, progress)
    resumed, clock, core = state.is_file(), time.perf_counter(), time.process_time()
    with Log(folder, "fit", config.fit.epochs, progress) as log:

        def report(epoch: int, field: Field, scalars: dict[str, float]) -> None:
            log.scalars(epoch, scalars)
            if epoch % config.fit.checkpoint == 0 or epoch == config.fit.epochs:
                log.picture(epoch, "normals", lambda: _thumbnail(field))

        field = fit(config, geometry, rounds, device, state, report)
    seconds = time.perf_counter() - clock
    facts = {"samples": samples_seen(config, rounds)}
    if not resumed:  # else only the last part was timed
        facts["fit_seconds"] = time.process_time() - core if device.type == "cpu" else seconds
    write_json(folder / "fit.json", facts)
    run = save_field(folder, field, config, source)
    coded = "" if field.code_steps is None else f", coded in {run.file.stat().st_size:,} bytes"
    progress(Event("field", 1, 1, f"{seconds:.0f} s, {_kib(field)}{coded}"))
    return run


def _geometry_of(
    config: MeshConfig, device: torch.device, progress: Progress
) -> tuple[Source, "Mesh", "MeshDistance", Geometry]:
    """The mesh, its distance, and the tensors that the field is built on."""
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import load_mesh
    from dss.geometry.sides import shares

    mesh = load_mesh(config.mesh.path, config.mesh.radius, config.mesh.repair)
    distance = MeshDistance(mesh.vertices, mesh.faces, device)
    surface = shares(distance)
    progress(Event("mesh", 1, 1, "; ".join(filter(None, [str(mesh.report), surface.note]))))
    for text in surface.warnings(mesh.report):
        progress(Event("warning", 1, 1, text))
    geometry = METHODS[config.field.method].build_geometry(mesh, distance, config)
    return Source(config.mesh.path, mesh.sha256, mesh.similarity), mesh, distance, geometry


def _prepare_mesh(
    config: MeshConfig, folder: Path, device: torch.device, progress: Progress
) -> None:
    """Everything up to the samples: the part that needs the mesh and its libraries."""
    from dss.shell.certify import THICK, thick_share

    source, mesh, distance, geometry = _geometry_of(config, device, progress)
    field = build(config.field, geometry)
    if shell := field.shell:
        thickness = f"thickness {shell.thickness.mean():.4f} mean, {shell.thickness.max():.4f} max"
        progress(Event("shell", 1, 1, f"{len(shell)} spheres, {thickness}"))
        if (thick := thick_share(distance, shell)) > MAX_THICK:
            text = f"the shell is over {THICK} times as thick as the solid on {thick:.0%} of it"
            remedy = "expect loose pieces and holes; choose a larger spheres.count"
            progress(Event("warning", 1, 1, f"{text}: {remedy}"))
    rounds = []
    for number, seed in enumerate(seeds := _seeds(config)):
        progress(Event("samples", number, len(seeds), ""))
        samples = draw_samples(mesh, distance, field.shell, config.samples, field.owner_rule, seed)
        rounds.append(field.owned(samples))
    open_folder(folder, config)
    save_samples(folder, source, geometry, rounds)


def _prepare_cloud(
    config: MeshConfig, folder: Path, device: torch.device, progress: Progress
) -> None:
    """The samples of an oriented point cloud, or of one that is drawn from a mesh."""
    from dss.geometry.mesh import load_mesh
    from dss.geometry.points import is_cloud, load_points, sample_points

    path, settings = config.mesh.path, config.samples
    if is_cloud(path):
        if config.mesh.repair != "none":
            reason = f"mesh.repair={config.mesh.repair}: {path} is a point cloud"
            raise InputError(f"{reason}; only meshes are repaired, so leave it out")
        cloud = load_points(path, config.mesh.radius, settings.normals)
    else:
        mesh = load_mesh(path, config.mesh.radius, config.mesh.repair)
        cloud = sample_points(mesh, settings.points, config.seed)
    kind = "estimated" if cloud.estimated else "given"
    progress(Event("cloud", 1, 1, f"{len(cloud.points):,} points, {kind} normals"))
    source = Source(path, cloud.sha256, cloud.similarity)
    arguments = settings.count, settings.spread, settings.uniform_share
    rounds = [oriented_samples(cloud, *arguments, seed) for seed in _seeds(config)]
    open_folder(folder, config)
    save_samples(folder, source, {}, rounds)


def _seeds(config: MeshConfig) -> range:
    """One seed for each round of samples."""
    return range(config.seed, config.seed + -(-config.fit.epochs // config.fit.resample))


def _fit_photos(
    config: PhotoConfig, folder: Path, device: torch.device, progress: Progress
) -> PhotoRun:
    from dss.reconstruction.made_scene import demo_scene
    from dss.reconstruction.scene import load_scene

    enter_folder(folder, config)
    if config.scene.path == "demo":
        demo_scene(progress)
    scene = load_scene(config.scene, "train")
    open_folder(folder, config)
    camera, similarity = scene.photos[0].camera, scene.similarity
    center = ", ".join(f"{value:.3g}" for value in similarity.center)
    ball = f"unit ball of radius {similarity.scale:.3g} about ({center})"
    progress(
        Event(
            "scene", 1, 1, f"{len(scene.photos)} photos of {camera.width}x{camera.height}; {ball}"
        )
    )
    if (folder / "model.safetensors").is_file():
        run = open_run(folder, device)
        _check_source(folder, run.source, scene.sha256)
        progress(Event("model", 1, 1, "already trained"))
        return run

    thumbnail = camera.downscaled(max(1, -(-max(camera.width, camera.height) // MAX_THUMBNAIL)))
    background, start = background_colour(config.scene, device), time.perf_counter()
    state = folder / "training.safetensors"
    _check_threads(state, device, progress)
    with Log(folder, "train", config.train.steps, progress) as log:

        def report(training: Training, scalars: dict[str, torch.Tensor | float]) -> None:
            step, last = training.step, training.step == config.train.steps
            if step % LOG_EVERY == 0 or last:
                log.scalars(step, scalars | training.model.scalars())
            if step % config.train.checkpoint == 0 or last:
                seen = render_picture(
                    training.model, training.sampler, thumbnail, background, config.render
                )
                log.picture(step, "colour", lambda: seen.colour)
                log.picture(step, "normals", seen.normal_map)

        training = train(config, scene, device, state, report)
    progress(Event("model", 1, 1, f"{time.perf_counter() - start:.0f} s"))
    facts = {"steps": training.step}
    if training.seconds is not None:
        facts["fit_seconds"] = training.seconds
    write_json(folder / "fit.json", facts)
    source = Source(config.scene.path, scene.sha256, similarity)
    return save_model(folder, training.model, training.sampler, config, source)


def photo_render(run: PhotoRun, by: str = "volume", progress: Progress = silent) -> "Render":
    """How pictures of a run are made: by `volume` rendering; by its `surface`, sphere traced; or
    `distilled`, by the surface of a small field that is fitted to it first, in the run's folder."""
    from dss.evaluation.photos import surface_render, volume_render

    if by == "volume":
        return volume_render(run)
    if by == "surface":
        return surface_render(run)
    from dss.reconstruction.surface_rendering import field_tracer

    folder = run.folder / "distilled"
    path = folder / "surface.ply"
    if not path.is_file():
        with replacing(path) as temporary:
            run.surface(CELLS).export(temporary)  # in unit coordinates
    config = load_config(DISTILLED, data=str(path))
    fitted = fit_run(config, folder / "run", run.model.device, progress)
    return surface_render(run, field_tracer(fitted.field, fitted.source.similarity))


def _check_samples(
    path: Path, config: MeshConfig, geometry: Geometry, rounds: list[Samples]
) -> None:
    """Raise InputError where the samples in a file are not those of the configured field."""
    try:
        field = build(config.field, geometry)
        field.sdf(torch.zeros(2, 3))
        owners = range(len(field.shell)) if field.shell else range(-1, MAX_NUMBER)
        for samples in rounds:
            low, high = samples.owner.min().item(), samples.owner.max().item()
            if low not in owners or high not in owners:
                raise ValueError(f"samples belong to spheres {low} to {high}")
        if len(rounds) != len(_seeds(config)):
            raise ValueError(f"{len(rounds)} rounds, not {len(_seeds(config))}")
    except MISFITS as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({reason}); {REMEDY}") from error


def _check_source(folder: Path, source: Source, sha256: str) -> None:
    """Raise InputError where the run was made from other contents than there are now."""
    if source.sha256 != sha256:
        raise InputError(
            f"{source.path}: not what {folder} was fitted to (its contents differ); choose another "
            "--out, or delete the folder"
        )


def _check_threads(state: Path, device: torch.device, progress: Progress) -> None:
    """Say so where an unfinished fit goes on with another number of threads: sums are then rounded
    in another order."""
    if device.type == "cpu" and state.is_file():
        before, now = load_tensors(state)[1].get("threads"), torch.get_num_threads()
        if before not in (None, now):  # None: of an earlier version
            text = f"begun with {before} threads, goes on with {now}; not the same to the last bit"
            progress(Event("warning", 1, 1, f"{text} (OMP_NUM_THREADS={before} would be)"))


def _kib(field: Field) -> str:
    return f"{sum(field.storage().values()) / 1024:.1f} KiB"


def _thumbnail(field: Field) -> np.ndarray:
    """A small view of the field, for TensorBoard."""
    (camera,) = turntable(1, PICTURE)
    seen = render(field, camera)
    return studio(seen.in_camera(seen.normal), seen.in_camera(seen.view), seen.hit)
