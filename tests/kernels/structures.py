"""Structures of kernels/*.h, as ctypes passes them to the libraries that tests compile."""

import ctypes


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
