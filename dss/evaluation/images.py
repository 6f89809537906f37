"""How alike pictures are: on 8-bit images, as they stand in their files, so that the files
reproduce the numbers."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from dss.rendering.buffers import Buffers

# Pixels per side, the larger of the windows of the two kinds of SSIM; images must have as many
SSIM_WINDOW = 11


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images of one shape; inf where they are
    equal."""
    error = np.square(first.astype(np.float64) - second).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim_gray(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two (h, w, 3) uint8 images as in the paper: gray, scikit-image's 7x7
    window (docs/method.md, section 9)."""
    return float(
        structural_similarity(
            *(np.asarray(Image.fromarray(image).convert("L")) for image in (first, second))
        )
    )


def ssim_rgb(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two (h, w, 3) uint8 images as usual for views: per channel, the
    Gaussian window of Wang et al. 2004."""
    return float(
        structural_similarity(
            first,
            second,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def compare_images(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """The paper's SSIM, and PSNR, of two pictures of normals."""
    return {"ssim": ssim_gray(first, second), "psnr": psnr(first, second)}


def compare_buffers(ours: Buffers, truth: Buffers) -> dict[str, float]:
    """How alike two renderings by one camera are, from the unrounded values.

    mask_iou: of the pixels hit normal_error_deg, depth_error (normalised units): means over the
    pixels that both hit, NaN where there are none
    """
    both, either = ours.hit & truth.hit, ours.hit | truth.hit
    chord = np.linalg.norm(ours.normal[both] - truth.normal[both], axis=1)
    return {
        "mask_iou": float(both.sum() / either.sum()) if either.any() else 1.0,
        "normal_error_deg": float(np.degrees(2 * np.arcsin((chord / 2).clip(0, 1))).mean())
        if both.any()
        else math.nan,
        "depth_error": float(np.abs(ours.t[both] - truth.t[both]).mean())
        if both.any()
        else math.nan,
    }


def load_lpips() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """LPIPS (AlexNet) of two (h, w, 3) uint8 images; None unless torchmetrics and the network's
    weights are on this machine."""
    if not list(Path(torch.hub.get_dir(), "checkpoints").glob("alexnet-*.pth")):
        return None
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()
    except ImportError:
        return None

    @torch.no_grad()
    def lpips(first: np.ndarray, second: np.ndarray) -> float:
        return network(
            *(
                torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]
                for image in (first, second)
            )
        ).item()

    return lpips
