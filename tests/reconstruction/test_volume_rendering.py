import numpy as np
import pytest
import torch

from dss.config import SceneSettings
from dss.reconstruction.volume_rendering import Picture, background_colour


def test_normal_map_fades_to_white():
    normal = np.array([[[0.0, 0, 1], [-1, 0, 0], [0, 0, 0]]], np.float32)
    opacity = np.array([[1.0, 0.5, 0.0]], np.float32)
    picture = Picture(np.zeros((1, 3, 3), np.uint8), normal, opacity, 0.0, 0.0, 0.0)
    expected = [[[128, 128, 255], [128, 191, 191], [255, 255, 255]]]
    assert picture.normal_map().dtype == np.uint8 and picture.normal_map().tolist() == expected


@pytest.mark.parametrize(("name", "value"), [("white", 1), ("black", 0), ("random", 1)])
def test_backgrounds_of_pictures(name, value):
    colour = background_colour(SceneSettings(background=name), torch.device("cpu"))
    assert colour.tolist() == [value] * 3
