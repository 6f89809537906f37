"""What one camera sees of a field: the rays' hits as arrays over the picture."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dss.fields.base import Field
from dss.rendering.cameras import Camera
from dss.rendering.tracing import Hits, trace


@dataclass(frozen=True)
class Frame:
    """Arrays over a camera's (height, width) pixels."""

    camera: Camera
    hit: np.ndarray  # bool
    t: np.ndarray  # float32 distance from the camera, inf on a miss
    normal: np.ndarray  # (height, width, 3) float32 in the normalised frame, 0 on a miss
    view: np.ndarray  # (height, width, 3) float32 unit directions towards the camera
    steps: np.ndarray  # int64 queries of the field

    @staticmethod
    def of(camera: Camera, directions: Tensor, hits: Hits) -> "Frame":
        """From the directions (n, 3) of the camera's rays and what they hit."""
        values = (hits.hit, hits.t, hits.normal, -directions, hits.steps)
        return Frame(camera, *(value.cpu().numpy().reshape(camera.height, camera.width, *value.shape[1:]) for value in values))

    def points(self) -> np.ndarray:
        """(hits, 3) float32, row by row, where `hit`."""
        return self.camera.pose[:, 3].float().numpy() - self.t[self.hit][:, None] * self.view[self.hit]

    def in_camera(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (height, width, 3) in the camera's axes."""
        return vectors @ self.camera.pose[:, :3].float().numpy()


def render(field: Field, camera: Camera) -> Frame:
    """Trace the camera's rays into the field, on its device."""
    origins, directions = camera.rays(field.device)
    return Frame.of(camera, directions, trace(field, origins, directions))
