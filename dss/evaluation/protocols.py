"""How pictures of normals are compared: the paper's protocol, and one that looks at the true surface."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dss.evaluation.images import compare_frames, compare_images
from dss.fields.base import Field
from dss.geometry.distance import MeshDistance
from dss.rendering.buffers import Frame, render
from dss.rendering.cameras import Camera, paper_cameras
from dss.rendering.images import normal_map, save_png
from dss.rendering.mesh_buffers import Method, cached, see
from dss.rendering.tracing_paper import trace_exact, trace_paper

BACKGROUNDS = {"white": 1.0, "black": -1.0}  # the normal that fills the pixels of a miss; which one the paper used is unclear


@dataclass(frozen=True)
class Protocol:
    """Cameras, and the two renderers whose pictures are compared."""

    name: str
    cameras: Callable[[int, int], list[Camera]]  # of size and count
    truth: Method
    render: Callable[[Field, Camera], Frame]


def render_paper(field: Field, camera: Camera) -> Frame:
    """As the paper draws: its tracer through the shell, or plain sphere tracing without one; normals by differences."""
    origins, directions = camera.rays(field.device)
    if field.shell is None:
        return Frame.of(camera, directions, trace_exact(field.sdf, field.sdf, origins, directions))
    return Frame.of(camera, directions, trace_paper(field, origins, directions))


def centred_cameras(size: int, count: int) -> list[Camera]:
    """The paper's cameras, with the pixels sampled at their centres."""
    return [replace(camera, inclusive=False) for camera in paper_cameras(size, count)]


PROTOCOLS = (
    Protocol("paper", paper_cameras, "paper", render_paper),
    Protocol("surface", centred_cameras, "faces", render),
)


def compare(
    protocol: Protocol, ours: Field | MeshDistance, truth: MeshDistance, size: int, count: int, folder: Path
) -> Iterator[dict[str, float]]:
    """Metrics of each view, of a field or of a mesh given by its distance, and the pictures that they were taken from.

    The pictures, normals in the normalised frame, go to folder/PROTOCOL_BACKGROUND/NNN.png and NNN_truth.png.
    Keys: ssim_* and psnr_* for each background, those of `compare_frames`, and `seconds` for our frame.
    """
    for index, camera in enumerate(protocol.cameras(size, count)):
        start = time.perf_counter()
        frame = see(ours, camera, protocol.truth) if isinstance(ours, MeshDistance) else protocol.render(ours, camera)
        row = {"seconds": time.perf_counter() - start}
        target = cached(truth, camera, protocol.truth)
        row |= compare_frames(frame, target)
        for name, background in BACKGROUNDS.items():
            images = [normal_map(each.normal, each.hit, background) for each in (frame, target)]
            row |= {f"{key}_{name}": value for key, value in compare_images(*images).items()}
            for suffix, image in zip(("", "_truth"), images, strict=True):
                save_png(folder / f"{protocol.name}_{name}" / f"{index:03d}{suffix}.png", image)
        yield row
