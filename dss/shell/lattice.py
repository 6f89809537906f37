"""Spheres in few bits: centres on a lattice, radii on a logarithmic scale, thicknesses rounded
outwards.

All values are float32 numbers that follow exactly from integers, so that a coded shell is the one
that was certified.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dss.config import MeshConfig
from dss.errors import InputError
from dss.shell.dual_shell import DualShell

if TYPE_CHECKING:  # a machine that reads coded fields may lack Warp
    from dss.geometry.distance import MeshDistance

OCTAVES = 18  # of radii and thicknesses, up to 2
CORNERS = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)


def scale(bits: int) -> np.ndarray:
    """The values of a logarithmic scale from 2**-17 to 2, float64 that float32 holds exactly: 2**
    `bits` steps of equal size in each octave."""
    code = np.arange(OCTAVES << bits)
    mantissa, exponent = (1 << bits) + code % (1 << bits), code >> bits
    return np.ldexp(mantissa.astype(np.float64), exponent - bits - OCTAVES + 1)


@dataclass(frozen=True)
class Lattice:
    """Which spheres there are: 2**bits coordinates in [-1, 1], and 2**bits inner radii, and
    thicknesses, in each octave. A sphere in integers is a row of five: its centre, its inner radius
    and its thickness."""

    center_bits: int
    radius_bits: int
    thickness_bits: int

    @classmethod
    def of(cls, config: MeshConfig) -> "Lattice | None":
        """The configured lattice; None where the field is not to be coded."""
        codec = config.codec
        bits = codec.center_bits, codec.radius_bits, codec.thickness_bits
        return cls(*bits) if config.fit.rate_weight else None

    def centers(self, codes: np.ndarray) -> np.ndarray:
        """The float64 coordinates of integers from 0 to 2**center_bits - 1."""
        return (2.0 * codes + 1) / (1 << self.center_bits) - 1

    def center_codes(self, centers: np.ndarray) -> np.ndarray:
        """The integers of the nearest lattice points."""
        codes = np.floor((centers + 1) * (1 << self.center_bits) / 2).astype(np.int64)
        return codes.clip(0, (1 << self.center_bits) - 1)

    def snapped(self, centers: np.ndarray) -> np.ndarray:
        """The nearest lattice points."""
        return self.centers(self.center_codes(centers))

    def radius_codes(self, radii: np.ndarray) -> np.ndarray:
        """The integers of the largest inner radii that are not above `radii`; -1 for those that are
        too small."""
        return np.searchsorted(scale(self.radius_bits), radii, "right") - 1

    def radii(self, codes: np.ndarray) -> np.ndarray:
        """The inner radii of integers."""
        return scale(self.radius_bits)[codes]

    def outer_radii(self, radius_codes: np.ndarray, thickness_codes: np.ndarray) -> np.ndarray:
        """The outer radii of integers: sums of two float32 numbers, rounded to float32."""
        thickness = scale(self.thickness_bits)[thickness_codes].astype(np.float32)
        return self.radii(radius_codes).astype(np.float32) + thickness

    def thickness_codes(self, radius_codes: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """The integers of the least thicknesses whose outer radii are not below `outer`."""
        last = (OCTAVES << self.thickness_bits) - 1
        wanted = outer - self.radii(radius_codes)
        near = np.searchsorted(scale(self.thickness_bits), wanted)
        # the sum that becomes the outer radius is rounded, up or down
        choices = (near[:, None] + [-1, 0, 1]).clip(0, last)
        enough = self.outer_radii(radius_codes[:, None], choices) >= outer[:, None]
        return choices[np.arange(len(choices)), enough.argmax(1)]

    def balls(self, distance: "MeshDistance", centers: np.ndarray) -> np.ndarray:
        """The largest balls (n, 4) of the lattice inside the solid at one of the eight lattice
        points around each centre (n, 3); where all of these are outside, there is none. In the
        order of a file."""
        low = self.center_codes(centers - 1 / (1 << self.center_bits))
        around = self.snapped(self.centers(low[:, None] + CORNERS))
        radii = -distance.sdf(around.reshape(-1, 3).astype(np.float32)).reshape(around.shape[:-1])
        best = radii.argmax(1)
        codes = self.radius_codes(radii[np.arange(len(radii)), best])
        found = codes >= 0
        if not found.any():
            raise InputError(
                f"codec.center_bits={self.center_bits}: no sphere on so coarse a lattice fits into "
                "so thin a mesh; choose more bits"
            )
        places = self.center_codes(around[np.arange(len(radii)), best][found])
        rows = np.column_stack([places, codes[found]])
        rows = rows[in_order(rows, self.center_bits)]
        return np.column_stack([self.centers(rows[:, :3]), self.radii(rows[:, 3])])

    def enclosing_codes(
        self, centers: np.ndarray, inner: np.ndarray, outer: np.ndarray
    ) -> np.ndarray:
        """The rows (S, 5) int64 of spheres (S, 3), (S,), (S,): centre, inner radius, thickness.

        Each outer sphere contains the one that it stands for, and each inner sphere lies in it,
        unless that is smaller than any of the scale.
        """
        codes = self.center_codes(centers)
        moved = np.linalg.norm(self.centers(codes) - centers, axis=1)
        radii = self.radius_codes(inner - moved).clip(min=0)
        return np.column_stack([codes, radii, self.thickness_codes(radii, outer + moved)])

    def enclosing(self, shell: DualShell) -> DualShell:
        """The thinnest shell of the lattice that contains a shell, in the order of a file."""
        codes = self.enclosing_codes(*(value.cpu().double().numpy() for value in shell.buffers()))
        return self.shell(codes[in_order(codes, self.center_bits)])

    def shell(self, codes: np.ndarray) -> DualShell:
        """The shell that rows (S, 5) of integers stand for."""
        outer = self.outer_radii(codes[:, 3], codes[:, 4])
        values = self.centers(codes[:, :3]), self.radii(codes[:, 3]), outer
        return DualShell(*(torch.from_numpy(value.astype(np.float32)) for value in values))


def morton(codes: np.ndarray, bits: int) -> np.ndarray:
    """The bits of three coordinates (S, 3) joined in turn, x first, (S,) int64: near cells of a
    lattice mostly have near numbers."""
    result = np.zeros(len(codes), np.int64)
    for bit in reversed(range(bits)):
        for axis in range(3):
            result = result << 1 | codes[:, axis] >> bit & 1
    return result


def in_order(codes: np.ndarray, bits: int) -> np.ndarray:
    """The order (S,) of rows (S, 3 or more) by the Morton numbers of their centres, then by their
    other numbers, so that a set of spheres has one order only."""
    return np.lexsort([*codes[:, :2:-1].T, morton(codes, bits)])
