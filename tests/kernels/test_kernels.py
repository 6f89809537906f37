"""Building the kernels: lazily, safely, or not at all; and the CUDA sources without a GPU."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils import cpp_extension

from dss import ops
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from kernels import build as kernels
from tests.kernels.structures import Network, Rays, hits_of, native, small_shell

ROOT = Path(__file__).parents[2]
needs_gcc = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
USE = """
import torch
from dss.shell.dual_shell import DualShell
shell = DualShell(torch.zeros(1, 3), torch.tensor([0.2]), torch.tensor([0.3]))
print(shell.owner(torch.tensor([[0.25, 0, 0], [0.5, 0, 0]]), "relative").tolist())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=True,
    )


def copied(tmp_path: Path) -> Path:
    """The two packages elsewhere, with nothing built."""
    for package in ("dss", "kernels"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("_build", "__pycache__"),
        )
    return tmp_path


def test_import_needs_no_compiler_and_builds_nothing():
    modules = "dss.shell.dual_shell, dss.ops, dss.rendering.tracing, dss.fields, sys"
    code = f"import {modules}; print('kernels.build' in sys.modules)"
    assert python(code).stdout.split() == ["False"]


def compiler(folder: Path, script: str) -> str:
    """A PATH on which c++ is this shell script."""
    folder.mkdir()
    (folder / "c++").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "c++").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_without_a_compiler_the_reference_answers_and_one_line_says_so(tmp_path):
    ran = python(USE, PYTHONPATH=str(copied(tmp_path)), PYTHONSAFEPATH="1", PATH="/nonexistent")
    assert ran.stdout.strip() == "[0, -1]"
    (notice,) = ran.stderr.strip().splitlines()
    log = Path(notice.split()[-1])
    assert (
        "plain torch" in notice
        and "no compiler" in notice
        and log.is_relative_to(tmp_path)
        and "PATH" in log.read_text()
    )


@needs_gcc
def test_a_compiler_that_fails_is_no_worse(tmp_path):
    path = compiler(
        tmp_path / "bin",
        'case "$*" in *cpu.cpp*) echo the disk is full; exit 1;; esac; exec g++ "$@"',
    )
    ran = python(USE, PYTHONPATH=str(copied(tmp_path)), PYTHONSAFEPATH="1", PATH=path, CXX="c++")
    assert ran.stdout.strip() == "[0, -1]"
    (notice,) = (line for line in ran.stderr.splitlines() if "plain torch" in line)
    assert "the disk is full" in Path(notice.split()[-1]).read_text()


