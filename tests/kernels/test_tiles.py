"""The CPU's matrix unit (AMX): emulated, for no processor at hand has to have one; and whether the
library for one that does holds its instructions."""

import ctypes
import logging
import platform
import shutil
import subprocess
import sysconfig
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils import cpp_extension

from dss import ops
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.ops import reference
from dss.shell.dual_shell import DualShell
from kernels import build as kernels
from tests.kernels.structures import Network, Rays, hits_of, native, small_shell

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
REFUSED, WRONG, RIGHT = 1, 2, 3  # of TileState
ROUGH, SPLIT, FULL = range(3)  # of Precision
NETWORKS = [  # layers, width, octaves
    *product((1, 2, 4), (32, 44), (4,)), *product((1, 2), (64, 128), (4, 6)), (4, 128, 6),
]  # fmt: skip
needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")


@pytest.fixture(scope="module")
def unit(tmp_path_factory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    built = tmp_path_factory.mktemp("tiles") / "tiles.so"
    flags = ["-std=c++20", "-O1", "-march=native", "-fPIC", "-shared", "-Wall", "-Werror"]
    # false alarms in the headers of GCC 12; and vectors that are passed by value
    flags += ["-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-psabi"]
    flags += ["-fno-gnu-unique"]  # else other libraries of the process would believe in its unit
    source = str(HERE / "evaluated_tiles.cpp")
    subprocess.run(["g++", *flags, source, "-o", str(built)], check=True)
    return loaded(built)


def loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, integer, flag = ctypes.c_void_p, ctypes.c_int, ctypes.c_bool
    library.in_use.restype = flag
    library.multiply.argtypes = [integer] * 3 + [pointer] * 4
    library.evaluate.argtypes = [pointer, integer, Network, integer] + [pointer] * 3
    library.trace.argtypes = [
        pointer, integer, pointer, integer, Network, integer, flag, integer, Rays,
    ]  # fmt: skip
    library.trace.restype = ctypes.c_long
    return library


def bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().double()


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 1, 1), (16, 32, 16), (17, 33, 40), (96, 128, 128)]
)
def test_products(unit, rows, inputs, outputs):
    torch.manual_seed(0)
    left, right = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    rough, split = torch.full((2, rows, outputs), torch.nan)
    pointers = (tensor.data_ptr() for tensor in (left, right, rough, split))
    unit.multiply(rows, inputs, outputs, *pointers)
    size = left.double().abs() @ right.double().abs().T
    exact = left.double() @ right.double().T
    high = bfloat16(left) @ bfloat16(right).T  # what rounding makes of the inputs, and nothing else
    assert ((rough - high).abs() / size).max() < inputs * 2**-24
    assert ((split - exact).abs() / size).max() < 2**-16
    assert ((rough - exact).abs() / size).max() > 2**-12  # so the low parts do count
    assert not unit.in_use()  # the tiles are released


def test_denormal_numbers_and_infinities(unit):
    """A number and its rounding, and parts that the unit counts as zero."""
    left = torch.tensor([[1e-39], [3e-38], [torch.inf], [1 + 2**-8], [1 + 3 * 2**-8], [-0.0]])
    rough, split = torch.empty(2, 6, 1)
    one = torch.ones(1, 1)
    unit.multiply(6, 1, 1, *(tensor.data_ptr() for tensor in (left, one, rough, split)))
    expected = [[0.0], [float(left[1].bfloat16())], [torch.inf], [1.0], [1 + 2**-6], [0.0]]
    assert rough.tolist() == expected
    assert split[3:5].tolist() == [[1 + 2**-8], [1 + 3 * 2**-8]]


def evaluated(unit, shell: DualShell, network: ops.Network, points, owner) -> torch.Tensor:
    """Values (3, n) by each precision."""
    narrow, values = owner.int(), torch.full((3, len(points)), torch.nan)
    pointers = (tensor.data_ptr() for tensor in (points, narrow, values))
    spheres = shell.packed.spheres.data_ptr()
    unit.evaluate(spheres, len(shell), native(network), len(points), *pointers)
    return values


@pytest.mark.parametrize(("layers", "width", "octaves"), NETWORKS)
def test_a_network_is_the_reference(unit, layers, width, octaves):
    smooth = layers != 2
    options = {} if smooth else {"activation": "leaky_relu", "output": "tanh"}
    shell, count = small_shell(), 96 + 37 + 2
    torch.manual_seed(0)
    settings = DualShellSettings(latent=4, layers=layers, width=width, octaves=octaves, **options)
    field = build(settings, shell.geometry)
    network = field.network()
    points, owner = torch.rand(count, 3) - 0.5, torch.randint(len(shell), (count,))
    values = evaluated(unit, shell, network, points, owner)
    spheres = shell.packed.spheres
    table, weights, *rest = network
    expected = reference.shell_field(
        spheres.double(), table.double(), weights.double(), *rest, points.double(), owner, False
    )[0]
    scale = 0.06 if smooth else 1  # what an output is multiplied with
    error = (values - expected).abs().amax(1) / scale
    assert error[FULL] < 1e-5
    assert error[SPLIT] < 2**-15
    assert 10 * error[SPLIT] < error[ROUGH] < 0.05


