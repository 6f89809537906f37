"""Key spheres by the paper's rule: against the rule spelt out, and the authors' files."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import cdist

from dss.errors import InputError
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.shell.farthest import farthest
from dss.shell.io import read_h5

MESHES = ["252119", "53159", "96481"]  # thin, solid, with holes; scripts/compare_shells.py does all


@pytest.fixture(scope="module")
def torus() -> MeshDistance:
    mesh = trimesh.creation.torus(0.6, 0.3, 90, 45)
    turned = trimesh.transform_points(
        mesh.vertices, trimesh.transformations.rotation_matrix(0.5, [1, 2, 3])
    )
    # No symmetry of the lattice, hence no ties
    return MeshDistance(turned + [0.013, -0.021, 0.007], mesh.faces)


def spelt_out(distance: MeshDistance, count: int, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """docs/method.md, section 2, one line per step."""
    axis = (np.arange(resolution) + 0.5) * 2 / resolution - 1
    nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    nodes = nodes[distance.winding(nodes) > 0.5]
    radii = distance.exact(nodes)
    separation = cdist(nodes, nodes)
    chosen = [radii.argmax()]
    while len(chosen) < count:
        allowed = (separation[chosen] >= radii[chosen, None] + radii).all(0)
        if not allowed.any():
            break
        chosen.append(np.where(allowed, separation[chosen].min(0) + 2 * radii, -1).argmax())
    return nodes[chosen], radii[chosen]


@pytest.mark.parametrize("resolution", [20, 31])
def test_farthest_is_the_rule(torus, resolution):
    centers, radii = spelt_out(torus, 60, resolution)
    found = farthest(torus, 60, resolution)
    np.testing.assert_allclose(found[0], centers, atol=1e-12)
    np.testing.assert_allclose(found[1], radii, atol=1e-12)
    np.testing.assert_array_equal(farthest(torus, 20, resolution)[0], found[0][:20])


@pytest.mark.parametrize("name", MESHES)
def test_farthest_equals_the_authors_files(data, name):
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    centers, radii = farthest(MeshDistance(mesh.vertices, mesh.faces), 512)
    for count in (128, 512):
        theirs = read_h5(
            *(
                data / "shells" / f"thingi32_{kind}{count}" / f"{name}.h5"
                for kind in ("inner", "safe")
            )
        )
        np.testing.assert_array_equal(centers[:count], theirs.centers)
        np.testing.assert_allclose(radii[:count], theirs.inner_radii, atol=1e-6)


def test_one_sphere(torus):
    centers, radii = farthest(torus, 1, 32)
    assert centers.shape == (1, 3) and radii[0] == pytest.approx(0.3, abs=0.03)


def test_too_many_spheres(torus):
    with pytest.raises(
        InputError, match=r"spheres.count=4000: only \d+ of the 16\^3 lattice nodes lie inside"
    ):
        farthest(torus, 4000, 16)
    possible = len(spelt_out(torus, 400, 16)[0])
    with pytest.raises(
        InputError, match=f"only {possible} spheres on the 16\\^3 lattice fit without overlap"
    ):
        farthest(torus, possible + 1, 16)
    assert len(farthest(torus, possible, 16)[0]) == possible


def test_a_sheet_between_the_nodes():
    sheet = trimesh.creation.box([1.8, 1.8, 1e-3])
    distance = MeshDistance(sheet.vertices, sheet.faces)
    with pytest.raises(InputError, match="only 0 of the 256"):
        farthest(distance, 8)
