"""Any field as a .dss file, and back: the same bytes from the same field, and the same parameters
from the same bytes, on every machine."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from dss.checkpoint import MISFITS, check_tensors
from dss.codec.container import Content, Integers, Raw, Record, Spheres, pack, size_of, unpack
from dss.codec.quantise import STEPS, dequantised, fine_steps, integers, step_shape
from dss.config import Settings
from dss.errors import InputError
from dss.fields import METHODS, Field, build
from dss.geometry.similarity import Similarity
from dss.shell.lattice import Lattice, in_order

SHELL = ("shell.centers", "shell.inner_radii", "shell.outer_radii")
FINE = Lattice(center_bits=16, radius_bits=10, thickness_bits=8)  # for spheres of no lattice
PARTS = ("header", "spheres", "geometry", "latents", "weights")


@dataclass(frozen=True)
class Coded:
    """A field with what its file tells besides: `mesh` has the first hexadecimal digits of the
    SHA-256 of what it was fitted to, or none."""

    field: Field
    settings: Settings
    similarity: Similarity
    mesh: str


def encode_field(
    field: Field,
    settings: Settings,
    similarity: Similarity,
    sha256: str = "",
    lattice: Lattice | None = None,
) -> bytes:
    """The .dss file of a field.

    One that was fitted to be coded, with `code_steps` and spheres of the lattice, comes back as it
    is. The parameters of another are rounded to fine steps, and its spheres to a fine lattice, so
    that the coded shell encloses the field's own. Raises ValueError where the field cannot be
    coded.
    """
    state = {name: value.detach().cpu() for name, value in field.state_dict().items()}
    steps = fine_steps(field) if field.code_steps is None else field.code_steps
    records, order = _geometry_records(field, state, lattice)
    numbers = integers(field, steps)
    for name in _learnt(field):
        if name not in numbers:
            records.append(_raw(state[name]))
            continue
        values = numbers[name].numpy()
        if order is not None and _is_latent(field, name):
            values = values[order]
        codes = np.searchsorted(STEPS, steps[name].cpu().numpy())
        records.append(Integers(values, codes.astype(np.uint8)))
    content = Content(_listed(settings), similarity, bytes.fromhex(sha256)[:8], records)
    return pack(content)


def decode_field(data: bytes, source: str) -> Coded:
    """The field in the bytes of a .dss file, on the CPU. Raises InputError where they are damaged,
    foreign, or of another version; `source` is named in the error."""
    try:
        content = unpack(data)
        settings = _settings(content.settings)
        found = sum(record.values.size for record in content.records)
        if settings.least_parameters() > found:
            raise ValueError(f"{found} numbers are too few for its settings")
        keys = METHODS[settings.method].geometry_keys
        first = next(iter(content.records), None)
        used = 1 if isinstance(first, Spheres) else len(keys)
        geometry = [value for record in content.records[:used] for value in _built_on(record)]
        field = build(settings, dict(zip(keys, geometry, strict=True)))
        learnt = dict(zip(_learnt(field), content.records[used:], strict=True))
        parameters = dict(field.named_parameters())
        state = {name: _learnt_value(record, name in parameters) for name, record in learnt.items()}
        check_tensors(field, state)
        field.load_state_dict(field.state_dict() | state)
        field.code_steps = {
            name: torch.from_numpy(STEPS[learnt[name].steps]) for name in parameters
        }
        if any(field.code_steps[name].shape != step_shape(field, name) for name in parameters):
            raise ValueError("its steps are not those of its parameters")
        with torch.no_grad():
            field(torch.zeros(2, 3))  # what a field is built on has shapes of its own
    except (*MISFITS, RecursionError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: not a .dss file, or damaged ({reason}); pack the field again"
        ) from error
    return Coded(field.eval(), settings, content.similarity, content.mesh.hex())


def parts_of(data: bytes, field: Field) -> dict[str, int]:
    """The bytes of a field's .dss file by what they are spent on; their sum is its size."""
    records, names = unpack(data).records, _learnt(field)
    kinds = ["spheres" if isinstance(records[0], Spheres) else "geometry"]
    kinds *= len(records) - len(names)
    parameters = dict(field.named_parameters())
    for name in names:
        learnt = "latents" if _is_latent(field, name) else "weights"
        kinds.append(learnt if name in parameters else "geometry")
    sums = dict.fromkeys(PARTS, 0.0)
    for kind, record in zip(kinds, records, strict=True):
        sums[kind] += size_of(record)
    result = {kind: round(value) for kind, value in sums.items()}
    result["header"] = len(data) - sum(result.values())
    return {kind: value for kind, value in result.items() if value}