@needs_gcc
def test_two_processes_may_build_at_once_and_the_result_is_kept(tmp_path):
    quick = compiler(tmp_path / "bin", 'exec g++ "$@" -O0')
    where = {
        "PYTHONPATH": str(copied(tmp_path)),
        "PYTHONSAFEPATH": "1",
        "PATH": quick,
        "CXX": "c++",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", USE],
            stdout=-1,
            stderr=-1,
            text=True,
            env={**os.environ, **where},
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == ["[0, -1]"] * 2
    (library,) = (tmp_path / "kernels" / "_build").rglob("*.so")
    built = library.stat().st_mtime_ns
    again = python(USE, **where)
    assert (
        again.stdout.strip() == "[0, -1]"
        and again.stderr == ""
        and library.stat().st_mtime_ns == built
    )
    assert not list(library.parent.glob("tmp*"))


def installed_headers() -> list[str]:
    return cpp_extension.include_paths()


def older_headers() -> list[str]:
    """Of another release of torch, which .ci/run unpacks."""
    folder = os.environ.get("DSS_TORCH_HEADERS")
    if not folder:
        pytest.skip("DSS_TORCH_HEADERS names no headers of another torch, see .ci/run")
    assert Path(folder, "torch", "csrc", "stable").is_dir()
    return [folder, f"{folder}/torch/csrc/api/include"]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize(
    ("headers", "names"), [(installed_headers, ("80", "90", "100")), (older_headers, ("90",))]
)
def test_cuda_sources_compile(tmp_path, headers, names):
    include = [item for path in headers() for item in ("-isystem", path)]
    include += ["-isystem", sysconfig.get_path("include")]
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True).stdout
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names
               if f"sm_{name}" in known.split()]  # fmt: skip
    targets.append("--threads=2")
    quick = [*kernels.CUDA_FLAGS, "-Xcicc=-O1", "-Xptxas=-O1"]  # in a fifth of the time
    for source in (ROOT / "kernels").glob("*.cu"):
        command = [
            "nvcc",
            "-c",
            str(source),
            "-o",
            str(tmp_path / "object.o"),
            "-std=c++20",
            "-Werror=all-warnings",
        ]
        ran = subprocess.run(
            [*command, *quick, *targets, *include], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0 and not ran.stderr.strip(), ran.stderr


def test_architectures_that_are_too_old_are_left_out_and_one_line_says_so(caplog):
    assert kernels._architectures("7.5;8.0 9.0a Turing Hopper 10.0+PTX") == (
        "8.0 9.0a Hopper 10.0+PTX"
    )
    assert len(caplog.messages) == 1 and "compiling for 8.0 9.0a" in caplog.messages[0]
    with pytest.raises(ValueError, match=r"TORCH_CUDA_ARCH_LIST=7\.5: the kernels need 8\.0"):
        kernels._architectures("7.5")
    caplog.clear()
    assert kernels._architectures("9.0") == "9.0" and not caplog.messages


def test_a_library_for_cuda_has_its_own_name_for_each_compiler_and_list(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    names = set()
    for version, wanted in (("13.0", ""), ("12.8", ""), ("12.8", "8.0"), ("12.8", "8.0 9.0")):
        monkeypatch.setattr(kernels, "_compiler_version", lambda version=version: version)
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
        names.add(kernels._name("cuda"))
    assert len(names) == 4


EVERY_OPERATOR = """
import torch
from dss import ops
from dss.fields import build
from dss.fields.dual_shell import DualShellSettings
from dss.shell.dual_shell import DualShell
torch.manual_seed(0)
shell = DualShell(torch.rand(70, 3) - 0.5, torch.full((70,), 0.1), torch.full((70,), 0.16))
field = build(DualShellSettings(latent=4), shell.geometry).cuda()
points, directions = torch.rand(999, 3).cuda() * 2 - 1, torch.randn(999, 3).cuda()
for half in (False, True):
    network = field.network()._replace(half=half)
    ops.shell_intervals(field.shell.packed, points, directions, "relative")
    owner = ops.shell_owner(field.shell.packed, points, "smallest").clamp(min=0)
    ops.shell_union_sdf(field.shell.packed, points, True)
    ops.shell_field(field.shell.packed, network, points, owner, gradient=True)
    ops.shell_sdf(field.shell.packed, network, points, "relative")
    for rule in ops.RULES:
        ops.shell_trace(field.shell.packed, network, points, directions, rule)
torch.cuda.synchronize()
"""


@pytest.mark.cuda
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer")
    assert "compiled" in kernels.load()["cuda"]
    command = [
        sanitizer,
        "--tool",
        tool,
        "--error-exitcode",
        "1",
        sys.executable,
        "-c",
        EVERY_OPERATOR,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.cuda
def test_sixteen_bits_are_nearly_as_good():
    shell = small_shell()
    torch.manual_seed(0)
    field = build(DualShellSettings(latent=4), shell.geometry).cuda()
    network = field.network()
    origins = normalize(torch.randn(5000, 3), dim=1) * 3
    rays = origins.cuda(), normalize(0.4 * torch.randn(5000, 3) - origins, dim=1).cuda()
    exact, got = (
        ops.shell_trace(field.shell.packed, network._replace(half=half), *rays, "relative")
        for half in (False, True)
    )
    both = exact.t.isfinite() & got.t.isfinite()
    assert (exact.t.isfinite() != got.t.isfinite()).float().mean() < 0.01 and both.sum() > 1000
    assert ((exact.t - got.t).abs()[both] < 1e-3).float().mean() > 0.98


class TraceOptions(ctypes.Structure):
    _fields_ = [
        ("rule", ctypes.c_int),
        ("exact", ctypes.c_bool),
        ("everywhere", ctypes.c_bool),
        ("tolerance", ctypes.c_float),
    ]


class Used(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("rounds", "tiles", "queries")]


FLOAT, HALF, PLAIN = range(3)  # how the emulated kernels evaluate the network


@pytest.fixture(scope="module")
def warp(tmp_path_factory) -> ctypes.CDLL:
    """The code that blocks of CUDA warps run, on fibers."""
    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    library = tmp_path_factory.mktemp("warp") / "warp.so"
    flags = [
        "-std=c++20",
        "-O2",
        "-march=native",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wno-unknown-pragmas",
    ]
    subprocess.run(
        [
            "g++",
            *flags,
            "-Werror",
            str(ROOT / "tests" / "kernels" / "emulated_gpu.cpp"),
            "-o",
            str(library),
        ],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    pointer = ctypes.c_void_p
    loaded.emulated_field.argtypes = [
        pointer,
        ctypes.c_int,
        Network,
        ctypes.c_int,
        ctypes.c_bool,
        ctypes.c_int,
        pointer,
        pointer,
        pointer,
        pointer,
    ]
    loaded.emulated_trace.argtypes = [
        pointer,
        ctypes.c_int,
        pointer,
        Network,
        ctypes.c_int,
        TraceOptions,
        ctypes.c_int,
        ctypes.c_int,
        Rays,
        ctypes.POINTER(Used),
    ]
    return loaded


def network_of(field) -> tuple[ops.Network, Network]:
    network = field.network()
    return network, native(network)


@pytest.mark.parametrize(
    ("half", "accurate", "tolerance"),
    [(False, True, 2e-6), (True, False, 2e-3), (True, True, 2e-6)],
)
@pytest.mark.parametrize(
    "options",
    [
        {"width": 64, "layers": 2, "octaves": 4},
        {
            "width": 128,
            "layers": 1,
            "octaves": 6,
            "activation": "leaky_relu",
            "output": "tanh",
            "local": False,
        },
        {"width": 40, "layers": 3, "octaves": 10},
    ],
)
def test_warps_evaluate_the_network(warp, options, half, accurate, tolerance):
    shell = small_shell()
    torch.manual_seed(0)
    network, native = network_of(build(DualShellSettings(latent=4, **options), shell.geometry))
    points, owner = torch.rand(75, 3) * 2 - 1, torch.randint(len(shell), (75,))
    expected, slope = ops.shell_field(shell.packed, network, points, owner, gradient=True)
    value, gradient, narrow = torch.empty(75), torch.empty(75, 3), owner.int()
    tensors = (points, narrow, value, gradient)
    warp.emulated_field(
        shell.packed.spheres.data_ptr(),
        len(shell),
        native,
        half,
        accurate,
        75,
        *(tensor.data_ptr() for tensor in tensors),
    )
    torch.testing.assert_close(value, expected, atol=tolerance, rtol=0)
    error = (gradient - slope).norm(dim=1) / (1 + slope.norm(dim=1))
    # the rest: beside a kink of the leaky rectifier
    assert (error < (2e-2 if half else 2e-5)).float().mean() > 0.95


def emulated_trace(warp, kind, shell, native, rays, rule, exact, blocks) -> tuple[ops.Traced, Used]:
    (got, pointers), used = hits_of(rays), Used()
    options = TraceOptions(ops.RULES.index(rule), exact, False, 1e-6)
    spheres, tree = (tensor.data_ptr() for tensor in shell.packed)
    warp.emulated_trace(
        spheres, len(shell), tree, native, kind, options, blocks, len(rays[0]), pointers, used
    )
    return got, used


def rays_at_the_shell(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and directions (count, 3), the first ones with NaN and infinities."""
    torch.manual_seed(0)
    origins = normalize(torch.randn(count, 3), dim=1) * 3
    directions = 0.4 * torch.randn(count, 3) - origins
    for i, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        origins[2 * i, i] = directions[2 * i + 1, i] = value
    return origins, directions


@pytest.mark.parametrize("kind", [FLOAT, HALF])
@pytest.mark.parametrize(("rule", "exact"), [("relative", True), ("every", False)])
def test_blocks_trace_rays(warp, rule, exact, kind):
    shell, rays = small_shell(), rays_at_the_shell(900)
    torch.manual_seed(0)
    network, native = network_of(build(DualShellSettings(latent=4, width=32), shell.geometry))
    expected = ops.shell_trace(shell.packed, network, *rays, rule, exact, tolerance=1e-6)
    got, _ = emulated_trace(warp, kind, shell, native, rays, rule, exact, 2)
    rough = kind == HALF and not exact  # then no sign decides
    hit, both = expected.t.isfinite(), expected.t.isfinite() & got.t.isfinite()
    assert (got.t.isfinite() != hit).sum() <= (5 if rough else 0) and hit.sum() > 200
    assert not hit[:6].any()
    error = ((got.t - expected.t).abs() * rays[1].norm(dim=1))[both]
    assert (error < (1e-3 if rough else 1e-5)).float().mean() > (0.98 if rough else 0.999)
    same = both & (got.sphere == expected.sphere)
    assert same.sum() > 0.95 * both.sum() and (got.normal - expected.normal)[same].abs().max() < (
        0.03 if kind == HALF else 1e-3
    )


def test_lanes_are_in_use_and_rounds_are_few(warp):
    """The tracer's own scheduling, with as many rays in a block as a frame brings."""
    shell, rays = small_shell(), rays_at_the_shell(1400)
    torch.manual_seed(0)
    network, native = network_of(build(DualShellSettings(latent=4, width=32), shell.geometry))
    expected = ops.shell_trace(shell.packed, network, *rays, "relative")
    got, used = emulated_trace(warp, PLAIN, shell, native, rays, "relative", True, 2)
    assert torch.equal(got.t.isfinite(), expected.t.isfinite())
    assert used.queries > 0.8 * 16 * used.tiles
    assert used.rounds <= 60
