"""What lies on either side of a surface: where it is the boundary of the solid, and where not."""

from dataclasses import dataclass

import numpy as np

from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import MeshReport, surface_samples

SAMPLES = 20_000  # points that tell the shares of a surface
STEP = 1e-5  # from a point on the surface to either side of it
DOUBTFUL = 0.25  # how near to 1/2 a winding number leaves the side in doubt
WORTH_NAMING = 0.01  # share of the surface


@dataclass(frozen=True)
class Shares:
    """Shares of a surface, by area, that are not plainly the boundary of the solid."""

    doubtful: float  # the winding number in front or behind is near 1/2, as beside holes
    interior: float  # inside the solid on both sides, as where bodies overlap
    exterior: float  # outside on both sides, as of bodies that are inside out

    def warnings(self, report: MeshReport) -> list[str]:
        """What is wrong with the mesh of that report where the sign suffers, and what to do."""
        found = []
        if self.doubtful > WORTH_NAMING:
            causes = []
            if report.boundary_edges:
                causes.append(f"close the holes ({report.boundary_edges:,} boundary edges)")
            if report.nonmanifold_edges:
                edges = f"{report.nonmanifold_edges:,} non-manifold edges"
                causes.append(f"remove the extra faces at {edges}")
            if not causes:
                causes = ["thicken what has no thickness, and turn faces against their neighbours"]
            text = f"inside and outside are ambiguous on {self.doubtful:.0%} of the surface"
            found.append(f"{text}: expect a wrong sign there; {' and '.join(causes)}")
        if self.exterior > WORTH_NAMING:
            text = f"{self.exterior:.0%} of the surface is inside out, and encloses nothing"
            found.append(f"{text}: expect it to be missing; turn the faces of these bodies")
        return found

    @property
    def note(self) -> str:
        """What may be odd about the mesh and does no harm; empty where nothing is."""
        if self.interior <= WORTH_NAMING:
            return ""
        text = f"{self.interior:.0%} of the surface lies inside the solid and does not count"
        return f"{text} (bodies overlap; their union would lack it)"


def shares(distance: MeshDistance, seed: int = 0) -> Shares:
    """What the surface of a mesh is, from SAMPLES points on it."""
    samples = surface_samples(distance.vertices, distance.faces, SAMPLES, seed)
    front, behind = _sides(distance, *samples)
    doubtful = (np.abs(front - 0.5) < DOUBTFUL) | (np.abs(behind - 0.5) < DOUBTFUL)
    interior, exterior = np.minimum(front, behind) > 0.5, np.maximum(front, behind) <= 0.5
    parts = doubtful, interior & ~doubtful, exterior & ~doubtful
    return Shares(*(float(part.mean()) for part in parts))


def interior(distance: MeshDistance, points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(n,) bool: which points (n, 3) on faces (n,) of a mesh have the solid on both sides."""
    return np.minimum(*_sides(distance, points, faces)) > 0.5


def _sides(
    distance: MeshDistance, points: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Winding numbers (n,) in front of points (n, 3) on faces (n,), and behind them."""
    step = STEP * distance.normals.cpu().numpy()[faces]
    return distance.winding(points + step), distance.winding(points - step)