def _is_latent(field: Field, name: str) -> bool:
    return name.split(".")[0] in field.latent_keys


def _learnt(field: Field) -> list[str]:
    """The names of the state that is not what the field is built on, in their order."""
    return [name for name in field.state_dict() if name not in field.geometry_keys]


def _listed(settings: Settings) -> list[Any]:
    """The method and its settings in their order. A name of a file is left blank: what was read
    from it is in the field."""
    values = settings.model_dump()
    kinds = {name: info.annotation for name, info in type(settings).model_fields.items()}
    names = [name for name in kinds if name != "method"]
    return [settings.method, *("" if kinds[name] is str else values[name] for name in names)]


def _settings(listed: Any) -> Settings:
    """The settings in a file; those that are missing at the end are of a later version, and have
    their defaults. Raises ValueError where they are none."""
    if not isinstance(listed, list) or not listed or listed[0] not in list(METHODS):
        raise ValueError("its method is none of dss")
    kind = METHODS[listed[0]].Settings
    names = ["method", *(name for name in kind.model_fields if name != "method")]
    if len(listed) > len(names):
        raise ValueError(f"{len(listed)} settings, where {listed[0]} has {len(names)}")
    return kind.model_validate(dict(zip(names, listed, strict=False)))


def _geometry_records(
    field: Field, state: dict[str, Tensor], lattice: Lattice | None
) -> tuple[list[Record], np.ndarray | None]:
    """The records of what a field is built on; of spheres, their order in the file, too."""
    used = lattice or FINE
    bits = used.center_bits, used.radius_bits, used.thickness_bits
    if field.geometry_keys == SHELL:
        rows = used.enclosing_codes(*(state[name].double().numpy() for name in SHELL))
    elif field.geometry_keys == ("spheres",):
        bits, spheres = bits[:2], state["spheres"].double().numpy()
        radii = used.radius_codes(-spheres[:, 3]).clip(min=0)
        rows = np.column_stack([used.center_codes(spheres[:, :3]), radii])
    else:
        return [_raw(state[name]) for name in field.geometry_keys], None
    order = in_order(rows, used.center_bits)
    record = Spheres(rows[order], bits)
    if lattice:
        for name, value in zip(field.geometry_keys, _built_on(record), strict=True):
            if not torch.equal(value, state[name]):
                raise ValueError(f"{name} is not of the lattice, or not in its order")
    return [record], order


def _built_on(record: Record) -> list[Tensor]:
    """The tensors of a field's geometry that a record stands for."""
    if isinstance(record, Raw):
        return [torch.from_numpy(record.values)]
    if isinstance(record, Integers) or len(record.bits) not in (2, 3):
        raise ValueError("its geometry is none")
    if len(record.bits) == 3:
        return list(Lattice(*record.bits).shell(record.values).buffers())
    lattice = Lattice(*record.bits, 0)
    centers, radii = lattice.centers(record.values[:, :3]), lattice.radii(record.values[:, 3])
    return [torch.from_numpy(np.column_stack([centers, -radii]).astype(np.float32))]


def _raw(value: Tensor) -> Record:
    """A tensor that is not quantised."""
    if value.dtype == torch.int64:
        return Integers(value.numpy(), np.zeros(1, np.uint8))
    if value.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"tensors of {value.dtype} are not coded")
    return Raw(value.numpy())


def _learnt_value(record: Record, parameter: bool) -> Tensor:
    """The tensor of a field's state that a record stands for; integers are a parameter's, or those
    of a count."""
    if isinstance(record, Spheres):
        raise ValueError("spheres where a tensor is expected")
    values = torch.from_numpy(record.values)
    if not parameter:
        return values
    if isinstance(record, Raw):
        raise ValueError("a parameter without steps")
    return dequantised(values, torch.from_numpy(STEPS[record.steps]))
