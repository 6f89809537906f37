"""How long a call takes, and how much memory."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

LONG = 10_000.0  # ms, after which three runs are enough, or the first if it alone took as long
MAX_RUNS = 7

Row = dict[str, float]


def clock(device: torch.device) -> float:
    """Milliseconds, after all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * time.perf_counter()


def timed(function: Callable[[], object], device: torch.device) -> tuple[Row, object]:
    """`total`, the median milliseconds of a call after a first one (of that one, where it is long),
    `spread`, the slowest less the fastest, `cpu`, the processors' milliseconds, and `memory`, the
    MB that the first one took; and the last result."""
    start, cpu = clock(device), 1e3 * time.process_time()
    result, used = memory(function, device)
    runs = [(clock(device) - start, 1e3 * time.process_time() - cpu)]
    if runs[0][0] < LONG:
        runs, begin = [], clock(device)
        while len(runs) < 3 or (len(runs) < MAX_RUNS and clock(device) - begin < LONG):
            start, cpu = clock(device), 1e3 * time.process_time()
            result = function()
            runs.append((clock(device) - start, 1e3 * time.process_time() - cpu))
    totals, processors = zip(*runs, strict=True)
    row = {"total": statistics.median(totals), "spread": max(totals) - min(totals)}
    return row | {"cpu": statistics.median(processors), "memory": used}, result


def memory(function: Callable[[], object], device: torch.device) -> tuple[object, float]:
    """A call's result, and the MB that it took on top of what was held before, its result
    included."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = function()
        return result, (torch.cuda.max_memory_allocated(device) - before) / 1e6
    # what was freed goes back to the system, so that its reuse counts
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set starts anew
    before = _status("VmRSS")
    result = function()
    return result, max(0, _status("VmHWM") - before) * 1024 / 1e6


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
