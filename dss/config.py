"""Configuration: frozen pydantic models <- YAML file <- `key.sub=value` on the command line.

Whatever plugs in (a field, a model, a sampler) brings its own `Settings`; which ones there are is
an argument of the functions here (`Plugins`), so that this module knows no method.
"""

import contextlib
import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError

from dss.errors import InputError
from dss.files import is_file, replacing

MAX_NUMBER = 10**12  # no setting is larger
# A configuration is a page of lines in two levels; what is far beyond these is no configuration,
# and a parser would spend minutes or all memory on it.
MAX_CHARACTERS, MAX_DEPTH, MAX_DIGITS = 1 << 14, 8, 1000
SHORT = reprlib.Repr()  # of values in errors
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 80


def _float_of(value: Any) -> Any:
    """YAML reads 1e-3 as text and 1 as an integer; both are fine where a float is expected."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return value


Count = Annotated[int, Field(gt=0, le=MAX_NUMBER)]
Layers = Annotated[int, Field(gt=0, le=1000)]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Positive = Annotated[float, BeforeValidator(_float_of), Field(gt=0, le=MAX_NUMBER)]
NonNegative = Annotated[float, BeforeValidator(_float_of), Field(ge=0, le=MAX_NUMBER)]
Share = Annotated[NonNegative, Field(le=1)]
Real = Annotated[float, BeforeValidator(_float_of), Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]


class Section(BaseModel):
    """A part of a configuration: immutable, typed and bounded; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Settings(Section):
    """The settings of something that plugs in. `method` names it."""

    method: str = ""

    def least_parameters(self) -> int:
        """A number that the parameters are no fewer than, by these settings alone: what cannot fit
        into memory is refused before any work. 0 where nothing is known."""
        return 0

    def least_bytes(self, rays: int) -> int:
        """Of a sampler: bytes that so many rays need at once, at least. 0 where nothing is
        known."""
        return 0


Plugins = Mapping[str, Mapping[str, type[Settings]]]  # by section ("field"), then by method


class MeshSettings(Section):
    path: str = (
        "demo"  # a mesh or point cloud file, or `demo`: the mesh that the project makes itself
    )
    # The smallest enclosing ball gets this radius; a much smaller one would drown in rounding.
    radius: Annotated[Positive, Field(ge=0.01, le=1)] = 0.9
    # What is mended before the fit, see geometry/repair.py. The default is not written into run
    # folders, which are what they were before there was this setting.
    repair: Annotated[
        Literal["none", "holes", "solid"], Field(exclude_if=lambda value: value == "none")
    ] = "none"


class SpheresSettings(Section):
    method: Literal["farthest", "cover", "file"] = (
        "cover"  # the paper's extraction, the greedy medial cover, or all that the files hold
    )
    count: Count = 512  # number of key spheres S
    # lattice nodes per axis that `farthest` chooses from
    resolution: Annotated[Count, Field(le=2048)] = 256
    # `file`: of the inner and the outer spheres, in the normalised frame, see shell/io.py
    inner: str = ""
    outer: str = ""
    # `file`: what becomes of outer spheres that do not enclose the surface
    leaks: Literal["refuse", "enlarge"] = "refuse"


class SamplesSettings(Section):
    method: Literal["pairs", "partition", "importance", "near", "oriented", "surface"] = (
        "partition"  # see fitting/samples.py
    )
    # per round; `pairs`: per technique, before expansion; `oriented`: per cloud point
    count: Annotated[Count, Field(ge=2)] = 1_000_000  # one is held out
    # standard deviation of the offsets from the surface; `partition`: in shell thicknesses, where
    # beyond 4 of them hardly any sample is left
    spread: Annotated[Positive, Field(le=4)] = 0.5
    # `importance`: points are drawn with the weights exp(-focus |sdf|)
    focus: Annotated[Positive, Field(le=10_000)] = 60.0
    uniform_share: Share = (
        0.1  # `importance`, `oriented`: share of the samples that is uniform in the cube
    )
    points: Count = 1000  # `oriented`: size of the cloud that is drawn where the input is a mesh
    normals: Literal["auto", "file", "estimated"] = (
        "auto"  # `oriented`: auto estimates where the file has none
    )


