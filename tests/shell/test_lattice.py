"""Spheres of a lattice: solid, enclosing, and the same after any road through integers."""

import numpy as np
import pytest
import torch

from dss.config import CodecSettings, FitSettings, MeshConfig, SpheresSettings
from dss.fields import METHODS
from dss.fields.dual_shell import DualShellSettings
from dss.fields.key_spheres import KeySpheresSettings
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.shell.certify import certify, solid
from dss.shell.dual_shell import DualShell
from dss.shell.lattice import Lattice, in_order, morton, scale

LATTICE = Lattice(8, 5, 2)


@pytest.fixture(scope="module")
def demo():
    mesh = load_mesh("demo")
    return mesh, MeshDistance(mesh.vertices, mesh.faces)


def geometry(demo, field, method="cover", count=40, **codec):
    config = MeshConfig(
        field=field,
        spheres=SpheresSettings(method=method, count=count, resolution=64),
        fit=FitSettings(rate_weight=1e-9),
        codec=CodecSettings(**codec),
    )
    return METHODS[field.method].build_geometry(*demo, config)


@pytest.fixture(autouse=True)
def fewer_samples(monkeypatch):
    """Thicker shells than usual, which is faster; the certificate holds for any."""
    monkeypatch.setattr("dss.shell.cover.DENSE", 20_000)
    monkeypatch.setattr("dss.shell.cover.MIN_COARSE", 5_000)
    monkeypatch.setattr("dss.shell.certify.SAMPLES", 50_000)


@pytest.mark.parametrize(
    ("method", "bits"),
    [("cover", (8, 5, 2)), ("cover", (7, 3, 0)), ("farthest", (8, 5, 2)), ("farthest", (12, 8, 6))],
)
def test_a_shell_of_the_lattice_is_certified(demo, method, bits):
    names = ("center_bits", "radius_bits", "thickness_bits")
    tensors = geometry(demo, DualShellSettings(), method, **dict(zip(names, bits, strict=True)))
    shell, (mesh, distance) = DualShell(*tensors.values()), demo
    assert 0 < len(shell) <= 40
    assert certify(mesh.vertices, mesh.faces, shell) == 0
    assert solid(distance, shell).all()
    again = Lattice(*bits).enclosing(shell)
    for one, other in zip(shell.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other)


def test_key_spheres_are_of_the_lattice(demo):
    spheres = geometry(demo, KeySpheresSettings(width=4, layers=1))["spheres"].double().numpy()
    assert (LATTICE.snapped(spheres[:, :3]) == spheres[:, :3]).all()
    assert (LATTICE.radii(LATTICE.radius_codes(-spheres[:, 3])) == -spheres[:, 3]).all()
    radii = -demo[1].sdf(spheres[:, :3].astype(np.float32))
    assert (-spheres[:, 3] <= radii).all() and (-spheres[:, 3] > 0.96 * radii).all()


def test_an_enclosing_shell_encloses():
    generator = np.random.default_rng(0)
    centers = generator.uniform(-0.9, 0.9, (300, 3)).astype(np.float32)
    inner = generator.uniform(0.02, 0.3, 300).astype(np.float32)
    outer = inner + generator.uniform(1e-4, 0.1, 300).astype(np.float32)
    for lattice in (LATTICE, Lattice(16, 10, 8)):
        codes = lattice.enclosing_codes(*(x.astype(np.float64) for x in (centers, inner, outer)))
        shell = lattice.shell(codes)
        moved = (shell.centers.double() - torch.from_numpy(centers).double()).norm(dim=1).numpy()
        assert (shell.inner_radii.double().numpy() + moved <= inner.astype(np.float64)).all()
        assert (shell.outer_radii.double().numpy() - moved >= outer.astype(np.float64)).all()


@pytest.mark.parametrize("bits", [0, 2, 5, 10])
def test_scales_are_float32_and_rise(bits):
    values = scale(bits)
    assert (values == values.astype(np.float32)).all() and (np.diff(values) > 0).all()
    assert values[0] == 2.0**-17 and values[-1] < 2 <= values[-1] * (1 + 2.0**-bits)


def test_the_order_is_that_of_near_cells():
    codes = np.array([[1, 1, 1, 0], [0, 0, 1, 5], [1, 0, 0, 0], [0, 0, 1, 4], [0, 0, 0, 9]])
    assert morton(codes, 1).tolist() == [7, 1, 4, 1, 0]
    assert in_order(codes, 1).tolist() == [4, 3, 1, 2, 0]
