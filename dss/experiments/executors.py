"""Where the meshes of a sweep are worked on: in processes of this machine, or on a cluster of Ray.

Both are executors of concurrent.futures, and the sweep does not ask which one it has. When a mesh
starts and where, and what happens when a machine is lost, is the executor's business.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from dss.cli import pick_device
from dss.errors import InputError
from dss.registry import machine_memory

Result = TypeVar("Result")


def open_executor(
    address: str | None = None,
    cpus: int = 1,
    gpus: float | None = None,
    memory: float | None = None,
    device: str = "auto",
) -> "LocalExecutor | RayExecutor":
    """The cluster at an address (`auto`: the one that this machine belongs to; `local`: one that
    begins and ends here), or this machine's processes.

    A mesh gets `cpus` cores, `gpus` GPUs, which may be a share of one, and `memory` bytes. Raises
    InputError where there is no such cluster, or a mesh needs more than the machine has.
    """
    if address:
        return RayExecutor(address, cpus, gpus or 0.0, memory)
    return LocalExecutor(_places(cpus, gpus, memory, device))


def _places(cpus: int, gpus: float | None, memory: float | None, device: str) -> int:
    """How many meshes this machine can work on at once."""
    here = len(os.sched_getaffinity(0))
    places = {f"--cpus-per-task {cpus}": here // cpus}
    if memory:
        places[f"--memory-limit {memory / 1e9:g}"] = int(machine_memory() // memory)
    if pick_device(device).type == "cuda":  # the first one; Ray knows how to use several
        places[f"--gpus-per-task {gpus}"] = int(1 / (gpus or 1.0))
    elif gpus:
        raise InputError(f"--gpus-per-task {gpus:g}: this machine works on the CPU; leave it out")
    option, fewest = min(places.items(), key=lambda item: item[1])
    if not fewest:
        raise InputError(f"{option}: more than this machine has; choose less")
    return fewest


class LocalExecutor(ThreadPoolExecutor):
    """Threads, each of which starts the process of a mesh and waits for it.

    A pool of processes would be broken as a whole as soon as one of them is killed.
    """

    lost: tuple[type[Exception], ...] = ()  # what says that a machine was lost

    def __init__(self, places: int):
        super().__init__(places, "sweep")
        self.stopping = threading.Event()

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        return super().submit(function, *arguments, stopping=self.stopping.is_set)

    def __exit__(self, *_: object) -> None:
        self.stopping.set()  # where Ctrl-C ends the sweep, meshes are still worked on
        self.shutdown(cancel_futures=True)


class RayExecutor(Executor):
    """Tasks of Ray. It chooses the machine, and tries again where one is lost."""

    def __init__(self, address: str, cpus: int, gpus: float, memory: float | None):
        try:
            import ray
        except ImportError as error:
            raise InputError(
                f"--address {address}: {error}; first: pip install -c constraints.txt -e "
                "'.[cluster]', or leave --address out"
            ) from error
        try:
            ray.init(address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"--address {address}: no cluster of Ray ({reason}); start one with `ray start "
                "--head`"
            ) from error
        self.ray = ray
        self.lost = (ray.exceptions.RaySystemError, ray.exceptions.WorkerCrashedError)
        self.lost += (ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
        self.options = {"num_cpus": cpus, "num_gpus": gpus, "memory": memory and int(memory)}

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        return self.ray.remote(**self.options)(function).remote(*arguments).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which ends the tasks that are left."""
        self.ray.shutdown()
