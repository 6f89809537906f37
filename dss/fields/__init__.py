"""Fields: one file per method, found by itself. `build` makes an untrained one from its settings."""

import importlib
import pkgutil

from dss.fields.base import Field, Geometry, Settings

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
METHODS: dict[str, type[Field]] = {kind.Settings().method: kind for kind in Field.__subclasses__() if kind.Settings is not Settings}


def build(settings: Settings, geometry: Geometry) -> Field:
    """An untrained field of the method that the settings belong to, its parameters drawn from torch's global generator.

    `geometry` is what the method's `geometry` returned.
    """
    return METHODS[settings.method](settings, geometry)
