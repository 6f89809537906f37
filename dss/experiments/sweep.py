"""Many meshes with one configuration: a run folder for each, and one table of all."""

from collections.abc import Iterator
from pathlib import Path

import torch

from dss import pipeline
from dss.errors import InputError
from dss.evaluation.measure import measure_run
from dss.experiments.compare import Result
from dss.progress import Progress, silent
from dss.registry import load_config
from dss.tables import write_json


def sweep(
    config: str,
    meshes: list[Path],
    out: Path,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Iterator[Result]:
    """Fit and measure each mesh in the run folder out/MESH, or find it there; one that cannot be
    fitted says why."""
    for mesh in meshes:
        folder = out / mesh.stem
        try:
            run = pipeline.fit_run(load_config(config, data=str(mesh)), folder, device, progress)
            metrics = measure_run(run).metrics
        except InputError as error:
            yield Result(Path(config).stem, mesh.stem, None, str(error))
            continue
        write_json(folder / "eval.json", metrics)
        yield Result(Path(config).stem, mesh.stem, metrics)
