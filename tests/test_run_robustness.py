"""Run folders that were damaged, tampered with, left behind, or that cannot be written."""

import resource
import signal

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dss.progress import Event
from dss.run import Log

NOISE = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)


def test_a_log_on_a_full_disk_warns_once_and_the_fit_goes_on(tmp_path, capfd):
    events = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Log(tmp_path, "fit", 10, events.append) as log:
        log.scalars(1, {"loss": 0.5})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        try:
            log.picture(2, "normals", lambda: NOISE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        log.scalars(2, {"loss": 0.4})
        log.picture(3, "normals", lambda: NOISE)
    kinds = [event.stage for event in events]
    assert kinds == ["fit", "warning", "fit"]
    assert events[1].text == f"{tmp_path}/log: cannot be written (File too large); the fit goes on"
    assert capfd.readouterr() == ("", "")


def test_a_log_in_a_place_that_cannot_be_written_warns_once(tmp_path):
    (tmp_path / "log").write_text("in the way")
    events = []
    with Log(tmp_path, "fit", 10, events.append) as log:
        log.scalars(1, {"loss": 0.5})
    assert [event.stage for event in events] == ["warning", "fit"]
    assert events[1] == Event("fit", 1, 10, "loss 0.5")


def test_tensorboard_reads_the_log(tmp_path):
    with Log(tmp_path, "fit", 10, lambda _: None) as log:
        log.scalars(7, {"loss": 0.5})
        log.picture(7, "normals", lambda: NOISE)
    seen = EventAccumulator(str(tmp_path / "log")).Reload()
    (scalar,) = seen.Scalars("loss")
    assert (scalar.step, scalar.value) == (7, 0.5)
    (image,) = seen.Images("normals")
    assert (image.step, image.width, image.height) == (7, 100, 90)
