"""What measurements on a GPU need and a bare machine cannot make: made before, on a complete one.

parity.npz   recorded results of the operators (dss/experiments/parity.py)
fields.npz   shells and networks, what a camera truly sees, and points of the true surface
fits/        run folders of these fields, with the samples that they were fitted to
mesh.*       the mesh
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dss import ops
from dss.errors import InputError
from dss.experiments import parity

# Each name: a network of benchmark.NETWORKS, and a number of spheres
FIELDS = {
    "fast": ("fast", 512),
    "2x128": ("2x128", 512),
    "4x128": ("4x128", 512),
    "1x128": ("1x128", 512),
    "2x128, 128 spheres": ("2x128", 128),
    "2x128, 1024 spheres": ("2x128", 1024),
}
FITTED = ("fast", "2x128", "4x128")  # those that are fitted again
QUICK = {"fast": ("fast", 24)}
QUICK_FITTED = ("fast",)
SHORT = (
    "spheres.count=24", "spheres.method=farthest", "spheres.resolution=64", "samples.count=5000",
    "fit.epochs=2", "fit.resample=2",
)  # fmt: skip
SIZE = 512  # pixels per side of the view
POINTS = 100_000  # of the true surface


@dataclass(frozen=True)
class View:
    """A field as the operators take it."""

    shell: ops.Shell
    network: ops.Network
    rule: str


class Inputs:
    """What `prepare` wrote into a folder. Raises InputError where something is missing."""

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        self.stored = parity.read(folder / "fields.npz")
        self.facts = json.loads(str(self.stored["facts"]))  # of each field: see `prepare`
        self.surface = torch.from_numpy(self.stored["surface"]).to(device)

    @property
    def parity(self) -> Path:
        return self.folder / "parity.npz"

    @property
    def mesh(self) -> Path:
        found = sorted(self.folder.glob("mesh.*"))
        if not found:
            raise InputError(f"{self.folder}: holds no mesh; prepare it with a mesh file")
        return found[0]

    def run(self, name: str) -> Path:
        """The run folder of a field."""
        network, count = self.facts[name]["network"], self.facts[name]["spheres"]
        folder = self.folder / "fits" / f"{network}_{count}"
        if not (folder / "samples.npz").is_file():
            raise InputError(f"{folder}: no samples here; carry them too")
        return folder

    def view(self, name: str) -> View:
        shell = ops.pack(
            *(torch.from_numpy(self.stored[f"shell/{name}/{key}"]) for key in parity.SHELL)
        )
        network = parity.network_of(self.stored, f"network/{name}", self.device)
        shell = ops.Shell(*(part.to(self.device) for part in shell))
        return View(shell, network, self.facts[name]["rule"])

    def rays(self, size: int) -> tuple[Tensor, Tensor]:
        """Of the view, in size x size pixels."""
        from dss.rendering.cameras import FOV, Camera

        camera = Camera.from_fov(torch.from_numpy(self.stored["pose"]), FOV, size, size)
        return tuple(part.contiguous() for part in camera.rays(device=self.device))

    def depth(self, size: int) -> Tensor | None:
        """What `rays` truly meet first (n,), inf where nothing; None where that is not known."""
        known = torch.from_numpy(self.stored["depth"]).to(self.device)
        return known if len(known) == size**2 else None


def error(field: torch.nn.Module, surface: Tensor) -> float:
    """The mean distance that a field says points (n, 3) of the true surface have from its own."""
    return field.sdf(surface).abs().mean().item()


def prepare(folder: Path, mesh: str, quick: bool = False, size: int = SIZE) -> None:
    """Fit the fields to a mesh on this CPU, and write everything into the folder.

    The facts of a field are its network, its number of spheres, its rule, its `error` and the
    seconds of one core that its fit took, which are None where it was fitted before.
    """
    from dss.experiments import benchmark
    from dss.files import replacing
    from dss.geometry.distance import MeshDistance
    from dss.geometry.mesh import load_mesh, surface_samples
    from dss.rendering.cameras import centred_cameras

    cpu = torch.device("cpu")
    short = SHORT if quick else ()
    if not (folder / "parity.npz").is_file():
        parity.record(folder / "parity.npz", mesh, short)
    truth = load_mesh(mesh)
    distance = MeshDistance(truth.vertices, truth.faces)
    surface, _ = surface_samples(truth.vertices, truth.faces, POINTS // (100 if quick else 1))
    surface = torch.from_numpy(surface).float()
    (camera,) = centred_cameras(size, 1)
    depth, _ = distance.raycast(*camera.rays())
    stored = {"pose": camera.pose.numpy(), "depth": depth.numpy(), "surface": surface.numpy()}
    facts = {}
    for name, (network, count) in (QUICK if quick else FIELDS).items():
        field = benchmark.fitted_field(mesh, network, count, folder / "fits", cpu, short)
        seconds = json.loads((folder / "fits" / f"{network}_{count}" / "fit.json").read_text())
        facts[name] = {
            "network": network, "spheres": count, "rule": field.owner_rule,
            "error": error(field, surface), "seconds": seconds.get("fit_seconds"),
        }  # fmt: skip
        stored |= parity.arrays_of(field.network(), f"network/{name}")
        stored |= {f"shell/{name}/{key}": getattr(field.shell, key).numpy() for key in parity.SHELL}
    with replacing(folder / "fields.npz") as temporary:
        np.savez_compressed(temporary, facts=np.array(json.dumps(facts)), **stored)
    if Path(mesh).is_file():
        shutil.copyfile(mesh, folder / f"mesh{Path(mesh).suffix}")
