"""Samplers of rays: one file per method, found by itself."""

import sys

from dss.config import Settings
from dss.plugins import discover
from dss.reconstruction.samplers.base import Sampler

SAMPLERS = discover(sys.modules[__name__], Sampler)


def build_sampler(settings: Settings) -> Sampler:
    """A sampler of the method that the settings belong to, as before the first training step.

    What is random about it is drawn from torch's global generator.
    """
    return SAMPLERS[settings.method](settings)
