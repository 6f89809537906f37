import numpy as np
import pytest
import torch

from dss.errors import InputError
from dss.rendering.images import INK
from dss.rendering.slices import INNER, INTERLAYER, REACH, Plane, draw_shell, draw_slice, planes
from tests.helpers import Analytic, box, shell_of, sphere


def dark(image):
    """Where the bold line of the surface is drawn."""
    return np.abs(image.astype(int) - INK).sum(-1) < 30


def radius_of(mask):
    y, x = (np.argwhere(mask) + 0.5).T * 2 * REACH / len(mask) - REACH
    return np.hypot(x, y)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_lie_in_the_plane(axis):
    points = Plane(axis, 0.25).points(4).view(4, 4, 3)
    assert (points[..., axis] == 0.25).all()
    right, up = (other for other in range(3) if other != axis)
    assert points[0, 3, right] > points[0, 0, right] and points[0, 0, up] > points[3, 0, up]
    torch.testing.assert_close(points[0, 3, right], torch.tensor(REACH * 0.75))


@pytest.mark.parametrize("count", [1, 2, 7, 9])
def test_planes(count):
    cuts = planes(count)
    assert len(cuts) == count == len(set(map(str, cuts))) and all(
        abs(cut.offset) < 0.4 for cut in cuts
    )
    assert planes(1) == [Plane(0, 0.0)] and str(planes(1)[0]) == "x = +0.00"


@pytest.mark.parametrize("shell", [False, True])
def test_slice_draws_the_zero_set(shell):
    field = Analytic(sphere(), shell_of(sphere()) if shell else None)
    image = draw_slice(field, Plane(2, 0.3), 200)
    circle = radius_of(dark(image))
    assert abs(circle - np.sqrt(0.6**2 - 0.3**2)).max() < 0.03 and len(circle) > 200
    assert image[100, 100, 2] > image[100, 100, 0]  # blue inside
    assert image[3, 3, 0] > image[3, 3, 2]


def test_shell_shows_inner_spheres_interlayer_and_surface():
    field = Analytic(box(), shell_of(box()))
    image = draw_shell(field, Plane(2, 0.0), 200)
    for index in range(0, 200 * 200, 97):
        point = Plane(2, 0.0).points(200)[index : index + 1]
        colour = tuple(image.reshape(-1, 3)[index])
        inner, outer = field.shell.inner_gap(point).item(), field.shell.outer_gap(point)[0].item()
        if colour == INNER:
            assert inner < 0.01
        elif colour == INTERLAYER:
            assert outer < 0.01 and inner > -0.01
        elif colour == (255, 255, 255):
            assert outer > -0.01
    assert {INNER, INTERLAYER} <= {tuple(pixel) for pixel in image.reshape(-1, 3)}


def test_shell_needs_one():
    with pytest.raises(InputError, match="no shell"):
        draw_shell(Analytic(sphere()), Plane(0, 0.0), 8)
