"""Registration of the operators `dss::shell_*` with torch: schemas, shapes, and the reference.

The reference (dss/ops/reference.py) is an operator's kernel on every device until a compiled
library brings a faster one (kernels/build.py).
"""

from collections.abc import Callable

import torch

from dss.ops import reference

SHELL = "Tensor spheres, Tensor tree"
NETWORK = "Tensor table, Tensor weights, int[] sizes, float frequency, bool half"
RAYS = "Tensor origins, Tensor directions"
FIVE_TENSORS = "(Tensor, Tensor, Tensor, Tensor, Tensor)"


def register_all() -> None:
    _register("shell_intervals", f"({SHELL}, {RAYS}, int rule) -> {FIVE_TENSORS}", _intervals)
    _register("shell_owner", f"({SHELL}, Tensor points, int rule) -> Tensor", _owner)
    _register(
        "shell_union_sdf", f"({SHELL}, Tensor points, bool inner) -> (Tensor, Tensor)", _union_sdf
    )
    _register(
        "shell_field",
        f"(Tensor spheres, {NETWORK}, Tensor points, Tensor owner, bool gradient)"
        " -> (Tensor, Tensor)",
        _field,
    )
    _register("shell_sdf", f"({SHELL}, {NETWORK}, Tensor points, int rule) -> Tensor", _sdf)
    _register(
        "shell_trace",
        f"({SHELL}, {NETWORK}, {RAYS}, int rule, bool exact, bool everywhere, float tolerance)"
        f" -> {FIVE_TENSORS}",
        _trace,
    )


def _register(name: str, schema: str, fake: Callable) -> None:
    def backward(ctx, *_):
        raise RuntimeError(f"{name} is not differentiable; a field is, through its forward")

    torch.library.define(f"dss::{name}", schema)
    torch.library.impl(f"dss::{name}", "CompositeExplicitAutograd", getattr(reference, name))
    torch.library.register_fake(f"dss::{name}", fake)
    torch.library.register_autograd(f"dss::{name}", backward)


# The functions below tell torch's compiler the shapes of the results without computing them.


def _intervals(spheres, tree, origins, directions, rule):
    n, m = len(origins), torch.library.get_ctx().new_dynamic_size()
    new, long = origins.new_empty, torch.int64
    return new(n + 1, dtype=long), new(m), new(m), new(m, dtype=long), new(n)


def _owner(spheres, tree, points, rule):
    return points.new_empty(len(points), dtype=torch.int64)


def _union_sdf(spheres, tree, points, inner):
    return points.new_empty(len(points)), points.new_empty(len(points), dtype=torch.int64)


def _field(spheres, table, weights, sizes, frequency, half, points, owner, gradient):
    return points.new_empty(len(points)), points.new_empty(len(points) if gradient else 0, 3)


def _sdf(spheres, tree, table, weights, sizes, frequency, half, points, rule):
    return points.new_empty(len(points))


def _trace(spheres, tree, table, weights, sizes, frequency, half, origins, *_):
    n, new, int32, int64 = len(origins), origins.new_empty, torch.int32, torch.int64
    return new(n), new(n, dtype=int64), new(n, 3), new(n, dtype=int32), new(n, dtype=int32)
