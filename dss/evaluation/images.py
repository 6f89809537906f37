"""How alike pictures are.

Metrics are taken from 8-bit images, as they are written, so that the files reproduce the numbers.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from dss.rendering.buffers import Buffers

SSIM_WINDOW = 11  # pixels per side of the larger window of the two kinds; images need as many


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images of one shape; inf where they agree."""
    error = np.square(first.astype(np.float64) - second).mean()
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim_gray(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two (h, w, 3) uint8 images, as in the paper.

    Of gray images, with scikit-image's 7x7 window (docs/method.md, section 9).
    """
    gray = (np.asarray(Image.fromarray(image).convert("L")) for image in (first, second))
    return float(structural_similarity(*gray))


def ssim_rgb(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two (h, w, 3) uint8 images, as is usual for photos.

    Per channel, with the Gaussian window of Wang et al. 2004.
    """
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(first, second, channel_axis=2, **window))


def compare_images(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """The paper's SSIM, and PSNR, of two pictures of normals."""
    return {"ssim": ssim_gray(first, second), "psnr": psnr(first, second)}


def compare_buffers(ours: Buffers, truth: Buffers) -> dict[str, float]:
    """How alike two renderings by one camera are, from the unrounded values.

    mask_iou: intersection over union of the pixels hit
    normal_error_deg: mean angle between the normals of the pixels that both hit
    depth_error: mean difference of their distances from the camera, normalised units
    The last two are NaN where there are no such pixels.
    """
    both, either = ours.hit & truth.hit, ours.hit | truth.hit
    if not both.any():
        row = {"normal_error_deg": math.nan, "depth_error": math.nan}
        return {"mask_iou": 0.0 if either.any() else 1.0, **row}
    chord = np.linalg.norm(ours.normal[both] - truth.normal[both], axis=1)
    return {
        "mask_iou": float(both.sum() / either.sum()),
        "normal_error_deg": float(np.degrees(2 * np.arcsin((chord / 2).clip(0, 1))).mean()),
        "depth_error": float(np.abs(ours.t[both] - truth.t[both]).mean()),
    }


def load_lpips() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """LPIPS (AlexNet) of two (h, w, 3) uint8 images.

    None unless torchmetrics and the network's weights are on this machine.
    """
    if not list(Path(torch.hub.get_dir(), "checkpoints").glob("alexnet-*.pth")):
        return None
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()
    except ImportError:
        return None

    @torch.no_grad()
    def lpips(first: np.ndarray, second: np.ndarray) -> float:
        shares = (torch.from_numpy(image / np.float32(255)) for image in (first, second))
        return network(*(share.permute(2, 0, 1)[None] for share in shares)).item()

    return lpips
