"""Fields: one file per method, found by itself."""

import sys

from dss.config import Settings
from dss.fields.base import Field, Geometry
from dss.plugins import discover

METHODS = discover(sys.modules[__name__], Field)


def build(settings: Settings, geometry: Geometry) -> Field:
    """An untrained field of the method that the settings belong to, its parameters drawn from
    torch's global generator.

    `geometry` is what the method's `build_geometry` returned.
    """
    return METHODS[settings.method](settings, geometry)
