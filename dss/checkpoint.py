"""Tensors on disk: fields, models and resumable states are safetensors files, and loading one
executes nothing."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dss.errors import InputError
from dss.files import replacing

BLANK = b"0" * 64  # in the place of the checksum while it is computed
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # of the state of a parameter
# What torch raises where a file's tensors or facts are not those of what is built from them
MISFITS = (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError)
REMEDY = "delete it, and the train.py command that made it makes it again"


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a dictionary that JSON can hold as one safetensors file.

    With them comes the SHA-256 of the whole file, in which the checksum itself counts as zeros.
    """
    with replacing(path) as temporary:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        text = json.dumps({"checksum": BLANK.decode(), "about": about})
        content = save(contiguous, {"dss": text})
        temporary.write_bytes(content.replace(BLANK, _sha256(content).encode(), 1))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Raises InputError where the file is damaged or foreign."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads((file.metadata() or {})["dss"])
        if not isinstance(about, dict):
            raise ValueError("its metadata is no dictionary")
        if "checksum" in about or "about" in about:  # files from before it had none
            checksum, about = str(about["checksum"]), about["about"]
            content = path.read_bytes().replace(checksum.encode(), BLANK, 1)
            if _sha256(content) != checksum or not isinstance(about, dict):
                raise ValueError("its checksum is not that of its contents")
        return tensors, about
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a file of dss, or damaged ({reason}); {REMEDY}") from error


def check_tensors(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError where `load_state_dict` would take what is not the module's own: it converts
    dtypes silently, and knows nothing of NaN."""
    for name, own in module.state_dict().items():
        value = tensors.get(name, own)
        if value.dtype != own.dtype:
            raise ValueError(f"{name} is {value.dtype}, not {own.dtype}")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} has values that are NaN or infinite")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under longer names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix and a dot, without these."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser by parameter number and name, such as `3.exp_avg`."""
    states = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, state in states.items() for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned into an optimiser of the same parameters.

    Raises ValueError where that is not what these are: torch would notice at the next step only.
    """
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        states.setdefault(int(index), {})[key] = value
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    if not states.keys() <= set(range(len(parameters))):
        raise ValueError(f"the state of {len(parameters)} parameters has other numbers")
    names = {"momentum_buffer"} if isinstance(optimizer, torch.optim.Muon) else ADAM
    for index, state in states.items():
        shape = parameters[index].shape
        fits = all(
            value.dtype == torch.float32 and value.shape == (() if key == "step" else shape)
            for key, value in state.items()
        )
        if state.keys() != names or not fits:
            raise ValueError(f"the optimiser's state of parameter {index} does not fit it")
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
