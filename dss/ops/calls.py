"""What the operators' public functions share: checks of arguments, and the choice of what runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from dss.errors import InputError
from dss.ops import registration

_eager = ContextVar("eager", default=False)


@contextmanager
def eager() -> Iterator[None]:
    """Within it, operators run as their references in plain torch: to time methods that have no
    kernels beside those that have them, all alike."""
    before = _eager.set(True)
    try:
        yield
    finally:
        _eager.reset(before)


def is_eager() -> bool:
    return _eager.get()


def call(name: str, *arguments: object, plain: bool = False) -> tuple[Tensor, ...] | Tensor:
    """Run an operator; or its reference, for float64, within `eager`, and where `plain` says so.
    The first argument is the shell's spheres, or the octree's nodes."""
    if plain or _eager.get() or arguments[0].dtype == torch.float64:
        return registration.references[name](*arguments)
    from kernels import build  # here, so that `import dss` needs no compiler

    build.load()
    return getattr(torch.ops.dss, name).default(*arguments)


def check(
    op: str, name: str, value: Tensor, shape: tuple[int | None, ...], like: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """`value`, contiguous. Raises InputError unless it has the shape (None: any size), the dtype
    (None: that of `like`) and the device of `like`."""
    if not isinstance(value, Tensor):
        raise InputError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    dtype = dtype or like.dtype
    if value.dtype != dtype:
        raise InputError(f"{op}: {name} must be {dtype}, got {value.dtype}")
    sizes = zip(shape, value.shape, strict=False)
    if value.dim() != len(shape) or any(size not in (None, got) for size, got in sizes):
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        got = tuple(value.shape)
        raise InputError(f"{op}: {name} must have the shape ({expected}), got {got}")
    if value.device != like.device:
        device = like.device
        raise InputError(f"{op}: {name} must be on {device} like the shell, got {value.device}")
    return value.detach().contiguous()
