"""How pictures of normals are compared: by the paper's protocol, and with the true surface
(docs/method.md, section 9)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dss.evaluation.images import compare_buffers, compare_images
from dss.fields.base import Field
from dss.geometry.distance import MeshDistance
from dss.rendering.buffers import Buffers, render
from dss.rendering.cameras import Camera, centred_cameras, paper_cameras
from dss.rendering.hit_rules import BRACKETED, published_rule, trace_published
from dss.rendering.images import normal_map, save_png
from dss.rendering.mesh_buffers import Method, cached_render, render_mesh
from dss.tables import Column

# The normal that fills the pixels of a miss; it is unclear which one the paper used
BACKGROUNDS = {"white": 1.0, "black": -1.0}

COLUMNS = (
    Column("ssim_white", "SSIM white", ".4f"),
    Column("ssim_black", "SSIM black", ".4f"),
    Column("psnr_white", "PSNR white", ".2f"),
    Column("mask_iou", "mask IoU", ".5f"),
    Column("normal_error_deg", "normals (deg)", ".2f"),
    Column("depth_error", "depth", ".2e"),
    Column("seconds", "s / frame", ".2f"),
    Column("queries", "queries / ray", ".2f"),
)


@dataclass(frozen=True)
class Protocol:
    """Cameras, the two renderers whose pictures are compared, and the name of the rule by which the
    rays hit a field."""

    name: str
    cameras: Callable[[int, int], list[Camera]]  # of size and count
    truth: Method
    render: Callable[[Field, Camera], Buffers]
    rule: Callable[[Field], str]


def render_published(field: Field, camera: Camera) -> Buffers:
    """What a method's authors draw of its field, each by their own hit rule."""
    origins, directions = camera.rays(device=field.device)
    return Buffers.of(camera, directions, trace_published(field, origins, directions))


PROTOCOLS = (
    Protocol("paper", paper_cameras, "paper", render_published, published_rule),
    Protocol("surface", centred_cameras, "faces", render, lambda field: BRACKETED),
)


def compare(
    protocol: Protocol,
    ours: Field | MeshDistance,
    truth: MeshDistance,
    size: int,
    count: int,
    folder: Path,
) -> Iterator[dict[str, float]]:
    """Metrics of each view of a field, or of a mesh given by its distance, against the truth.

    The pictures that they are taken from show normals in the normalised frame; they go to
    folder/PROTOCOL_BACKGROUND/NNN.png and NNN_truth.png. Keys: ssim_* and psnr_* for each
    background, those of `compare_buffers`, and `seconds` for our rendering; of a field `queries`
    too, the mean over all rays.
    """
    for index, camera in enumerate(protocol.cameras(size, count)):
        start = time.perf_counter()
        if isinstance(ours, MeshDistance):
            seen = render_mesh(ours, camera, protocol.truth)
        else:
            seen = protocol.render(ours, camera)
        row = {"seconds": time.perf_counter() - start}
        if isinstance(ours, Field):
            row["queries"] = float(seen.steps.mean())
        target = cached_render(truth, camera, protocol.truth)
        row |= compare_buffers(seen, target)
        for name, background in BACKGROUNDS.items():
            images = [normal_map(each.normal, each.hit, background) for each in (seen, target)]
            row |= {f"{key}_{name}": value for key, value in compare_images(*images).items()}
            for suffix, image in zip(("", "_truth"), images, strict=True):
                save_png(folder / f"{protocol.name}_{name}" / f"{index:03d}{suffix}.png", image)
        yield row
