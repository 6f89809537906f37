"""A folder of images, by whatever renderer, against the photos of a NeRF-synthetic scene."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dss.errors import InputError, listed
from dss.evaluation.images import SSIM_WINDOW, load_lpips, psnr, ssim_rgb
from dss.files import is_folder
from dss.progress import Progress, silent, tracked
from dss.reconstruction.nerf_synthetic import posed_images
from dss.rendering.images import read_image
from dss.tables import Column, mean_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
COLUMNS = (
    Column("psnr", "psnr", ".2f"),
    Column("ssim", "ssim", ".4f"),
    Column("lpips", "lpips", ".4f"),
)


def compare_renders(
    renders: Path, scene: Path, split: str, progress: Progress = silent
) -> dict[str, Any]:
    """PSNR, SSIM and, where its network is on this machine, LPIPS of the images in a folder,
    matched by name.

    Returns the `mean` and the rows of all `images`. Raises InputError where images are missing,
    left over or of another size than the scene's.
    """
    truth = {image.name: image for image in posed_images(scene, split)}
    if not is_folder(renders):
        raise InputError(
            f"{renders}: no such folder; it holds the images to compare, named as in the scene"
        )
    ours = {
        path.stem: path for path in sorted(renders.iterdir()) if path.suffix.lower() in SUFFIXES
    }
    missing, extra = sorted(truth.keys() - ours.keys()), sorted(ours.keys() - truth.keys())
    if missing or extra:
        kinds = ("missing", missing), ("not in the scene", extra)
        found = "; ".join(f"{kind} {listed(names)}" for kind, names in kinds if names)
        raise InputError(f"{renders}: {found}; name the images as in {scene / split}")
    camera = next(iter(truth.values())).camera
    size = f"{camera.width}x{camera.height}"
    if min(camera.width, camera.height) < SSIM_WINDOW:
        raise InputError(
            f"{scene}: images of {size} are too small; SSIM compares windows of {SSIM_WINDOW} "
            "pixels"
        )
    lpips = load_lpips()

    def measure(name: str) -> dict[str, Any]:
        images = read_image(ours[name]), read_image(truth[name].path)
        if images[0].shape != images[1].shape:
            return {"name": name, "shape": images[0].shape}
        row = {"name": name, "psnr": psnr(*images), "ssim": ssim_rgb(*images)}
        return row | {"lpips": lpips(*images)} if lpips else row

    with ThreadPoolExecutor(2) as pool:
        rows = list(tracked(pool.map(measure, truth), "compare", len(truth), progress))
    odd = [f"{row['name']} ({row['shape'][1]}x{row['shape'][0]})" for row in rows if "shape" in row]
    if odd:
        raise InputError(
            f"{renders}: the scene is {size}, but {listed(odd)} differ; render at that size"
        )
    return {"scene": str(scene), "split": split, "mean": mean_of(rows), "images": rows}
