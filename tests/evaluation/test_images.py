import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import metrics

from dss.evaluation.images import (
    compare_buffers,
    compare_images,
    load_lpips,
    psnr,
    ssim_gray,
    ssim_rgb,
)
from dss.rendering.buffers import render
from dss.rendering.cameras import turntable
from dss.rendering.images import save_png
from tests.helpers import Analytic, sphere


@pytest.fixture
def pair():
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (40, 50, 3), np.uint8)
    return first, (first + generator.normal(0, 20, first.shape)).clip(0, 255).astype(np.uint8)


def test_an_image_against_itself(pair):
    assert (
        compare_images(pair[0], pair[0]) == {"ssim": 1.0, "psnr": math.inf}
        and ssim_rgb(pair[0], pair[0]) == 1
    )


def test_equals_scikit_image_on_the_same_files(pair, tmp_path):
    for name, image in zip("ab", pair, strict=True):
        save_png(tmp_path / f"{name}.png", image)
    read = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab"]
    gray = [np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in "ab"]
    assert psnr(*pair) == pytest.approx(metrics.peak_signal_noise_ratio(*read), abs=1e-9)
    assert ssim_gray(*pair) == pytest.approx(metrics.structural_similarity(*gray), abs=1e-9)


def test_gray_ssim_is_the_textbook_formula():
    """One 7x7 window: means, sample variances and covariance, constants (0.01 * 255)^2 and (0.03 *
    255)^2."""
    x, y = np.random.default_rng(1).integers(0, 256, (2, 7, 7)).astype(np.uint8)
    images = [np.repeat(gray[..., None], 3, 2) for gray in (x, y)]
    (a, c), (_, b) = np.cov(x.ravel(), y.ravel())
    one, two = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    m, n = x.mean(), y.mean()
    assert ssim_gray(*images) == pytest.approx(
        (2 * m * n + one) * (2 * c + two) / ((m**2 + n**2 + one) * (a + b + two))
    )


def test_psnr_of_a_known_error():
    first = np.zeros((4, 4, 3), np.uint8)
    assert psnr(first, first + 51) == pytest.approx(20 * math.log10(5))


def test_degradations_are_ordered(pair):
    noise = np.random.default_rng(2).normal(0, 1, pair[0].shape)
    worse = [(pair[0] + noise * sigma).clip(0, 255).astype(np.uint8) for sigma in (5, 20, 60)]
    for metric in (psnr, ssim_gray, ssim_rgb):
        values = [metric(pair[0], image) for image in worse]
        assert values == sorted(values, reverse=True)


def test_buffers():
    seen = render(Analytic(sphere()), turntable(1, 48)[0])
    assert compare_buffers(seen, seen) == {"mask_iou": 1, "normal_error_deg": 0, "depth_error": 0}
    angle = 0.1
    turn = np.array(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    hit = seen.hit.copy()
    hit[:24] = False
    moved = replace(seen, hit=hit, t=seen.t + 0.25, normal=seen.normal @ turn.T)
    both = seen.hit & hit
    row = compare_buffers(moved, seen)
    assert row["mask_iou"] == both.sum() / seen.hit.sum() and row["depth_error"] == pytest.approx(
        0.25, abs=1e-6
    )
    cosine = (seen.normal * moved.normal).sum(-1)[both]
    assert row["normal_error_deg"] == pytest.approx(np.degrees(np.arccos(cosine)).mean(), rel=1e-3)


def test_buffers_that_hit_nothing():
    seen = render(Analytic(lambda points: 1 + 0 * points.sum(1)), turntable(1, 4)[0])
    row = compare_buffers(seen, seen)
    assert (
        row["mask_iou"] == 1
        and math.isnan(row["normal_error_deg"])
        and math.isnan(row["depth_error"])
    )


def test_lpips_needs_its_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert load_lpips() is None