class FitSettings(Section):
    epochs: Count = 100  # passes over the training samples
    resample: Count = 50  # epochs between fresh rounds of samples
    holdout: Annotated[Positive, Field(le=0.5)] = (
        0.05  # share of the samples kept for the monitored error
    )
    batch_size: Count = 16_384  # samples per step
    optimizer: Literal["adam", "muon"] = (
        "muon"  # muon: for the hidden matrices, and Adam for the rest
    )
    lr: Positive = 4e-2  # highest learning rate
    latent_lr_ratio: Positive = 3.0  # learning rate of the latents as a multiple of `lr`
    weight_decay: NonNegative = 0.0  # decoupled, where the optimiser is Adam
    schedule: Literal["plateau", "cosine", "steps", "constant"] = (
        "cosine"  # of the learning rate, see fitting/fit.py
    )
    # what `plateau` multiplies the learning rate by
    plateau_factor: Annotated[Positive, Field(lt=1)] = 0.7
    plateau_patience: Count = 10  # epochs without progress that `plateau` lets pass before it does
    plateau_cooldown: CountOrZero = 5  # epochs after it that `plateau` does not count
    # what `plateau`, `keep` and the choice among `starts` go by: the mean L1 error of the samples
    # held out, their `loss`, or that of the samples learnt, over the epoch
    monitor: Literal["error", "loss", "training_loss"] = "error"
    keep: Literal["last", "best"] = "last"  # the field of the last epoch, or of the best one
    loss: Literal["l1", "l2", "clamp", "weighted"] = "l1"  # see fitting/losses.py
    band: NonNegative = 0.01  # samples weigh 0.05 + exp(-|sdf| / band); 0: all weigh the same
    restarts: CountOrZero = 2  # fresh initialisations after a failed fit, before it is an error
    starts: Count = 1  # initialisations to choose from: the best after `start_epochs` goes on
    start_epochs: Count = 10  # epochs that each of several `starts` gets
    checkpoint: Count = 10  # epochs between resumable states
    mixed_precision: bool = True  # bfloat16 matrix products where they are faster
    # what a bit of the coded field costs, in units of the loss; 0: the field is not to be coded
    rate_weight: NonNegative = 0.0


class CodecSettings(Section):
    """Of fits with a `fit.rate_weight`: how the field becomes few bytes (docs/format.md)."""

    # bits per coordinate of the lattice in [-1, 1]^3 that the spheres' centres are of
    center_bits: Annotated[Count, Field(le=16)] = 8
    # 2**bits inner radii, and thicknesses, in an octave
    radius_bits: Annotated[CountOrZero, Field(le=10)] = 5
    thickness_bits: Annotated[CountOrZero, Field(le=10)] = 2
    # shares of the fit from which on noise stands for rounding, and rounding itself is learnt
    noise_from: Share = 0.3
    round_from: Share = 0.6
    lr_ratio: Positive = 0.5  # learning rate of the steps and their entropy, as a multiple of `lr`


class MeshConfig(Section):
    """One field fitted to a mesh or to a point cloud."""

    default_methods: ClassVar[dict[str, str]] = {"field": "dual_shell"}

    seed: CountOrZero = 0
    mesh: MeshSettings = MeshSettings()
    spheres: SpheresSettings = SpheresSettings()
    samples: SamplesSettings = SamplesSettings()
    field: SerializeAsAny[Settings]
    fit: FitSettings = FitSettings()
    codec: CodecSettings = CodecSettings()


class SceneSettings(Section):
    # a folder in the NeRF-synthetic or the DTU layout, or `demo`: photos of the demo mesh
    path: str = "demo"
    downscale: Count = 1  # each pixel is the mean of downscale x downscale pixels of the files
    background: Literal["white", "black", "random"] = (
        "white"  # random: in training; white in pictures
    )
    # ball around the object, "x y z radius" in scene units; auto: the scene's own, else the masks'
    bounds: str = "auto"
    test_every: CountOrZero = 0  # DTU: every n-th picture is for the test; 0: all are for both


