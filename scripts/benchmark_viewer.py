"""How many frames a processor makes for the viewer: drawn, shaded and coded as JPEG.

    OMP_NUM_THREADS=1 python scripts/benchmark_viewer.py runs/quickstart

Medians of processor time, in which other programs hardly show, and in brackets by the clock.
"""

import time

import imageio.v3 as imageio
import numpy as np

from dss import cli
from dss.rendering.cameras import turntable
from dss.rendering.slices import Plane
from dss.tables import markdown
from dss.viewer.frames import Look, draw
from dss.viewer.subject import open_subject

LOOKS = {
    "field": Look(),
    "mesh": Look("mesh"),
    "error": Look("error"),
    "field and outer spheres": Look(outer=True),
    "field and cutting plane": Look(plane=Plane(1, 0.0)),
}
SIZES = {64: 10, 128: 10, 256: 5, 512: 3}  # pixels per side, and how many views are drawn


def main() -> None:
    options = cli.parser(__doc__)
    options.add_argument("what", help="a run folder, a .dss file or a mesh")
    args = options.parse_args()
    subject = open_subject(args.what, device=cli.pick_device(args.device))
    cells = [["frames per second", *(f"{size}x{size}" for size in SIZES)]]
    for name, look in LOOKS.items():
        cells.append([name])
        for size, count in SIZES.items():
            times = []
            for camera in [turntable(1, size)[0], *turntable(count, size)]:
                began = time.process_time(), time.perf_counter()
                image = draw(subject, camera, look).image
                imageio.imwrite("<bytes>", image, extension=".jpeg", quality=80)
                times.append((time.process_time() - began[0], time.perf_counter() - began[1]))
            busy, clock = np.median(times[1:], 0)  # the first one warms up
            cells[-1].append(f"{1 / busy:.1f} ({1 / clock:.1f})")
    print(markdown(cells))


if __name__ == "__main__":
    cli.run(main)
