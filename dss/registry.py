"""Everything that plugs in, and configurations read and checked against it."""

import os
from contextlib import suppress
from pathlib import Path

from dss import config as configuration
from dss.config import Config, MeshConfig, PhotoConfig
from dss.errors import InputError
from dss.fields import METHODS
from dss.files import is_file
from dss.reconstruction.models import MODELS
from dss.reconstruction.samplers import SAMPLERS

LEARNT = 16  # bytes of a parameter with its gradient and the optimiser's two moments
MIN_START = 10_000  # bytes of a field with its optimisers, however small
CONFIGS = Path(__file__).parents[1] / "configs"  # that ship with the project
PLUGINS = {
    section: {name: kind.Settings for name, kind in found.items()}
    for section, found in (("field", METHODS), ("model", MODELS), ("sampler", SAMPLERS))
}


def load_config(
    path: Path | str | None, overrides: list[str] = (), data: str | None = None
) -> Config:
    """The configuration in a file, or of that name in configs/ (None: all defaults), with
    overrides; see `dss.config`.

    `data` is what to fit: a mesh, a point cloud or the folder of a scene.
    """
    if path is not None and not is_file(path) and is_file(CONFIGS / f"{path}.yaml"):
        path = CONFIGS / f"{path}.yaml"
    if data:
        photos = path is not None and "scene" in configuration.read_yaml(Path(path))
        overrides = [*overrides, f"{'scene' if photos else 'mesh'}.path={data}"]
    config = configuration.load_config(path, list(overrides), PLUGINS)
    check(config)
    return config


def check(config: Config) -> None:
    """Raise InputError where the settings cannot work together, or not on this machine, before any
    work is done."""
    if isinstance(config, MeshConfig):
        method, field = config.samples.method, config.field.method
        if method not in (known := METHODS[field].samplings):
            reasons = {
                "pairs": "needs a field with a shell",
                "partition": "needs a field with a shell",
                "oriented": f"{field} is built on a mesh",
            }
            reason = reasons.get(method, f"{field} cannot learn from such samples")
            raise InputError(
                f"samples.method={method}: {reason}; for field.method={field} choose "
                f"{' or '.join(known)}"
            )
        if config.fit.rate_weight and config.fit.keep == "best":
            raise InputError(
                "fit.keep=best: the epochs of a coded field differ in bytes, too; choose last"
            )
    memory = machine_memory()
    for names, size in _sizes(config).items():
        if size > memory:
            raise InputError(
                f"{names}: need {size / 1e9:,.0f} GB of memory, and this machine has "
                f"{memory / 1e9:,.0f}; choose smaller numbers"
            )


def _sizes(config: Config) -> dict[str, int]:
    """Bytes that are needed at least, by the settings that they follow from."""
    if isinstance(config, PhotoConfig):
        return {
            "model": LEARNT * config.model.least_parameters(),
            f"train.rays={(rays := config.train.rays)}": 24 * rays,
            f"sampler of train.rays={rays}": config.sampler.least_bytes(rays),
        }
    samples, fit = config.samples, config.fit
    starts = fit.starts * max(LEARNT * config.field.least_parameters(), MIN_START)
    rounds = -(-fit.epochs // fit.resample)
    return {
        f"samples.count={samples.count} in {rounds} rounds": 24 * samples.count * rounds,
        f"field of fit.starts={fit.starts}": starts,
    }


def machine_memory() -> int:
    """Bytes of memory that the machine has, or the container."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # without a limit there is no such file, or "max" in it
        size = min(size, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return size
