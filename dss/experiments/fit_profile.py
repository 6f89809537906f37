"""Where the time of a fit goes, from the mesh file to the file of the field, stage by stage."""

import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dss import pipeline
from dss.config import MeshConfig
from dss.fitting.fit import fit
from dss.fitting.samples import draw_samples
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.geometry.sides import shares
from dss.rendering.buffers import render
from dss.run import load_samples, save_field, save_samples
from dss.shell.certify import build_shell, thick_share
from dss.shell.cover import cover
from dss.tables import Column

STAGES: dict[str, tuple[Callable, ...]] = {  # functions none of which calls another one of them
    "load the mesh": (load_mesh, MeshDistance.__init__),
    "cover": (cover,),
    "certificate": (build_shell,),
    "checks": (shares, thick_share),
    "samples": (draw_samples,),
    "fit": (fit,),
    "pictures while it runs": (render,),  # is within fit
    "files": (save_samples, load_samples, save_field),
}
COLUMNS = (
    Column("clock", "seconds by the clock", ".1f"),
    Column("processor", "processor seconds", ".1f"),
)

Row = dict[str, float]


def fit_profile(config: MeshConfig, folder: Path, device: torch.device) -> dict[str, Row]:
    """The seconds of each stage of two fits into subfolders of a folder, `clock` of the first and
    `processor`, those of all threads, of the second. What no stage has is `rest`."""
    rows: dict[str, Row] = {}
    for name, timer in (("clock", time.perf_counter), ("processor", time.process_time)):
        profile = cProfile.Profile(timer, builtins=False)
        start = timer()
        profile.runcall(pipeline.fit_run, config, folder / name, device)
        total = timer() - start
        seconds = _seconds(profile)
        seconds["fit"] -= seconds["pictures while it runs"]
        seconds |= {"rest": total - sum(seconds.values()), "total": total}
        for stage, value in seconds.items():
            rows.setdefault(stage, {})[name] = value
    return rows


def _seconds(profile: cProfile.Profile) -> Row:
    """The seconds within the functions of each stage."""
    within = {key: spent[3] for key, spent in pstats.Stats(profile).stats.items()}
    result = {}
    for stage, functions in STAGES.items():
        codes = [function.__code__ for function in functions]
        keys = [(code.co_filename, code.co_firstlineno, code.co_name) for code in codes]
        result[stage] = sum(within.get(key, 0.0) for key in keys)
    return result
