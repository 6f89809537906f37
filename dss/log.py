"""The progress of a fit: events for the caller, and TensorBoard's scalars and pictures."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from dss.progress import Event, Progress


class Log:
    """A fit's progress: events for the caller, and TensorBoard's scalars and pictures in log/.

    torch's SummaryWriter writes in a thread, which dies with a traceback where the disk is full.
    Here a log that cannot be written ends with a warning, and the fit goes on.
    """

    def __init__(self, folder: Path, stage: str, total: int, progress: Progress):
        self.stage, self.total, self.progress = stage, total, progress
        self.file: BinaryIO | None = None
        host = f"{socket.gethostname()}.{os.getpid()}"
        self.path = folder / "log" / f"events.out.tfevents.{time.time():.6f}.{host}"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("wb")
        except OSError as error:
            self._give_up(error)
        self._write(file_version="brain.Event:2")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Show numbers after `step` of `total` steps."""
        text = ", ".join(f"{name} {float(value):.3g}" for name, value in values.items())
        self.progress(Event(self.stage, step, self.total, text))
        for name, value in values.items():
            self._write(step=step, summary=summary.scalar(name, float(value)))

    def picture(self, step: int, name: str, make: Callable[[], np.ndarray]) -> None:
        """Add the picture (h, w, 3) uint8 that `make` draws."""
        if self.file:
            image = summary.image(name, make(), dataformats="HWC")
            self._write(step=step, summary=image)

    def _write(self, **values: Any) -> None:
        if self.file:
            event = event_pb2.Event(wall_time=time.time(), **values)
            try:
                RecordWriter(self.file).write(event.SerializeToString())
                self.file.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """What TensorBoard would have shown is lost from here on, and nothing else."""
        self.close()
        text = f"{self.path.parent}: cannot be written ({error.strerror}); the fit goes on"
        self.progress(Event("warning", 1, 1, text))

    def close(self) -> None:
        """Close the file."""
        if self.file:
            with suppress(OSError):
                self.file.close()
            self.file = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
