"""Compile the operators of dss/ops for this machine. `python -m kernels.build` does it now, and
says what it found.

Nothing is built on import. The first use of an operator calls `load`; without a compiler the
reference in plain torch goes on answering, and one line says so. A library is kept in
kernels/_build, or in the user's cache where that cannot be written, under a name that depends on
all that went into it. What others could have put there is never loaded.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from kernels.cache import cache_folder, is_safe

HERE = Path(__file__).parent
BUILD = HERE / "_build"
# torch 2.10 and later run what any of them compiled
ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
MATHS = ["-fno-math-errno", "-fno-trapping-math"]
CPU_FLAGS = [ABI, "-O3", "-march=native", *MATHS, "-fvisibility=hidden"]
CUDA_FLAGS = [ABI, "-DUSE_CUDA", "-O3", "--extended-lambda", "--expt-relaxed-constexpr"]
MIN_CAPABILITY = 8.0  # the matrix instructions of fused_mlp_half.h; their names before are below
TOO_OLD = ("Kepler", "Maxwell", "Pascal", "Volta", "Turing")
WRONG_TILES = 2  # of TileState
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
    try:
        library = BUILD / _name(device) / f"dss_{device}.so"
        if not _is_ours(library):  # else the folder may be read-only: nothing is written
            library = _built(library, source, device)
        torch.ops.load_library(library)
        return f"compiled ({library}{_tiles(library) if device == 'cpu' else ''})"
    except Exception as error:  # whatever is wrong with the compiler, the reference works
        log.debug("operators for %s", device, exc_info=True)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        place = _written_log(device, str(error))
        log.warning(
            "operators for %s: plain torch, slower, for they could not be compiled (%s); log: %s",
            device, reason, place,
        )  # fmt: skip
        return f"plain torch ({place})"


def _tiles(library: Path) -> str:
    """What a library for the CPU makes of the processor's matrix unit, where it knows one."""
    state = ctypes.CDLL(str(library)).dss_tiles()  # by TileState of tiles.h
    if state == WRONG_TILES:
        log.warning("AMX is not used, slower, for it computed a known product wrongly")
    return ("", "; AMX: refused by the system", "; AMX: wrong, not used", "; AMX: used")[state]


def _written_log(device: str, text: str) -> Path | str:
    """Where the compiler's words are kept; where nothing can be written, they are not."""
    try:
        place = _folder("log") / f"dss_{device}.log"
        place.write_text(text)
        return place
    except (OSError, ValueError):  # ValueError: text that UTF-8 cannot hold
        return "none, for nothing can be written"


def _is_ours(library: Path) -> bool:
    """Whether only this user, or whoever owns these sources, can have written a library."""
    places = [library, library.parent]
    if library.is_relative_to(BUILD):
        return all(is_safe(place, (HERE.stat().st_uid,)) for place in (*places, BUILD))
    return all(map(is_safe, places))  # `cache_folder` looked at those above


def _built(library: Path, source: str, device: str) -> Path:
    """Build a library, or wait until another process has, where it is meant to be or elsewhere."""
    folder = _folder(library.parent.name)
    library = folder / library.name
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here, and finds the library
        if not _is_ours(library):
            _require_compiler(device)
            log.warning("compiling the operators for %s, once", device)
            compile_library(library, HERE / source, CPU_FLAGS)
    return library


def _require_compiler(device: str) -> None:
    from torch.utils import cpp_extension  # not cheap, and needed only to build

    compiler = _nvcc() if device == "cuda" else cpp_extension.get_cxx_compiler().split()[0]
    if shutil.which(compiler) is None:
        raise FileNotFoundError(f"no compiler: {compiler} is not on PATH")


def _nvcc() -> str:
    from torch.utils import cpp_extension

    return f"{cpp_extension.CUDA_HOME or '/usr/local/cuda'}/bin/nvcc"


def _compiler_version() -> str:
    """What nvcc says of itself; empty without one, since a library may have been built before."""
    if shutil.which(_nvcc()) is None:
        return ""
    return subprocess.run([_nvcc(), "--version"], capture_output=True, text=True).stdout


def _name(device: str) -> str:
    """What tells a library from others: this source, compiler flags, torch and processor."""
    files = sorted(file for file in HERE.iterdir() if file.suffix in (".h", ".cpp", ".cu"))
    sources = [file.read_text(encoding="utf-8") for file in files]
    text = [torch.__version__, *CPU_FLAGS, *CUDA_FLAGS, _processor(), *sources]
    if device == "cuda":
        if wanted := os.environ.get("TORCH_CUDA_ARCH_LIST"):
            os.environ["TORCH_CUDA_ARCH_LIST"] = wanted = _architectures(wanted)
        text += [_compiler_version(), wanted or str(torch.cuda.get_device_capability())]
    return f"{device}-{hashlib.sha256(chr(0).join(text).encode()).hexdigest()[:16]}"


def _folder(name: str) -> Path:
    """A writable folder that no one else can write to: beside the sources, else the user's."""
    folder = BUILD / name
    with contextlib.suppress(OSError):
        for path in (BUILD, folder):
            path.mkdir(mode=0o755, exist_ok=True)
        if is_safe(BUILD) and is_safe(folder) and os.access(folder, os.W_OK):
            return folder
    return cache_folder(name)


def _processor() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    flags = (line for line in lines if line.startswith(("flags", "Features")))
    return next(flags, platform.processor())


def compile_library(library: Path, source: Path, cpu_flags: list[str]) -> None:
    """Compile a source to a library and load it. Raises what torch raises."""
    from torch.utils import cpp_extension

    folder = Path(tempfile.mkdtemp(dir=library.parent))
    # ninja is beside the interpreter, though the environment may not be active
    paths = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    os.environ["PATH"] = os.pathsep.join(paths)
    try:
        cpp_extension.load(
            library.stem, [str(source)], extra_cflags=cpu_flags,
            extra_cuda_cflags=CUDA_FLAGS, build_directory=str(folder), is_python_module=False,
        )  # fmt: skip
        (folder / library.name).chmod(0o755)  # whatever the umask: no one else may write
        (folder / library.name).replace(library)
    finally:
        shutil.rmtree(folder)


def _architectures(wanted: str) -> str:
    """The entries of TORCH_CUDA_ARCH_LIST that the kernels can be compiled for.

    One that is too old would fail the build for all. Raises ValueError where none is left.
    """
    entries = wanted.replace(";", " ").split()
    numbers = [re.match(r"\d+\.\d+", entry) for entry in entries]
    kept = [
        entry
        for entry, number in zip(entries, numbers, strict=True)
        if (float(number[0]) >= MIN_CAPABILITY if number else not entry.startswith(TOO_OLD))
    ]
    if not kept:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST={wanted}: the kernels need 8.0 or later")
    if kept != entries:
        log.warning("TORCH_CUDA_ARCH_LIST=%s: compiling for %s", wanted, " ".join(kept))
    return " ".join(kept)


if __name__ == "__main__":
    for device, what in load().items():
        print(f"{device}: {what}")  # noqa: T201