class TrainSettings(Section):
    steps: Count = 300_000
    rays: Count = 512  # rays per step
    samples: CountOrZero = (
        0  # samples per step that the number of rays is adapted to; 0: always `rays` rays
    )
    max_rays: Count = 8192  # rays per step at most, where their number is adapted
    pixels: Literal["photo", "scene"] = (
        "photo"  # the rays of a step come from one photo, or from all
    )
    lr: Positive = 5e-4  # highest learning rate, of Adam
    sharpness_lr_ratio: Positive = 1.0  # learning rate of the sharpness as a multiple of `lr`
    warm_up_steps: CountOrZero = 5000  # steps over which the learning rate rises linearly
    lr_decay: Literal["cosine", "exponential"] = "cosine"  # after the warm-up
    lr_final_ratio: Positive = 0.05  # last learning rate as a share of `lr`
    colour: Literal["l1", "l2"] = "l1"  # loss of the colours
    masked: bool = False  # colours count inside the masks only
    colour_weight: Positive = 1.0
    mask_weight: NonNegative = 0.0  # of the cross entropy between opacity and mask
    eikonal_weight: NonNegative = 0.1
    # where gradients shall have length 1: at the samples (NeuS), or at one sample of each ray and
    # half as many points of the cube (VolSDF)
    eikonal_at: Literal["samples", "spread"] = "samples"
    smooth_weight: NonNegative = (
        0.0  # of the difference between normals at the surface and beside it
    )
    anneal_steps: CountOrZero = (
        50_000  # `neus`: until true angles count; `unisurf`: until its interval is the final one
    )
    checkpoint: Count = 5000  # steps between resumable states, and between pictures for TensorBoard


class RenderSettings(Section):
    min_transmittance: Share = 0.0  # below which a ray ends; 0: it never does, as published
    chunk: Count = 4096  # rays at once


class PhotoConfig(Section):
    """One surface learnt from the photos of a scene. The defaults are NeuS as published
    (docs/method.md, section 11)."""

    default_methods: ClassVar[dict[str, str]] = {"model": "neus", "sampler": "uniform"}

    seed: CountOrZero = 0
    scene: SceneSettings = SceneSettings()
    model: SerializeAsAny[Settings]
    sampler: SerializeAsAny[Settings]
    train: TrainSettings = TrainSettings()
    render: RenderSettings = RenderSettings()


Config = MeshConfig | PhotoConfig
AnySection = TypeVar("AnySection", bound=Section)


class _Override(str):
    """A value from the command line: literal where the configuration wants text (a path may hold
    anything), else YAML."""


def load_config(path: Path | str | None, overrides: list[str], plugins: Plugins) -> Config:
    """The configuration of a YAML file (None: all defaults), with `key.sub=value` overrides applied
    in order.

    A file with a section `scene` is a PhotoConfig, any other a MeshConfig. Raises InputError on a
    missing or malformed file, an unknown key (suggesting the nearest), or a value of the wrong type
    or out of range.
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
    return config_from_dict(tree, "command line" if path is None else str(path), plugins)


def config_from_dict(tree: dict[str, Any], source: str, plugins: Plugins) -> Config:
    """Check and convert a nested dictionary; `source` is named in the errors."""
    if not isinstance(tree, dict):
        raise InputError(f"{source}: expected sections, found {type(tree).__name__}")
    kind = PhotoConfig if "scene" in tree else MeshConfig
    sections = {name: tree.get(name, {}) for name in kind.default_methods}
    chosen = {
        name: _plugin(section, name, kind.default_methods[name], plugins[name], source)
        for name, section in sections.items()
    }
    return _checked(kind, tree | chosen, source, "")


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back to an equal one."""
    with replacing(path) as temporary:
        text = yaml.safe_dump(config.model_dump(), sort_keys=False)
        temporary.write_text(text, encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a configuration file, unchecked. Raises InputError where it is missing or
    malformed."""
    if not is_file(path):
        raise InputError(f"{path}: no such configuration file; see configs/ for those that ship")
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: expected sections of `key: value` lines, found {type(tree).__name__}"
        )
    return tree


class _Loader(yaml.SafeLoader):
    """Sections, lists, numbers, texts, booleans and null: the YAML that settings are made of.

    What a date is elsewhere is a text here. Aliases, tags and deep nesting are refused.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] in ("bool", "int", "float", "null")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.tag is not None:
            reason = "aliases (*) and tags (!) have no place in a configuration"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)
        if self.depth == MAX_DEPTH:
            reason = f"more than {MAX_DEPTH} levels"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: yaml.Node) -> str:
        if node.tag != self.DEFAULT_SCALAR_TAG and len(node.value) > MAX_DIGITS:
            reason = f"a number of {len(node.value)} digits"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=node.start_mark)
        return super().construct_scalar(node)


