"""Methods are found by their files, each with settings of its own."""

import sys
import types

import pytest

from dss.fields import METHODS, Field
from dss.plugins import discover
from dss.reconstruction.models import MODELS
from dss.reconstruction.samplers import SAMPLERS

MODULE = """
from typing import Literal

from dss.config import Settings
from plugins_under_test import Base


class OneSettings(Settings):
    method: Literal["one"] = "one"


class One(Base):
    Settings = OneSettings


class Variant(One):
    \"\"\"It has no settings of its own, and so is no method.\"\"\"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the class Base and, in a module, a method that is derived from it."""
    package = types.ModuleType("plugins_under_test")
    package.__path__ = [str(tmp_path)]
    package.Base = type("Base", (), {})
    (tmp_path / "one.py").write_text(MODULE)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    yield package
    sys.modules.pop(f"{package.__name__}.one", None)


def test_every_module_is_imported_and_its_methods_are_found(package):
    found = discover(package, package.Base)
    assert list(found) == ["one"] and found["one"].__name__ == "One"
    assert found["one"].Settings().method == "one"


def test_a_module_that_fails_is_not_passed_over(package, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        discover(package, package.Base)


def test_what_ships_is_found():
    fields = {"deepsdf", "dual_shell", "key_spheres", "neural_implicit", "nglod"}
    assert fields <= METHODS.keys()
    assert {"neus", "volsdf", "unisurf"} <= MODELS.keys()
    assert {"uniform", "shell", "occupancy", "sphere_cloud"} <= SAMPLERS.keys()
    for found in (METHODS, MODELS, SAMPLERS):
        for name, kind in found.items():
            assert kind.Settings().method == name


def test_geometry_keys_name_tensors_of_the_state_dict():
    """So that a field file rebuilds its field without the mesh."""
    for kind in METHODS.values():
        assert issubclass(kind, Field) and isinstance(kind.geometry_keys, tuple)
