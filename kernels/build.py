"""Compile the operators of dss/ops for this machine. `python -m kernels.build` does it now, and
says what it found.

Nothing is built on import. The first use of an operator calls `load`; without a compiler the
reference in plain torch goes on answering, and one line says so. A library is kept in
kernels/_build under a name that depends on all that went into it.
"""

import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
# torch 2.10 and later run what any of them compiled
ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
MATHS = ["-fno-math-errno", "-fno-trapping-math"]
CPU_FLAGS = [ABI, "-O3", "-march=native", *MATHS, "-fvisibility=hidden"]
CUDA_FLAGS = [ABI, "-DUSE_CUDA", "-O3", "--extended-lambda", "--expt-relaxed-constexpr"]
log = logging.getLogger("dss")


@functools.cache
def load() -> dict[str, str]:
    """Register the compiled operators for each device, and build them first if need be. Never
    raises. Returns {device: what runs there}."""
    found = {"cpu": _load("cpu", "cpu.cpp")}
    if torch.cuda.is_available():
        found["cuda"] = _load("cuda", "cuda.cu")
    return found


def _load(device: str, source: str) -> str:
    folder = None
    try:
        folder = _folder(device)
        library = folder / f"dss_{device}.so"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here, and finds the library
            if not library.exists():
                _require_compiler(device)
                log.warning("compiling the operators for %s, once", device)
                _build(library, source)
        torch.ops.load_library(library)
        return f"compiled ({library})"
    except Exception as error:  # whatever is wrong with the compiler, the reference works
        place = (folder or Path(tempfile.gettempdir())) / f"dss_{device}.log"
        place.write_text(str(error))
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        log.warning(
            "operators for %s: plain torch, slower, for they could not be compiled (%s); "
            "full log: %s",
            device, reason, place,
        )  # fmt: skip
        return f"plain torch ({place})"


def _require_compiler(device: str) -> None:
    from torch.utils import cpp_extension  # not cheap, and needed only to build

    nvcc = f"{cpp_extension.CUDA_HOME or '/usr/local/cuda'}/bin/nvcc"
    compiler = nvcc if device == "cuda" else cpp_extension.get_cxx_compiler().split()[0]
    if shutil.which(compiler) is None:
        raise FileNotFoundError(f"no compiler: {compiler} is not on PATH")


def _folder(device: str) -> Path:
    """Where the library for this source, compiler flags, torch and processor belongs; created."""
    files = sorted(file for file in HERE.iterdir() if file.suffix in (".h", ".cpp", ".cu"))
    sources = [file.read_text() for file in files]
    text = [torch.__version__, *CPU_FLAGS, *CUDA_FLAGS, _processor(), *sources]
    if device == "cuda":
        text.append(str(torch.cuda.get_device_capability()))
    name = f"{device}-{hashlib.sha256(chr(0).join(text).encode()).hexdigest()[:16]}"
    shared = Path(tempfile.gettempdir()) / f"dss-{os.getuid()}"
    for root in (HERE / "_build", Path.home() / ".cache" / "dss", shared):
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
            return root / name
        except OSError:
            continue
    raise OSError("no folder to build in")


def _processor() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return next(flags, platform.processor())


def _build(library: Path, source: str) -> None:
    from torch.utils import cpp_extension

    folder = Path(tempfile.mkdtemp(dir=library.parent))
    # ninja is beside the interpreter, though the environment may not be active
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)
    try:
        cpp_extension.load(
            library.stem, [str(HERE / source)], extra_cflags=CPU_FLAGS,
            extra_cuda_cflags=CUDA_FLAGS, build_directory=str(folder), is_python_module=False,
        )  # fmt: skip
        (folder / library.name).replace(library)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    for device, what in load().items():
        print(f"{device}: {what}")  # noqa: T201