def traced(unit, shell: ops.Shell, network: ops.Network, rule: str, rays, in_tiles: bool):
    spheres = len(shell.spheres)
    got, pointers = hits_of(rays)
    first_leaf, leaves = 0, 1
    while leaves * 8 < spheres:
        first_leaf, leaves = first_leaf + leaves, leaves * 8
    products = unit.trace(
        shell.spheres.data_ptr(), spheres, shell.tree.data_ptr(), first_leaf, native(network),
        ops.RULES.index(rule), in_tiles, len(rays[0]), pointers,
    )  # fmt: skip
    return got, products


def compare(unit, field, rays) -> None:
    """Rays traced in 32 bits and in tiles."""
    arguments = (field.shell.packed, field.network(), field.owner_rule, rays)
    (expected, none), (got, products) = (traced(unit, *arguments, way) for way in (False, True))
    assert none == 0 and products > 1000 and not unit.in_use()
    hit = expected.t.isfinite()
    assert torch.equal(got.t.isfinite(), hit) and hit.sum() > 100
    assert (got.t - expected.t)[hit].abs().max() < 1e-5
    same = hit & (got.sphere == expected.sphere)
    assert same.sum() > 0.99 * hit.sum()
    assert (got.normal - expected.normal)[same].abs().max() < 1e-2


@pytest.mark.parametrize("output", ["radial", "tanh"])
def test_rays(unit, output):
    shell = small_shell()
    torch.manual_seed(0)
    options = {"width": 44, "layers": 2, "output": output}
    field = build(DualShellSettings(latent=4, **options), shell.geometry).requires_grad_(False)
    origins = normalize(torch.randn(1500, 3), dim=1) * 3
    compare(unit, field, (origins, normalize(0.4 * torch.randn(1500, 3) - origins, dim=1)))


def test_the_unit_is_tried_before_it_is_used(unit):
    assert unit.tried(True, False) == RIGHT
    assert unit.tried(False, False) == REFUSED
    assert unit.tried(True, True) == WRONG
    assert not unit.in_use()


def test_vectors_answer_where_the_system_refuses_the_unit(unit, tmp_path):
    own = tmp_path / "refused.so"  # with a state of its own
    shutil.copy(unit._name, own)
    refused = loaded(own)
    refused.refuse()
    shell = small_shell()
    torch.manual_seed(0)
    network = build(DualShellSettings(latent=4, width=32), shell.geometry).network()
    points, owner = torch.rand(50, 3) - 0.5, torch.randint(len(shell), (50,))
    got, expected = (evaluated(one, shell, network, points, owner) for one in (refused, unit))
    assert torch.equal(got[SPLIT], got[FULL]) and torch.equal(got[FULL], expected[FULL])
    assert not torch.equal(expected[SPLIT], expected[FULL])


@pytest.mark.parametrize(("state", "said"), [(0, ""), (REFUSED, "refused"), (RIGHT, "used")])
def test_what_the_library_found_is_said(monkeypatch, caplog, state, said):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: library_that_says(state))
    assert said in kernels._tiles(Path("dss_cpu.so")) and not caplog.records


def test_a_unit_that_errs_is_worth_a_line(monkeypatch, caplog):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: library_that_says(WRONG))
    with caplog.at_level(logging.WARNING, "dss"):
        assert "not used" in kernels._tiles(Path("dss_cpu.so"))
    assert "AMX is not used" in caplog.text


def library_that_says(state: int) -> object:
    return type("Library", (), {"dss_tiles": staticmethod(lambda: state)})


@needs_gcc
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86")
def test_the_library_for_a_processor_with_the_unit_uses_it(tmp_path):
    """Compiled only: this machine need not have it."""
    target = "-march=sapphirerapids"
    known = subprocess.run(
        ["g++", target, "-E", "-x", "c++", "/dev/null"], capture_output=True
    ).returncode
    if known or shutil.which("objdump") is None:
        pytest.skip("a compiler that does not know Sapphire Rapids, or no objdump")
    include = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    flags = [item for path in include for item in ("-isystem", path)]
    flags += [kernels.ABI, "-std=c++20", "-O0", target, "-fPIC", "-c", "-w"]
    built = tmp_path / "cpu.o"
    source = str(ROOT / "kernels" / "cpu.cpp")
    subprocess.run(["g++", *flags, source, "-o", str(built)], check=True)
    code = subprocess.run(["objdump", "-d", built], capture_output=True, text=True).stdout
    for instruction in ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
        assert instruction in code
    # sums, rows and columns, from the right: the compiler's own order
    assert "tdpbf16ps %tmm6,%tmm4,%tmm0" in code and "tdpbf16ps %tmm7,%tmm5,%tmm3" in code
