"""Structures of kernels/*.h, as ctypes passes them to the libraries that tests compile; and what
these are called with."""

import ctypes

import torch

from dss import ops
from dss.shell.dual_shell import DualShell


class Network(ctypes.Structure):
    """kernels/network.h."""

    _fields_ = [
        ("table", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("layers", ctypes.c_int),
        ("width", ctypes.c_int),
        ("octaves", ctypes.c_int),
        ("local", ctypes.c_bool),
        ("silu", ctypes.c_bool),
        ("radial", ctypes.c_bool),
        ("frequency", ctypes.c_float),
    ]


class Rays(ctypes.Structure):
    """kernels/trace.h."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("origins", "directions", "t", "sphere", "normal", "steps", "intervals")
    ]


def native(network: ops.Network) -> Network:
    pointers = network.table.data_ptr(), network.weights.data_ptr()
    return Network(*pointers, *network.sizes, network.frequency)


def hits_of(rays: tuple[torch.Tensor, torch.Tensor]) -> tuple[ops.Traced, Rays]:
    """Tensors to be filled with the hits of rays, and the structure that points to both."""
    count = len(rays[0])
    kinds = (torch.float32, torch.int64, torch.float32, torch.int32, torch.int32)
    shapes = ((count,), (count,), (count, 3), (count,), (count,))
    hits = ops.Traced(*(torch.empty(s, dtype=k) for s, k in zip(shapes, kinds, strict=True)))
    return hits, Rays(*(tensor.data_ptr() for tensor in (*rays, *hits)))


def small_shell() -> DualShell:
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(70, generator=generator) * 0.15 + 0.05
    return DualShell(torch.rand(70, 3, generator=generator) * 1.2 - 0.6, inner, inner + 0.06)
