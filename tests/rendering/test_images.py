import numpy as np
import pytest
from PIL import Image

from dss.errors import InputError
from dss.rendering.images import (
    ALARM,
    RISING,
    Scale,
    colorized,
    contact_sheet,
    headlight,
    normal_map,
    read_image,
    save_png,
    studio,
    ticks,
)


def ball(size=32):
    """Normals of a ball that fills the picture, seen from straight ahead, and where it is."""
    y, x = 1 - (np.mgrid[:size, :size] + 0.5) * 2 / size
    hit = x**2 + y**2 < 1
    normal = np.stack([-x, y, np.sqrt((1 - x**2 - y**2).clip(0))], -1) * hit[..., None]
    return normal, np.broadcast_to([0.0, 0.0, 1.0], normal.shape), hit


def test_normal_map_is_the_papers():
    normal = np.array([[[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]])
    hit = np.array([[True, False]])
    assert normal_map(normal, hit).tolist() == [[[255, 127, 0], [255, 255, 255]]]
    assert normal_map(normal, hit, background=-1).tolist() == [[[255, 127, 0], [0, 0, 0]]]


@pytest.mark.parametrize("light", [studio, headlight])
def test_light(light):
    normal, view, hit = ball()
    image = light(normal, view, hit)
    assert (
        image.dtype == np.uint8 and (image[~hit] == 255).all() and len(np.unique(image[hit])) > 50
    )
    middle, side = image[16, 16].astype(int), image[16, 30].astype(int)
    assert (middle > side).all()


def test_studio_light_comes_from_above_left():
    normal, view, hit = ball()
    image = studio(normal, view, hit).astype(int).sum(-1)
    assert image[8, 8] > image[24, 24] + 100 and image[8, 8] > image[8, 24]


def test_headlight_grey_is_srgb_of_the_cosine():
    normal = np.array([[[0.0, 0.6, 0.8]]])
    light = 0.04 + 0.86 * 0.8
    expected = round(255 * (1.055 * light ** (1 / 2.4) - 0.055))
    assert headlight(normal, np.array([[[0.0, 0, 1]]]), np.array([[True]])).tolist() == [
        [[expected] * 3]
    ]


def test_colorized():
    image = colorized(np.array([[0.0, 2.0, 5.0, -1.0, np.nan, 1.0, np.inf]]), Scale(0, 2, ""))
    assert (image[0, [0, 3]] == RISING[0]).all() and (image[0, [1, 2]] == RISING[-1]).all()
    assert (
        (image[0, 4] == 255).all()
        and tuple(image[0, 6]) == ALARM
        and (np.abs(image[0, 5] - (RISING[4] + RISING[5]) / 2) <= 0.5).all()
    )
    assert colorized(np.ones((2, 2)), Scale(1, 1, "")).shape == (2, 2, 3)


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_contact_sheet_holds_every_picture(count):
    images = [np.full((8, 12, 3), (index * 8, 0, 255), np.uint8) for index in range(count)]
    sheet = contact_sheet(
        images,
        [str(index) for index in range(count)],
        "title",
        "subtitle",
        Scale(0, 1, "units"),
        tile=60,
    )
    colours = {tuple(pixel) for pixel in np.unique(sheet.reshape(-1, 3), axis=0)}
    assert (
        all((index * 8, 0, 255) in colours for index in range(count))
        and tuple(RISING[0]) in colours
    )


def test_png_is_deterministic_and_exact(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    for name in ("a.png", "b.png"):
        save_png(tmp_path / name, image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (np.asarray(Image.open(tmp_path / "a.png")) == image).all()


def test_png_into_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_png(tmp_path / "file" / "a.png", np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.00205), (2.95, 3.9), (-0.15, 0.15), (0, 43), (1e-9, 1e5)]
)
def test_ticks_are_round_and_few(low, high):
    values = ticks(low, high)
    assert 3 <= len(values) <= 7 and low - 1e-9 <= values[0] and values[-1] <= high * (1 + 1e-9)
    step = np.diff(values)[0]
    assert f"{step:.0e}"[0] in "125" and np.allclose(
        values / step, np.round(values / step), atol=1e-6
    )


def test_ticks_of_one_value():
    assert ticks(3, 3).tolist() == [3]


def test_transparency_is_composited_on_white(tmp_path):
    Image.fromarray(np.array([[[100, 0, 200, 51], [9, 9, 9, 0], [1, 2, 3, 255]]], np.uint8)).save(
        tmp_path / "a.png"
    )
    assert read_image(tmp_path / "a.png").tolist() == [
        [[224, 204, 244], [255, 255, 255], [1, 2, 3]]
    ]
    Image.fromarray(np.array([[7]], np.uint8)).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").tolist() == [[[7, 7, 7]]]


def test_truncated_image(tmp_path):
    path = tmp_path / "r_1.png"
    save_png(path, np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match="r_1.png: cannot be read"):
        read_image(path)
