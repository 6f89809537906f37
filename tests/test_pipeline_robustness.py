"""What is said of meshes that are hard to fit."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from dss.pipeline import fit_run
from dss.registry import load_config


class PreparedError(Exception):
    """Ends a run before its fit."""


def said(path: Path, *overrides: str) -> list[tuple[str, str]]:
    """The stages and texts of the events before the samples are drawn."""
    events = []

    def record(event):
        if event.stage == "samples":
            raise PreparedError
        events.append((event.stage, event.text))

    config = load_config("fast", ["spheres.count=16", *overrides], str(path))
    with pytest.raises(PreparedError):
        fit_run(config, path.with_suffix(".run"), progress=record)
    return events


def test_a_thin_plate_in_a_thick_shell(tmp_path):
    trimesh.creation.box((1, 1, 0.004)).export(tmp_path / "plate.ply")
    events = said(tmp_path / "plate.ply")
    (warning,) = (text for stage, text in events if stage == "warning")
    assert "the shell is over 5 times as thick as the solid on" in warning
    assert "choose a larger spheres.count" in warning


def test_overlapping_bodies_are_named_and_no_warning(tmp_path):
    boxes = trimesh.creation.box((6, 2, 2)), trimesh.creation.box((2, 6, 2.2))
    trimesh.util.concatenate(boxes).export(tmp_path / "cross.ply")
    events = said(tmp_path / "cross.ply")
    assert [stage for stage, _ in events] == ["mesh", "shell"]
    assert "2 bodies, watertight; 21% of the surface lies inside the solid" in events[0][1]


def test_a_turned_body_is_named_and_no_warning(tmp_path):
    boxes = trimesh.creation.box(), trimesh.creation.box().apply_translation([3, 0, 0])
    both = trimesh.util.concatenate(boxes)
    both.faces[:12] = both.faces[:12, ::-1]
    trimesh.Trimesh(np.asarray(both.vertices), both.faces).export(tmp_path / "two.ply")
    events = said(tmp_path / "two.ply")
    assert [stage for stage, _ in events] == ["mesh", "shell"]
    assert "bodies that were inside out turned: 1" in events[0][1]
