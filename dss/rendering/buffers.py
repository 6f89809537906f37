"""What one camera sees of a field: the rays' hits as arrays over the picture."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dss.fields.base import Field
from dss.rendering.cameras import Camera
from dss.rendering.tracing import Hits, trace


@dataclass(frozen=True)
class Buffers:
    """Arrays over a camera's (height, width) pixels."""

    camera: Camera
    hit: np.ndarray  # bool
    t: np.ndarray  # float32 distance from the camera, inf on a miss
    normal: np.ndarray  # (height, width, 3) float32 in the normalised frame, 0 on a miss
    view: np.ndarray  # (height, width, 3) float32 unit directions towards the camera
    steps: np.ndarray  # int64 queries of the field

    @staticmethod
    def of(camera: Camera, directions: Tensor, hits: Hits) -> "Buffers":
        """From the directions (height * width, 3) of the camera's rays and what they hit."""
        shape = camera.height, camera.width
        values = (hits.hit, hits.t, hits.normal, -directions, hits.steps)
        return Buffers(
            camera, *(value.cpu().numpy().reshape(*shape, *value.shape[1:]) for value in values)
        )

    def points(self) -> np.ndarray:
        """(hits, 3) float32, row by row, where `hit`."""
        return (
            self.camera.pose[:, 3].float().numpy() - self.t[self.hit][:, None] * self.view[self.hit]
        )

    def in_camera(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (height, width, 3) in the viewer's axes: x right, y up, z towards the viewer."""
        to_viewer = self.camera.pose[:, :3] * torch.tensor([1, -1, -1])
        return vectors @ to_viewer.float().numpy()


def render(field: Field, camera: Camera) -> Buffers:
    """Trace the camera's rays into the field, on its device."""
    origins, directions = camera.rays(device=field.device)
    return Buffers.of(camera, directions, trace(field, origins, directions))
