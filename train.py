"""Fit a field to a mesh or a point cloud, or learn a surface from photos, into a run folder.

    python train.py                                      the demo, configs/quickstart.yaml
    python train.py --config fast --mesh bunny.obj --out runs/bunny fit.epochs=50
    python train.py --config deepsdf_points_smooth --mesh cloud.pts
    python train.py --config neus_shell_tiny --data nerf_synthetic/chair
    python train.py --config neus_shell_tiny             photos of the demo mesh

A run that was interrupted is resumed by the same command.
"""

from pathlib import Path

from dss import cli


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help="change single values of the configuration",
    )
    options.add_argument(
        "--config", default="quickstart", help="a YAML file, or the name of one in configs/"
    )
    options.add_argument(
        "--data", "--mesh", help="what to fit: a mesh, a point cloud, or the folder of a scene"
    )
    options.add_argument(
        "--weights", type=Path, help="import this file of the method's authors instead of fitting"
    )
    options.add_argument(
        "--out", type=Path, help="the run folder (default: runs/CONFIG, or runs/CONFIG_DATA)"
    )
    args = options.parse_intermixed_args()
    with cli.importing():
        from dss import pipeline
        from dss.config import MeshConfig
        from dss.registry import load_config
        from dss.run import MeshRun, PhotoRun

    config = load_config(args.config, args.overrides, args.data)
    path = config.mesh.path if isinstance(config, MeshConfig) else config.scene.path
    name = [] if path == "demo" else [Path(path).stem]
    folder = args.out or Path("runs", "_".join([Path(args.config).stem, *name]))
    device, terminal = cli.pick_device(args.device), cli.Terminal()

    if args.weights:
        if not isinstance(config, MeshConfig):
            cli.refuse(args, "surfaces from photos", "weights")
        run = pipeline.import_weights(args.weights, config, folder, device, terminal)
    else:
        run = pipeline.fit_run(config, folder, device, terminal)
    match run:
        case MeshRun():
            print(f"next: python eval.py {folder}; python render.py {folder}")
        case PhotoRun():
            print(
                f"next: python eval_ssim.py {folder} --split test; python render.py {folder} "
                "--split test"
            )


if __name__ == "__main__":
    cli.run(main)
