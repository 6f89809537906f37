"""The pictures of the error of a surface from photos, of balls whose distances are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

from dss.errors import InputError
from dss.evaluation import photos
from dss.rendering.images import colorized
from tests.helpers import pinhole


def run_of(radius: float) -> SimpleNamespace:
    mesh = trimesh.creation.icosphere(5, radius)
    model = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(surface=lambda: mesh, model=model, folder="runs/ball")


def test_the_true_surface_is_coloured_by_its_distance(monkeypatch):
    """Balls of radius 0.5 and 0.52 are 0.02 apart, but for their facets."""
    truth = trimesh.creation.icosphere(5, 0.5)
    monkeypatch.setattr("dss.evaluation.photo_geometry.true_surface", lambda *_: truth)
    picture = photos._error_maps(run_of(0.52), None)(pinhole()).astype(int)
    expected = colorized(np.array([[0.02, np.nan]]), photos.ERROR).astype(int)[0]
    seen = np.abs(picture - expected[1]).max(-1) > 0
    assert 0.05 < seen.mean() < 0.95
    assert np.abs(picture[seen] - expected[0]).max() <= 3


def test_without_a_true_surface(monkeypatch):
    monkeypatch.setattr("dss.evaluation.photo_geometry.true_surface", lambda *_: None)
    with pytest.raises(InputError, match="--mode error: runs/ball: .*--mesh"):
        photos._error_maps(run_of(0.52), None)
