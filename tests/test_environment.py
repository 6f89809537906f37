"""conda users get what `make install` gives."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_conda_installs_what_make_does_and_a_compiler():
    text = (ROOT / "environment.yml").read_text()
    *packages, pip = yaml.safe_load(text)["dependencies"]
    assert {"pip", "cxx-compiler"} <= set(packages)  # torch's extensions need the latter
    assert pip["pip"] == ["--constraint constraints.txt", "--editable .[test]"]
    debian = re.search(r"^GL = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for name in debian:  # libgl1 is libgl; what conda-forge lacks is named for the reader
        assert name.rstrip("0123456789") in packages or name in text, name
