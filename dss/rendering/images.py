"""Pictures: arrays (h, w, 3) uint8, made from what rays met, read and written.

The same picture is written as the same file. Colours are sRGB. Light is computed linearly, in the
viewer's axes: x right, y up, z towards the viewer.
"""

import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from dss.errors import InputError
from dss.files import is_file, replacing

FORMATS = ("PNG", "JPEG", "WEBP")  # of images that are read
MAX_PIXELS = 64_000_000  # of an image that is read: its copy as floats takes 1 GiB
INK, PALE, PAPER, ALARM = (32, 36, 42), (104, 112, 122), (255, 255, 255), (224, 30, 55)
RISING = np.array(  # colours of a scale, from low to high: viridis, ten stops
    [
        *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
        *((31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37)),
    ]
)
SIGNED = np.array(  # from blue, below 0, to brown
    [
        *((24, 84, 122), (90, 150, 183), (178, 210, 226), (253, 250, 244)),
        *((250, 211, 165), (232, 150, 84), (178, 88, 28)),
    ]
)


@dataclass(frozen=True)
class Scale:
    """What the colours of a picture of numbers mean."""

    low: float
    high: float
    label: str  # quantity and unit
    # (k, 3) sRGB, evenly spaced from low to high
    colours: np.ndarray = field(default_factory=lambda: RISING, repr=False)


def normal_map(normal: np.ndarray, hit: np.ndarray, background: float = 1.0) -> np.ndarray:
    """Unit normals (h, w, 3) as (n + 1) / 2 * 255 truncated, the paper's convention.

    `background` is the n of the pixels that are not `hit` (h, w).
    """
    return ((np.where(hit[..., None], normal, background) + 1) * (255 / 2)).astype(np.uint8)


