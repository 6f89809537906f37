"""Fit a field to a mesh: mesh -> key spheres -> dual shell -> samples -> fit -> run folder.

    python train.py                                     the demo, configs/quickstart.yaml
    python train.py --config configs/fast.yaml --mesh bunny.obj --out runs/bunny fit.epochs=50
    python train.py --config configs/neus_shell.yaml --data nerf_synthetic/chair    a surface from photos

A run that was interrupted is resumed by the same command.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from dss import cli
from dss.config import Config, load_config
from dss.errors import InputError
from dss.fields import METHODS, Field, build
from dss.fields.base import Geometry
from dss.files import replacing
from dss.fitting.fit import fit
from dss.fitting.samples import draw_samples
from dss.reconstruction.config import ViewsConfig
from dss.reconstruction.run import ViewsLog, is_views, save_run
from dss.rendering.buffers import render
from dss.rendering.cameras import turntable
from dss.rendering.images import studio
from dss.run import Log, Source, load_samples, open_folder, save_field, save_samples

if TYPE_CHECKING:
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import Mesh

PICTURE = 160  # pixels per side of the pictures in TensorBoard
AMBIGUOUS = 0.01  # share of the surface above which an ambiguous sign is worth a warning
QUICKSTART = Path(__file__).parent / "configs" / "quickstart.yaml"


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change single values of the configuration")
    options.add_argument("--config", type=Path, default=QUICKSTART, help="a YAML file, see configs/")
    options.add_argument("--mesh", help="the mesh to fit; the same as mesh.path=FILE")
    options.add_argument("--data", help="the folder of photos to learn a surface from; the same as scene.path=FOLDER")
    options.add_argument("--weights", type=Path, help="import this file of the method's authors instead of fitting")
    options.add_argument("--out", type=Path, help="the run folder (default: runs/CONFIG, or runs/CONFIG_MESH)")
    args = options.parse_intermixed_args()
    if is_views(args.config):
        train_views(args)
        return
    if args.mesh:
        args.overrides.append(f"mesh.path={args.mesh}")
    config = load_config(args.config, args.overrides)
    mesh_name = [] if config.mesh.path == "demo" else [Path(config.mesh.path).stem]
    folder = args.out or Path("runs", "_".join([args.config.stem, *mesh_name]))
    device = cli.pick_device(args.device)

    if args.weights:
        import_weights(args.weights, config, folder, device)
    else:
        open_folder(folder, config)
        if not (folder / "samples.npz").is_file():
            prepare(config, folder, device)
        fit_samples(config, folder, device)
    print(f"next: python eval.py {folder}; python render.py {folder}")


def fit_samples(config: Config, folder: Path, device: torch.device) -> None:
    """From the samples to the field."""
    source, geometry, rounds = load_samples(folder)
    print(f"samples   {len(rounds[0]):,} x {len(rounds)} rounds")
    if (folder / "field.safetensors").is_file():
        print("field     already fitted")
        return
    state, start, core = folder / "training.safetensors", time.perf_counter(), time.process_time()
    resumed = state.is_file()
    with Log(folder, config.fit.epochs, picture, config.fit.checkpoint) as log:
        field = fit(config, geometry, rounds, device, state, log.report)
    facts = {"samples": config.fit.epochs * len(rounds[0])}  # seen in the fit
    if not resumed:  # else only the last part was timed
        facts["fit_seconds"] = time.process_time() - core if device.type == "cpu" else time.perf_counter() - start
    with replacing(folder / "fit.json") as temporary:
        temporary.write_text(json.dumps(facts) + "\n")
    save_field(folder, field, config, source)
    print(f"fit       {time.perf_counter() - start:.0f} s, {sum(field.storage().values()) / 1024:.1f} KiB")


def import_weights(path: Path, config: Config, folder: Path, device: torch.device) -> None:
    """The field that a method's authors fitted, as a run of ours."""
    source, _, _, geometry = stand(config, device)
    field = METHODS[config.field.method].from_weights(path, config.field, geometry)
    config = replace(config, field=field.settings)
    open_folder(folder, config)
    save_field(folder, field, config, source)
    print(f"field     {path}, {sum(field.storage().values()) / 1024:.1f} KiB")


