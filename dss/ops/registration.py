"""Registration of the operators `dss::*` with torch: schemas, shapes, and the references.

The reference (dss/ops/reference.py, octree_reference.py) is an operator's kernel on every device
until a compiled library brings a faster one (kernels/build.py).
"""

from collections.abc import Callable

import torch

from dss.ops import octree_reference, reference

SHELL = "Tensor spheres, Tensor tree"
NETWORK = "Tensor table, Tensor weights, int[] sizes, float frequency, bool half"
OCTREE = "Tensor nodes, Tensor corners, int depth, float extent"
RAYS = "Tensor origins, Tensor directions"
FIVE_TENSORS = "(Tensor, Tensor, Tensor, Tensor, Tensor)"

references: dict[str, Callable] = {}  # by the operators' names


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
    _register(
        "octree_trace",
        f"({OCTREE}, Tensor table, Tensor output, {RAYS}, float probe) -> {FIVE_TENSORS}",
        _octree_trace,
        octree_reference.octree_trace,
    )


def _register(name: str, schema: str, fake: Callable, plain: Callable | None = None) -> None:
    references[name] = plain or getattr(reference, name)

    def backward(ctx, *_):
        raise RuntimeError(f"{name} is not differentiable; a field is, through its forward")

    torch.library.define(f"dss::{name}", schema)
    torch.library.impl(f"dss::{name}", "CompositeExplicitAutograd", references[name])
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


def _octree_trace(nodes, corners, depth, extent, table, output, origins, *_):
    return _hits(origins)


def _trace(spheres, tree, table, weights, sizes, frequency, half, origins, *_):
    return _hits(origins)


def _hits(origins):
    n, new, int32, int64 = len(origins), origins.new_empty, torch.int32, torch.int64
    return new(n), new(n, dtype=int64), new(n, 3), new(n, dtype=int32), new(n, dtype=int32)
