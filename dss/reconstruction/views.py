"""The photos of a training as tensors: rays through their pixels, and places in them."""

from typing import NamedTuple

import torch
from torch import Tensor

from dss.rendering.cameras import Camera, Cameras


class Views(NamedTuple):
    """k photos of one size, with their cameras in unit coordinates."""

    cameras: Cameras
    projections: Tensor  # (k, 3, 4) float32: points to homogeneous pixel coordinates
    images: Tensor  # (k, height, width, 4) float32: colours times mask, and mask

    @staticmethod
    def of(cameras: list[Camera], images: Tensor) -> "Views":
        """Of one or more photos."""
        rows = []
        for camera in cameras:
            turned = camera.intrinsics @ camera.pose[:, :3].T
            rows.append(torch.cat([turned, -turned @ camera.pose[:, 3:]], 1))
        projections = torch.stack(rows).float().to(images.device)
        return Views(Cameras.of(cameras, images.device), projections, images)

    @property
    def size(self) -> Tensor:
        """(2,) float32: width and height in pixels."""
        height, width = self.images.shape[1:3]
        return torch.tensor([width, height], dtype=torch.float32, device=self.images.device)


def bilinear(images: Tensor, index: Tensor, places: Tensor) -> Tensor:
    """Values (n, c) of the images (k, h, w, c) that `index` (n,) names, at continuous pixel
    coordinates (n, 2), x before y; exact at pixel centres, constant beyond the outermost ones."""
    size = torch.tensor([images.shape[2], images.shape[1]], device=images.device)
    place = (places - 0.5).clamp(min=0).minimum((size - 1).to(places))
    low = place.floor().long()
    high = (low + 1).minimum(size - 1)
    x, y = (place - low).to(images).split(1, dim=1)
    top, bottom = (
        images[index, row, low[:, 0]] * (1 - x) + images[index, row, high[:, 0]] * x
        for row in (low[:, 1], high[:, 1])
    )
    return top * (1 - y) + bottom * y