def headlight(normal: np.ndarray, view: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Grey clay lit from the camera; normals and unit directions towards the camera (h, w, 3)."""
    light = 0.04 + 0.86 * (normal * view).sum(-1).clip(0)
    return _developed(np.repeat(light[..., None], 3, -1), hit)


def studio(normal: np.ndarray, view: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Clay under a warm key light, a cool fill, a sky and a rim.

    What a matcap would show, by a formula. Normals and unit directions towards the camera (h, w, 3)
    in the viewer's axes.
    """
    key, fill = _unit(-0.45, 0.75, 0.55), _unit(0.85, 0.05, 0.45)
    facing = (normal * view).sum(-1, keepdims=True).clip(0, 1)
    sky = 0.5 + 0.5 * normal[..., 1:2]
    light = (1 - sky) * np.array([0.05, 0.045, 0.045]) + sky * np.array([0.13, 0.15, 0.18])
    light += np.array([1.0, 0.93, 0.82]) * ((normal @ key)[..., None] * 0.92 + 0.08).clip(0) ** 1.2
    light += np.array([0.10, 0.16, 0.26]) * (normal @ fill)[..., None].clip(0)
    gloss = (normal * _normalised(view + key)).sum(-1, keepdims=True).clip(0) ** 60
    rim = (1 - facing) ** 4 * sky
    return _developed(np.array([0.64, 0.57, 0.49]) * light + 0.14 * gloss + 0.16 * rim, hit)


def colorized(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Numbers (h, w) in the colours of the scale; those beyond its ends take the end's colour.

    NaN, where there is nothing, is white; infinity, where something is wrong, is red.
    """
    finite = np.nan_to_num(values, posinf=0)
    share = ((finite - scale.low) / max(scale.high - scale.low, 1e-12)).clip(0, 1)
    stops = np.linspace(0, 1, len(scale.colours))
    image = np.stack([np.interp(share, stops, channel) for channel in scale.colours.T], -1)
    image = np.where(np.isposinf(values)[..., None], ALARM, image.round())
    return np.where(np.isnan(values)[..., None], PAPER, image).astype(np.uint8)


def contact_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    title: str,
    subtitle: str = "",
    scale: Scale | None = None,
    tile: int = 320,
) -> np.ndarray:
    """Images of one shape in a grid, each above its label, under a title.

    Below them is the bar that explains the colours of a `scale`. `tile` is the width of an image in
    pixels.
    """
    columns = len(images)
    if columns > 3:  # as few gaps in the last row as possible
        columns = min(range(3, 7), key=lambda c: (-len(images) % c, abs(c - 4)))
    rows = -(-len(images) // columns)
    height = round(tile * images[0].shape[0] / images[0].shape[1])
    margin, gap, head, foot = 28, 14, 84 if subtitle else 60, 74 if scale else 12
    width = max(2 * margin + columns * (tile + gap) - gap, 720)
    left = (width - columns * (tile + gap) + gap) // 2
    sheet = Image.new("RGB", (width, head + rows * (height + 34) + foot), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, 20), title, INK, ImageFont.load_default(26))
    draw.text((margin, 54), subtitle, PALE, ImageFont.load_default(16))
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = left + index % columns * (tile + gap), head + index // columns * (height + 34)
        sheet.paste(Image.fromarray(image).resize((tile, height), Image.Resampling.LANCZOS), (x, y))
        draw.rectangle((x, y, x + tile - 1, y + height - 1), outline=(226, 229, 233))
        place = x + tile / 2, y + height + 6
        draw.text(place, label, PALE, ImageFont.load_default(14), anchor="ma")
    if scale:
        draw_bar(sheet, scale, (margin, sheet.height - foot + 8, width - margin))
    return np.asarray(sheet)


@contextmanager
def open_image(path: Path | str) -> Iterator[Image.Image]:
    """An image file, closed afterwards.

    Raises InputError where it is no regular file, of a format other than FORMATS or of more than
    MAX_PIXELS, and where it cannot be read in the block. The format is that of the contents, so a
    file that only other programs can read, such as PostScript named .png, never reaches them.
    """
    if not is_file(path):
        raise InputError(f"{path}: no such file; name an image that is there")
    try:
        with warnings.catch_warnings():
            # Pillow's limit is higher than ours
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        limit = f"more than {MAX_PIXELS:,} pixels"
        raise InputError(f"{path}: has {limit}; give a smaller image") from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
        if isinstance(error, UnidentifiedImageError):
            reason = f"not an image of the formats {', '.join(FORMATS)}"
        reason = reason or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); replace the file") from error


def read_image(path: Path | str) -> np.ndarray:
    """An image file as (h, w, 3) uint8, its transparency composited on white.

    Raises InputError as `open_image`.
    """
    with open_image(path) as image:
        values = np.asarray(image.convert("RGBA"), np.float64)
    alpha = values[..., 3:] / 255
    return (values[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of an image file. Raises InputError as `open_image`."""
    with open_image(path) as image:
        return image.size


def save_png(path: Path | str, image: np.ndarray) -> None:
    """Write (h, w, 3) or (h, w) uint8; the bytes depend on the picture alone."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, compress_level=6)


def save_animation(path: Path | str, images: Sequence[np.ndarray], seconds: float) -> None:
    """Write pictures of one shape as an endless loop of so many seconds.

    The suffix chooses WebP, GIF or MP4. Raises InputError where MP4 is asked for and ffmpeg is not
    installed.
    """
    with replacing(path) as temporary:
        if temporary.suffix == ".mp4":
            _encode_mp4(temporary, images, len(images) / seconds)
            return
        first, *rest = (Image.fromarray(image) for image in images)
        options = {"quality": 85, "method": 4} if temporary.suffix == ".webp" else {"disposal": 1}
        options |= {"duration": round(1000 * seconds / len(images)), "loop": 0}
        first.save(temporary, save_all=True, append_images=rest, **options)


def _encode_mp4(path: Path, images: Sequence[np.ndarray], frames_per_second: float) -> None:
    encoder = shutil.which("ffmpeg")
    if not encoder:
        raise InputError(f"{path.suffix}: ffmpeg is not installed; install it, or choose webp")
    height, width = (side // 2 * 2 for side in images[0].shape[:2])  # MP4 takes even sides only
    size, rate = f"{width}x{height}", f"{frames_per_second:.3f}"
    read = f"-y -loglevel error -f rawvideo -pix_fmt rgb24 -s {size} -r {rate} -i -"
    write = "-pix_fmt yuv420p -crf 18 -bitexact"
    command = [encoder, *read.split(), *write.split(), str(path)]
    frames = b"".join(image[:height, :width].tobytes() for image in images)
    done = subprocess.run(command, input=frames, capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[:200]
        raise InputError(f"{path.suffix}: ffmpeg failed ({reason}); choose webp")


def draw_bar(sheet: Image.Image, scale: Scale, place: tuple[int, int, int]) -> None:
    """Draw the label, the colours from low to high and round numbers, at (left, top, right)."""
    left, top, right = place
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((left, top), scale.label, INK, font)
    start = left + (round(draw.textlength(scale.label, font)) + 24 if scale.label else 0)
    values = np.linspace(scale.low, scale.high, right - start)[None].repeat(16, 0)
    sheet.paste(Image.fromarray(colorized(values, scale)), (start, top + 1))
    for value in ticks(scale.low, scale.high):
        share = (value - scale.low) / max(scale.high - scale.low, 1e-12)
        x = start + share * (right - start - 1)
        draw.line((x, top + 17, x, top + 22), PALE)
        anchor = "la" if share < 0.02 else "ra" if share > 0.98 else "ma"
        draw.text((x, top + 25), f"{value:.4g}", PALE, font, anchor=anchor)


def ticks(low: float, high: float) -> np.ndarray:
    """Three to seven multiples of 1, 2 or 5 times a power of ten in [low, high].

    `low` alone where the two are equal.
    """
    if high <= low:
        return np.array([low])
    rough = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return np.arange(first, last + 1) * step + 0.0  # + 0.0: no negative zero


def _developed(light: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Linear light (h, w, 3) to 8-bit sRGB; white where nothing was hit."""
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.where(hit[..., None], encoded * 255, PAPER).round().astype(np.uint8)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12)


def _unit(*vector: float) -> np.ndarray:
    return _normalised(np.array(vector))
