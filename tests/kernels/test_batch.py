"""kernels/batch.h, compiled for this processor, for less of it, and for any x86 at all."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.ops import reference
from dss.shell.dual_shell import DualShell
from tests.kernels.structures import Network

ROOT = Path(__file__).parents[2]
NATIVE = "-march=native"
TARGETS = [[NATIVE], [NATIVE, "-mno-avx512bf16"], [NATIVE, "-mno-avx512f"], ["-march=x86-64"]]
NETWORKS = [
    {"width": 128, "layers": 2, "octaves": 6, "activation": "leaky_relu", "output": "tanh"},
    {"width": 40, "layers": 3, "octaves": 4},
    {"width": 7, "layers": 1, "octaves": 1, "local": False, "output": "tanh"},
]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86")
@pytest.mark.parametrize("flags", TARGETS, ids=" ".join)
def test_a_batch_is_the_reference_on_every_processor(tmp_path, flags):
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    source, built = ROOT / "tests" / "kernels" / "evaluated_batch.cpp", tmp_path / "batch.so"
    general = ["-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Wno-psabi", "-Werror"]
    # false alarms in the headers of GCC 12
    general += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    subprocess.run(["g++", *general, *flags, str(source), "-o", str(built)], check=True)
    library = ctypes.CDLL(str(built))
    library.has_rough.restype = ctypes.c_bool
    torch.manual_seed(0)
    inner = torch.rand(20) * 0.15 + 0.05
    shell = DualShell(torch.rand(20, 3) - 0.5, inner, inner + 0.06)
    points, owner = torch.rand(205, 3) - 0.5, torch.randint(20, (205,))
    for options in NETWORKS:
        field = build(DualShellSettings(latent=4, **options), shell.geometry)
        net = field.network()
        expected = [
            reference.shell_field(shell.packed.spheres, *net, points, owner, gradient)[gradient]
            for gradient in (False, True)
        ]
        native = Network(net.table.data_ptr(), net.weights.data_ptr(), *net.sizes, net.frequency)
        results = torch.empty(205), torch.empty(205), torch.empty(205, 3)
        tensors = (points, owner.int(), *results)
        library.evaluate(
            ctypes.c_void_p(shell.packed.spheres.data_ptr()), 20, native, 205,
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        )  # fmt: skip
        value, estimate, gradient = results
        torch.testing.assert_close(value, expected[0], atol=2e-6, rtol=0)
        torch.testing.assert_close(gradient, expected[1], atol=1e-4, rtol=1e-3)
        error = (estimate - expected[0]).abs().max()
        assert error < 0.02
        assert (error > 2e-6) == library.has_rough()
