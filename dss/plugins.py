"""How fields, models and samplers are found: one file each, with a class that has its own
`Settings`."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

Base = TypeVar("Base")


def discover(package: ModuleType, base: type[Base]) -> dict[str, type[Base]]:
    """Import every module of `package`; the subclasses of `base` that have `Settings` of their own,
    by method.

    The method is the default of `Settings.method`.
    """
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found = sorted(_subclasses(base), key=lambda kind: (kind.__module__, kind.__qualname__))
    return {
        kind.Settings.model_fields["method"].default: kind
        for kind in found
        if "Settings" in vars(kind)
    }


def _subclasses(base: type[Base]) -> set[type[Base]]:
    return {kind for direct in base.__subclasses__() for kind in {direct, *_subclasses(direct)}}
