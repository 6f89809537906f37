"""The picture that tells the story: a mesh, its field, the distance between the two, the shell, and
a detail of both.

    python eval.py RUN && python eval_ssim.py RUN
    python scripts/teaser.py RUN --out docs/images/teaser.png
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dss import cli
from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.rendering.buffers import Buffers, render
from dss.rendering.cameras import FOV, Camera, look_at, turntable
from dss.rendering.images import INK, PALE, PAPER, Scale, draw_bar, save_png
from dss.rendering.mesh_buffers import render_mesh
from dss.rendering.modes import draw
from dss.rendering.slices import Plane, draw_shell
from dss.run import open_run

SIDE = 380  # pixels of a panel
GAP, TOP, BOTTOM = 12, 46, 84
FINE = 2  # traced pixels per drawn pixel, each way
ZOOM = 5


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument(
        "run", type=Path, help="a run folder that eval.py and eval_ssim.py have measured"
    )
    options.add_argument("--data", "--mesh", help="where its mesh is now")
    options.add_argument(
        "--angle", type=int, default=0, help="degrees by which the camera is turned"
    )
    options.add_argument(
        "--up", choices=("x", "y", "z"), default="z", help="the axis that points upwards"
    )
    options.add_argument("--out", type=Path, default=Path("teaser.png"), help="the picture")
    args = options.parse_args()
    device = cli.pick_device(args.device)
    run = open_run(args.run, device)
    metrics, images = (measured(args.run / name) for name in ("eval.json", "ssim.json"))
    mesh = run.load_mesh(args.data)
    distance = MeshDistance(mesh.vertices, mesh.faces, device)
    size = (
        Path(mesh.path).stat().st_size
        if mesh.path != "demo"
        else 12 * len(mesh.vertices) + 12 * len(mesh.faces)
    )

    camera = turntable(360, SIDE * FINE, args.up)[args.angle % 360]
    truth, field = render_mesh(distance, camera, "smooth"), render(run.field, camera)
    (error,), scale = draw([field], "error", distance)
    close = detail(truth, args.up)
    shaded, _ = draw(
        [truth, field, render_mesh(distance, close, "smooth"), render(run.field, close)], "shaded"
    )
    shell = draw_shell(run.field, Plane(("xyz".index(args.up) + 2) % 3, 0.0), SIDE * FINE)
    middle = slice(SIDE * FINE // 4 + GAP, SIDE * FINE * 3 // 4)
    full, (above, below) = (
        [smaller(image) for image in shaded[:2]],
        [smaller(image[middle]) for image in shaded[2:]],
    )
    seam = np.full((SIDE - 2 * len(above), SIDE, 3), 255, np.uint8)

    paper, surface = images["paper"]["mean"], images["surface"]["mean"]
    normals = f"normals {surface['normal_error_deg']:.1f}\N{DEGREE SIGN} off"
    panels = [
        ("Mesh", full[0], [f"{len(mesh.faces):,} triangles", f"{size / 1024:,.0f} KiB"]),
        (
            "Field",
            full[1],
            [f"{metrics['bytes'] / 1024:,.1f} KiB", f"SSIM {paper['ssim_white']:.4f}, {normals}"],
        ),
        (
            "Distance to the mesh",
            smaller(error),
            [f"mean {metrics['surface_mean']:.1e}, max {metrics['surface_max']:.1e}"],
        ),
        (
            "Dual shell, cut",
            smaller(shell),
            [f"{len(run.field.shell)} spheres", f"mean thickness {metrics['thickness_mean']:.4f}"],
        ),
        (f"{ZOOM}x: mesh above, field below", np.concatenate([above, seam, below]), []),
    ]
    save_png(args.out, compose(panels, {2: replace(scale, label="")}))
    print(f"next: look at {args.out}")


def measured(path: Path) -> dict:
    """What eval.py or eval_ssim.py wrote."""
    if not path.is_file():
        raise InputError(f"{path}: not there; run eval.py and eval_ssim.py on the run first")
    return json.loads(path.read_text())


def smaller(image: np.ndarray) -> np.ndarray:
    """Every FINE x FINE pixels averaged to one."""
    height, width = (side // FINE for side in image.shape[:2])
    return image.reshape(height, FINE, width, FINE, 3).mean((1, 3)).round().astype(np.uint8)


def detail(seen: Buffers, up: str) -> Camera:
    """The same camera, closer on the part of the surface with the finest relief in the light;
    silhouettes do not count."""
    fine = max(3, seen.camera.width // 60)
    depth = np.where(seen.hit, seen.t, 0)
    whole = ndimage.maximum_filter(depth, fine) - ndimage.minimum_filter(depth, fine) < 0.1
    relief = np.square(seen.normal - ndimage.uniform_filter(seen.normal, (fine, fine, 0))).sum(2)
    relief *= whole * draw([seen], "shaded")[0][0].mean(2)
    density = np.where(seen.hit, ndimage.uniform_filter(relief, seen.camera.width // ZOOM), -1)
    pixel = np.unravel_index(density.argmax(), density.shape)
    eye = seen.camera.pose[:, 3]
    target = eye.numpy() - seen.t[pixel] * seen.view[pixel]
    pose = look_at(eye, target, [float(axis == up) for axis in "xyz"])
    return Camera.from_fov(pose, FOV / ZOOM, seen.camera.width, seen.camera.height)


def compose(
    panels: list[tuple[str, np.ndarray, list[str]]], scales: dict[int, Scale]
) -> np.ndarray:
    """Pictures beside each other, each under its title and above its lines of text, or below a bar
    of colours and one line."""
    sheet = Image.new("RGB", (len(panels) * (SIDE + GAP) + GAP, TOP + SIDE + BOTTOM), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (title, image, lines) in enumerate(panels):
        left, bottom = GAP + index * (SIDE + GAP), TOP + SIDE + 10
        draw.text((left + SIDE / 2, TOP - 12), title, INK, ImageFont.load_default(22), anchor="ms")
        sheet.paste(Image.fromarray(image), (left, TOP))
        if index in scales:
            draw_bar(sheet, scales[index], (left + 16, bottom - 4, left + SIDE - 16))
            bottom += 40
        for line in lines:
            draw.text(
                (left + SIDE / 2, bottom), line, PALE, ImageFont.load_default(18), anchor="ma"
            )
            bottom += 26
    return np.asarray(sheet)


if __name__ == "__main__":
    cli.run(main)
