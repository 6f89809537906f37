"""Fit a field to a mesh: mesh -> key spheres -> dual shell -> samples -> fit -> run folder.

    python train.py                                     the demo, configs/quickstart.yaml
    python train.py --config configs/fast.yaml --mesh bunny.obj --out runs/bunny fit.epochs=50

A run that was interrupted is resumed by the same command.
"""

import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dss import cli
from dss.config import Config, load_config
from dss.fields import Field
from dss.fit import fit
from dss.frame import render
from dss.pictures import studio
from dss.rays import turntable
from dss.run import Log, Source, load_samples, open_folder, save_field, save_samples
from dss.samples import draw_samples

PICTURE = 160  # pixels per side of the pictures in TensorBoard
AMBIGUOUS = 0.01  # share of the surface above which an ambiguous sign is worth a warning
QUICKSTART = Path(__file__).parent / "configs" / "quickstart.yaml"


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change single values of the configuration")
    options.add_argument("--config", type=Path, default=QUICKSTART, help="a YAML file, see configs/")
    options.add_argument("--mesh", help="the mesh to fit; the same as mesh.path=FILE")
    options.add_argument("--out", type=Path, help="the run folder (default: runs/CONFIG, or runs/CONFIG_MESH)")
    args = options.parse_intermixed_args()
    if args.mesh:
        args.overrides.append(f"mesh.path={args.mesh}")
    config = load_config(args.config, args.overrides)
    mesh_name = [] if config.mesh.path == "demo" else [Path(config.mesh.path).stem]
    folder = args.out or Path("runs", "_".join([args.config.stem, *mesh_name]))
    device = cli.pick_device(args.device)

    open_folder(folder, config)
    if not (folder / "samples.npz").is_file():
        prepare(config, folder, device)
    source, shell, rounds = load_samples(folder)
    print(f"shell     {len(shell)} spheres, thickness {shell.thickness.mean():.4f} mean, {shell.thickness.max():.4f} max")
    print(f"samples   {len(rounds[0]):,} x {len(rounds)} rounds")

    if (folder / "field.safetensors").is_file():
        print("field     already fitted")
    else:
        start = time.perf_counter()
        with Log(folder, config.fit.epochs, picture, config.fit.checkpoint) as log:
            field = fit(config, shell, rounds, device, folder / "training.safetensors", log.report)
        save_field(folder, field, config, source)
        print(f"fit       {time.perf_counter() - start:.0f} s, {sum(field.storage().values()) / 1024:.1f} KiB")
    print(f"next: python eval.py {folder}; python render.py {folder}")


def prepare(config: Config, folder: Path, device: torch.device) -> None:
    """Everything up to the samples: the part that needs the mesh and its libraries."""
    from dss.cover import cover
    from dss.distance import MeshDistance
    from dss.enclosure import build_shell
    from dss.mesh import load_mesh
    from dss.spheres import farthest

    mesh = load_mesh(config.mesh.path, config.mesh.radius)
    print(f"mesh      {mesh.report}")
    distance = MeshDistance(mesh.vertices, mesh.faces, device)
    if (ambiguous := distance.ambiguous_share()) > AMBIGUOUS:
        print(f"warning   inside and outside are ambiguous on {ambiguous:.0%} of the surface: expect a wrong sign there; close the holes")
    if config.spheres.method == "farthest":
        spheres = farthest(distance, config.spheres.count, config.spheres.resolution)
    else:
        spheres = cover(distance, config.spheres.count, config.seed)
    shell = build_shell(mesh.vertices, mesh.faces, *spheres, seed=config.seed)
    print(f"spheres   {len(shell)} by {config.spheres.method}, enclosure certified for every triangle")
    rounds = -(-config.fit.epochs // config.fit.resample)
    seeds = tqdm(range(config.seed, config.seed + rounds), "samples", disable=None, leave=False)
    drawn = [draw_samples(mesh, distance, shell, config.samples, config.field.owner, seed) for seed in seeds]
    source = Source(config.mesh.path, mesh.sha256, tuple(mesh.center.tolist()), mesh.scale)
    save_samples(folder, source, shell, drawn)


def picture(field: Field) -> np.ndarray:
    """A small view of the field, for TensorBoard."""
    (camera,) = turntable(1, PICTURE)
    frame = render(field, camera)
    return studio(frame.in_camera(frame.normal), frame.in_camera(frame.view), frame.hit)


if __name__ == "__main__":
    cli.run(main)
