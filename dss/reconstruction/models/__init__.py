"""Base models of multi-view reconstruction: one file per method, found by itself."""

import sys

from dss.config import Settings
from dss.plugins import discover
from dss.reconstruction.background import build_backdrop
from dss.reconstruction.models.base import Model

MODELS = discover(sys.modules[__name__], Model)


def build_model(settings: Settings) -> Model:
    """An untrained model of the method that the settings belong to.

    Its parameters are drawn from torch's global generator.
    """
    model = MODELS[settings.method](settings)
    model.backdrop = build_backdrop(settings)
    return model