def _parse(text: str, source: str) -> Any:
    """The value that a YAML text stands for. Raises InputError where it is malformed or huge."""
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"more than {MAX_CHARACTERS:,} characters")
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader of fewer types
    # PyYAML passes on what `int` and `float` say of numbers such as 0x_ and 1:99:...:99.5
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: not valid YAML ({_clipped(str(error), 200)})") from error


def _clipped(text: str, limit: int = 80) -> str:
    """A text of the user's for an error: on one line, and not longer than `limit`."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def _plugin(
    section: Any, name: str, default: str, known: Mapping[str, type[Settings]], source: str
) -> Settings:
    """The settings of a section that names its method."""
    method = section.get("method", default) if isinstance(section, dict) else default
    if not isinstance(method, str) or method not in known:
        method = _clipped(str(method))
        near = difflib.get_close_matches(method, known, 1, 0)
        raise InputError(
            f"{source}: unknown {name}.method {method}; did you mean {near[0]}? There are "
            f"{', '.join(known)}"
        )
    return _checked(known[method], section, source, f"{name}.")


def _checked(kind: type[AnySection], tree: Any, source: str, prefix: str) -> AnySection:
    """`tree` as a `kind` of section; the first error is one line that names the key."""
    try:
        return kind.model_validate(_parsed(kind, tree, f"{source}: {prefix}"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{source}: {_described(kind, first, prefix)}") from error


def _parsed(kind: type[Section], tree: Any, where: str) -> Any:
    """The tree with values from the command line in place of their texts."""
    if not isinstance(tree, dict):
        return tree
    result = {}
    for key, value in tree.items():
        expected = kind.model_fields[key].annotation if key in kind.model_fields else None
        if isinstance(expected, type) and issubclass(expected, Section):
            value = _parsed(expected, value, f"{where}{key}.")
        elif isinstance(value, _Override):
            value = str(value) if expected is str else _parse(value, f"{where}{key}")
        # pydantic takes no keys that are not UTF-8
        result[str(key).encode(errors="backslashreplace").decode()] = value
    return result


def _described(kind: type[Section], error: dict[str, Any], prefix: str) -> str:
    """What is wrong, in words: an error of pydantic about the value at `loc` in a section of this
    kind."""
    *parents, key = error["loc"] or ("",)
    for parent in parents:
        kind = kind.model_fields[parent].annotation
        prefix += f"{parent}."
    key = _clipped(key)
    where, got = f"{prefix}{key}".rstrip("."), SHORT.repr(error["input"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, kind.model_fields, 1, 0)
        return f"unknown key {where}; did you mean {prefix}{near[0]}?"
    if error["type"] == "model_type":
        return f"{where} is a section, got {got}"
    if error["type"] == "literal_error":
        choices = ", ".join(get_args(kind.model_fields[key].annotation))
        return f"{where} must be one of {choices}; got {got}"
    field = kind.model_fields[key]
    if error["type"].endswith("_type"):
        return f"{where} must be {field.annotation.__name__}; got {got}"
    bounds = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name in ("gt", "ge", "lt", "le")
        if hasattr(rule, name)
    }
    low = f"at least {bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}"
    high = f"below {bounds['lt']:g}" if "lt" in bounds else f"at most {bounds['le']:g}"
    return f"{where} must be {low} and {high}; got {got}"
