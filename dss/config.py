"""Configuration: frozen dataclasses <- YAML file <- `key.sub=value` on the command line.

Types are checked, and an unknown key is an error that names the nearest one.
"""

import contextlib
import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from dss.errors import InputError
from dss.fields import METHODS, Field, Settings
from dss.files import replacing

MAY_BE_ZERO = {"seed", "restarts", "band", "decay", "uniform", "grow", "dropout"}  # of the numbers; all others are positive
# of dss/views/config.py
MAY_BE_ZERO |= {"test_every", "skip", "samples", "warm_up", "mask_weight", "eikonal_weight", "smooth_weight", "anneal", "stop"}
AT_MOST = {"radius": 1.0, "holdout": 0.5, "uniform": 1.0, "dropout": 0.9}  # of the numbers; 1e12 for all others


@dataclass(frozen=True)
class MeshConfig:
    path: str = "demo"  # a file that trimesh reads, or `demo`: the mesh that the project generates
    radius: float = 0.9  # of the smallest enclosing ball after normalisation


@dataclass(frozen=True)
class SpheresConfig:
    method: Literal["farthest", "cover"] = "cover"  # the paper's extraction, or the greedy medial cover
    count: int = 512  # S
    resolution: int = 256  # lattice nodes per axis that `farthest` chooses from


@dataclass(frozen=True)
class SamplesConfig:
    method: Literal["pairs", "partition", "importance", "near", "oriented"] = "partition"  # see dss/samples.py
    count: int = 1_000_000  # points per round; `pairs`: per technique, before expansion; `oriented`: per point of the cloud
    spread: float = 0.5  # standard deviation of the offsets from the surface; `partition`: in units of the owner's thickness
    focus: float = 60.0  # `importance`: points are drawn with the weights exp(-focus |sdf|)
    uniform: float = 0.1  # `importance`: share of the points that is uniform in the cube instead; `oriented`: that is added there
    points: int = 1000  # `oriented`: of the cloud that is drawn where the input is a mesh
    normals: Literal["auto", "file", "estimated"] = "auto"  # `oriented`: of a cloud; auto: estimated where the file has none


@dataclass(frozen=True)
class FitConfig:
    epochs: int = 100  # passes over the training samples
    resample: int = 50  # epochs between fresh sets of samples
    holdout: float = 0.05  # share of the samples kept for the monitored error
    batch: int = 16_384  # samples per step
    optimizer: Literal["adam", "muon"] = "muon"  # muon: for the hidden matrices, Adam for the rest
    rate: float = 4e-2  # highest learning rate
    latent_rate: float = 3.0  # of the latents, as a multiple of `rate`
    decay: float = 0.0  # decoupled weight decay, where the optimiser is Adam
    schedule: Literal["plateau", "cosine", "steps", "constant"] = "cosine"  # of the learning rate, see dss/fit.py
    drop: float = 0.7  # what `plateau` multiplies the rate by
    patience: int = 10  # epochs without progress before it does
    loss: Literal["l1", "l2", "clamp", "min", "weighted"] = "l1"  # see dss/fit.py
    band: float = 0.01  # samples weigh 0.05 + exp(-|sdf| / band); 0: all weigh the same
    restarts: int = 2  # fresh initialisations after a non-finite loss or a field without a surface; then an error
    starts: int = 1  # initialisations to choose from: the one with the lowest error after `start_epochs` goes on
    start_epochs: int = 10
    checkpoint: int = 10  # epochs between resumable states
    mixed: bool = True  # bfloat16 matrix products on CUDA


@dataclass(frozen=True)
class Config:
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    spheres: SpheresConfig = SpheresConfig()
    samples: SamplesConfig = SamplesConfig()
    field: Settings = METHODS["dual_shell"].Settings()  # those of the method that its key `method` names
    fit: FitConfig = FitConfig()


class _Override(str):
    """A value from the command line: literal where the configuration wants text (a path may hold anything), else YAML."""


def load_config(path: Path | str | None, overrides: list[str] = (), kind: type = Config) -> Any:
    """The configuration, of a `kind`, of a YAML file (None: all defaults), with `key.sub=value` overrides applied in order.

    Raises InputError on a missing or malformed file, an unknown key (suggesting the nearest), or a value of the wrong
    type or out of range.
    """
    tree = {} if path is None else read_yaml(Path(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"{override}: expected key.sub=value, such as fit.epochs=20")
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{override}: {parent} is a value, not a section")
        node[leaf] = _Override(text)
    return config_from_dict(tree, "command line" if path is None else str(path), kind)


def config_from_dict(tree: dict[str, Any], source: str, kind: type = Config) -> Any:
    """Check and convert a nested dictionary to a `kind` of configuration; `source` is named in the errors."""
    return _build(kind, tree, source, "")


def save_config(config: Any, path: Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back to an equal one."""
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a configuration file, unchecked. Raises InputError where it is missing or malformed."""
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; see configs/ for those that ship")
    try:
        tree = _parse(path.read_text(errors="replace"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected sections of `key: value` lines, found {type(tree).__name__}")
    return tree


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error


def _build(kind: type, tree: Any, source: str, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise InputError(f"{source}: {prefix.rstrip('.')} is a section, got {tree!r}")
    known = {item.name: item for item in dataclasses.fields(kind)}
    values = {}
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0)
            raise InputError(f"{source}: unknown key {prefix}{key}; did you mean {prefix}{near[0]}?")
        expected = known[key].type
        if expected is Settings and isinstance(value, dict):
            expected = _method(value.get("method", "dual_shell"), source).Settings
        if dataclasses.is_dataclass(expected):
            values[key] = _build(expected, value, source, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, expected, key, f"{source}: {prefix}{key}")
    return kind(**values)


def _method(name: Any, source: str) -> type[Field]:
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, 1, 0)
        raise InputError(f"{source}: unknown field.method {name}; did you mean {near[0]}? There are {', '.join(METHODS)}")
    return METHODS[name]


def _checked(value: Any, expected: Any, key: str, where: str) -> Any:
    """`value` as `expected`; YAML reads 1e-3 as text and 1 as an integer, both fine for a float."""
    if isinstance(value, _Override):
        value = str(value) if expected is str else _parse(value, where)
    if get_origin(expected) is Literal:
        if value not in get_args(expected):
            raise InputError(f"{where} must be one of {', '.join(get_args(expected))}; got {value!r}")
        return value
    if expected is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)
    if type(value) is not expected:
        raise InputError(f"{where} must be {expected.__name__}; got {value!r}")
    if expected in (int, float):
        most = AT_MOST.get(key, 1e12)
        if not 0 <= value <= most or (value == 0 and key not in MAY_BE_ZERO):
            raise InputError(f"{where} must be {'at least' if key in MAY_BE_ZERO else 'above'} 0 and at most {most:g}; got {value!r}")
    return value
