"""Measure on a GPU what this project wants to know from one, the most valuable first.

    python scripts/measure_gpu.py INPUTS --prepare 53159.ply            on a machine with all of dss
    PYTHONPATH=. python scripts/measure_gpu.py INPUTS --out gpu.json    on the machine with the GPU
    python scripts/measure_gpu.py INPUTS --out gpu.json --report        writes docs/results.md

Are the operators right; frames in several sizes, with their quality; fits to the error of a CPU's;
meshes; compute-sanitizer; surfaces from photos; the paper's tables. Each stage has its own share of
the --minutes. The file is written after every row: a cut run keeps what it has, and the same
command goes on. Of the inputs, a stage needs what dss/experiments/gpu_inputs.py says; one for which
a package is missing is skipped, and says so. `--device cpu --quick` shows that everything runs.
"""

import os
from pathlib import Path

from dss import cli
from dss.experiments import gpu_report, stages

RESULTS = Path(__file__).parents[1] / "docs/results.md"


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("inputs", type=Path, help="folder of what is measured with")
    options.add_argument(
        "--prepare", metavar="MESH", help="make the inputs of a mesh, or of `demo`"
    )
    options.add_argument("--out", type=Path, default=Path("docs/gpu.json"), help="what came out")
    options.add_argument("--minutes", type=float, default=stages.MINUTES, help="in all")
    options.add_argument("--scene", type=Path, help="folder of photos")
    options.add_argument("--quick", action="store_true", help="only show that everything runs")
    options.add_argument("--report", action="store_true", help="write docs/results.md from --out")
    args = options.parse_args()
    if args.report:
        gpu_report.replace_section(RESULTS, stages.known(args.out))
        print(f"next: look at {RESULTS}")
        return
    from dss.experiments import gpu_inputs, gpu_stages

    if args.prepare:
        gpu_inputs.prepare(args.inputs, args.prepare, args.quick)
        print(f"next: measure_gpu.py {args.inputs} --out gpu.json, on the machine with the GPU")
        return
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # only the stages may touch the GPU
    device = cli.pick_device(args.device)
    with stages.FORK.Pool(1) as pool:
        about = pool.apply(gpu_stages.machine, (device, args.quick))

    def bench() -> gpu_stages.Bench:
        inputs = gpu_inputs.Inputs(args.inputs, device)
        return gpu_stages.Bench(inputs, args.out.with_suffix(""), device, args.quick, args.scene)

    stages.run(gpu_stages.STAGES, bench, args.out, about, args.minutes)
    print(f"next: measure_gpu.py {args.inputs} --out {args.out} --report")


if __name__ == "__main__":
    cli.run(main)