def stand(config: Config, device: torch.device) -> tuple[Source, "Mesh", "MeshDistance", Geometry]:
    """The mesh, and what the field stands on."""
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import load_mesh

    mesh = load_mesh(config.mesh.path, config.mesh.radius)
    print(f"mesh      {mesh.report}")
    distance = MeshDistance(mesh.vertices, mesh.faces, device)
    if (ambiguous := distance.ambiguous_share()) > AMBIGUOUS:
        print(f"warning   inside and outside are ambiguous on {ambiguous:.0%} of the surface: expect a wrong sign there; close the holes")
    geometry = METHODS[config.field.method].geometry(mesh, distance, config)
    return Source(config.mesh.path, mesh.sha256, tuple(mesh.center.tolist()), mesh.scale), mesh, distance, geometry


def prepare(config: Config, folder: Path, device: torch.device) -> None:
    """Everything up to the samples: the part that needs the mesh and its libraries."""
    if config.samples.method == "oriented":
        prepare_cloud(config, folder)
        return
    source, mesh, distance, geometry = stand(config, device)
    field = build(config.field, geometry)
    if shell := field.shell:
        print(f"shell     {len(shell)} spheres, thickness {shell.thickness.mean():.4f} mean, {shell.thickness.max():.4f} max")
    drawn = [draw_samples(mesh, distance, field.shell, config.samples, field.owner_rule, seed) for seed in seeds_of(config)]
    save_samples(folder, source, geometry, drawn)


def prepare_cloud(config: Config, folder: Path) -> None:
    """The samples of an oriented point cloud, or of one that is drawn from a mesh."""
    from dss.geometry.mesh import load_mesh
    from dss.geometry.points import is_cloud, load_points, sample_points

    if METHODS[config.field.method].stands_on:
        raise InputError(f"field.method={config.field.method}: stands on a mesh; for a point cloud choose another, such as deepsdf")
    path, samples = config.mesh.path, config.samples
    if is_cloud(path):
        cloud = load_points(path, config.mesh.radius, samples.normals)
    else:
        cloud = sample_points(load_mesh(path, config.mesh.radius), samples.points, config.seed)
    print(f"cloud     {len(cloud.points):,} points, {'estimated' if cloud.estimated else 'given'} normals")
    source = Source(path, cloud.sha256, tuple(cloud.center.tolist()), cloud.scale)
    save_samples(folder, source, {}, [cloud.samples(samples.count, samples.spread, samples.uniform, seed) for seed in seeds_of(config)])


def seeds_of(config: Config) -> tqdm:
    """One seed for each round of samples."""
    rounds = -(-config.fit.epochs // config.fit.resample)
    return tqdm(range(config.seed, config.seed + rounds), "samples", disable=None, leave=False)


def train_views(args: argparse.Namespace) -> None:
    """A surface from photos: scene -> model -> run folder."""
    from dss.reconstruction.scene import load_scene
    from dss.reconstruction.training import train

    config = load_config(args.config, args.overrides + ([f"scene.path={args.data}"] if args.data else []), ViewsConfig)
    folder = args.out or Path("runs", f"{args.config.stem}_{Path(config.scene.path).name}")
    device = cli.pick_device(args.device)
    scene = load_scene(config.scene, "train")
    open_folder(folder, config)
    camera, frame = scene.photos[0].camera, scene.frame
    ball = f"unit ball of radius {frame.scale:.3g} about ({', '.join(f'{value:.3g}' for value in frame.center)})"
    print(f"scene     {len(scene.photos)} photos of {camera.width}x{camera.height}; {ball}")
    if (folder / "model.safetensors").is_file():
        print("model     already trained")
    else:
        start = time.perf_counter()
        with ViewsLog(folder, config, scene) as log:
            training = train(config, scene, device, folder / "training.safetensors", log.report)
        save_run(folder, training)
        print(f"training  {time.perf_counter() - start:.0f} s")
    print(f"next: python eval_ssim.py {folder} --split test; python render.py {folder} --split test")


def picture(field: Field) -> np.ndarray:
    """A small view of the field, for TensorBoard."""
    (camera,) = turntable(1, PICTURE)
    frame = render(field, camera)
    return studio(frame.in_camera(frame.normal), frame.in_camera(frame.view), frame.hit)


if __name__ == "__main__":
    cli.run(main)
