import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
from skimage.measure import marching_cubes

from dss.errors import InputError
from dss.geometry.similarity import Similarity
from dss.rendering import isosurface as mesher
from dss.rendering.isosurface import export, extract
from dss.shell.dual_shell import DualShell
from tests.helpers import Analytic, ball_shell


def ball(points, radius=0.7):
    return points.norm(dim=1) - radius


def torus(points, major=0.6, minor=0.25):
    return torch.hypot(torch.hypot(points[:, 0], points[:, 1]) - major, points[:, 2]) - minor


def box(points, half=(0.5, 0.4, 0.3)):
    gap = points.abs() - points.new_tensor(half)
    return gap.clamp(min=0).norm(dim=1) + gap.amax(1).clamp(max=0)


def noise(points):
    """Far from any distance: rough, and with many components."""
    return torch.sin(9 * points).prod(1) + 0.3 * torch.sin(23 * points.roll(1, 1)).prod(1)


def torus_shell(count=40, major=0.6, minor=0.25):
    angle = torch.arange(count) * (2 * np.pi / count)
    centers = major * torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    return DualShell(centers, torch.full((count,), 0.99 * minor), torch.full((count,), 1.1 * minor))


CASES = {
    "ball": (ball, None, 4 / 3 * np.pi * 0.7**3),
    "torus": (torus, None, 2 * np.pi**2 * 0.6 * 0.25**2),
    "ball in its shell": (ball, ball_shell(200), 4 / 3 * np.pi * 0.7**3),
    "torus in its shell": (torus, torus_shell(), 2 * np.pi**2 * 0.6 * 0.25**2),
}


@pytest.mark.parametrize("formula, shell, volume", CASES.values(), ids=CASES)
def test_second_order_convergence_to_the_closed_form(formula, shell, volume):
    errors = []
    for resolution in (40, 80):
        field = Analytic(formula, shell)
        mesh = extract(field, resolution)
        assert mesh.is_watertight and mesh.is_winding_consistent and mesh.body_count == 1
        centers = torch.tensor(mesh.triangles_center, dtype=torch.float32)
        errors.append((abs(mesh.volume - volume), formula(centers).abs().max().item()))
        assert formula(torch.tensor(mesh.vertices)).abs().max() < 2e-3 * 2 / resolution
    assert np.all(np.array(errors[1]) < 0.3 * np.array(errors[0]))
    assert errors[1][0] < 2e-3 * volume and errors[1][1] < 1e-3


def test_box():
    mesh = extract(Analytic(box), 80)
    assert mesh.is_watertight and mesh.body_count == 1
    assert np.allclose(mesh.bounds, [[-0.5, -0.4, -0.3], [0.5, 0.4, 0.3]], atol=1e-6)
    assert mesh.volume == pytest.approx(0.48, rel=2e-3)


@pytest.mark.parametrize(
    "formula, shell",
    [
        (ball, None),
        (box, None),
        (torus, torus_shell()),
        (ball, ball_shell(200)),
        (lambda p: noise(p) * 0.1, torus_shell()),
    ],
    ids=["ball", "box", "torus in its shell", "ball in its shell", "noise in a shell"],
)
def test_equals_marching_cubes_on_the_full_lattice(formula, shell, monkeypatch):
    monkeypatch.setattr(mesher, "MAX_STEPS", 0)
    # 48 nodes, no padding: they span the cube exactly
    resolution, field = 47, Analytic(formula, shell)
    axis = torch.linspace(-1, 1, resolution + 1)
    nodes = torch.cartesian_prod(axis, axis, axis)
    dense = field.sdf(nodes).reshape([resolution + 1] * 3).numpy()
    spacing = 2 / resolution
    clamped = np.abs(dense).clip(mesher.MIN_VALUE * spacing, mesher.MAX_VALUE * spacing)
    dense = clamped * np.where(dense < 0, -1, 1)
    vertices, faces, *_ = marching_cubes(dense, 0, spacing=[spacing] * 3)
    dense_asked, field.asked = field.asked, 0
    mesh = extract(field, resolution)
    assert np.array_equal(mesh.faces, faces)
    assert np.abs(mesh.vertices - (vertices - 1)).max() < 1e-5
    assert shell is not None or field.asked < 0.8 * dense_asked


def test_pockets_grow_no_bubbles():
    shell = ball_shell(200)
    middle = torch.zeros(1, 3)
    assert shell.outer_gap(middle)[0] > 0.3 and not shell.exterior(middle)
    mesh = extract(Analytic(ball, shell), 64)
    assert mesh.body_count == 1 and mesh.is_watertight


def test_any_field_gives_a_closed_mesh():
    mesh = extract(Analytic(noise), 64)  # it crosses the border of the cube
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    # Exactly zero on whole planes of nodes
    zeros = extract(Analytic(lambda p: (p * 47 / 2).round().clamp(-9, 9).amax(1)), 47)
    assert zeros.is_watertight and zeros.area_faces.min() > 0


@pytest.mark.parametrize(
    "formula",
    [
        lambda p: ball(p) + 2,
        lambda p: ball(p) - 3,
        lambda p: 0 * ball(p),
        lambda p: ball(p) * torch.nan,
    ],
)
def test_no_surface_is_bad_input(formula):
    with pytest.raises(InputError, match="^it: no surface"):
        extract(Analytic(formula), 32, "it")


@pytest.mark.parametrize("resolution", [0, 7, 5000])
def test_resolution_out_of_range(resolution):
    with pytest.raises(InputError, match="resolution"):
        extract(Analytic(ball), resolution)


@pytest.mark.parametrize("suffix", ["ply", "obj", "STL"])
@pytest.mark.parametrize(
    "center, scale", [((5e5, -3e6, 12), 3.0), ((0, 0, 0), 1e-12), ((0, 0, 0), 1e12)]
)
def test_export_in_the_units_of_the_input(tmp_path, suffix, center, scale):
    mesh = extract(Analytic(torus), 32)
    path = tmp_path / f"torus.{suffix}"
    export(mesh, path, Similarity(center, scale))
    read = trimesh.load(path, process=False)
    expected = mesh.vertices * scale + center
    if suffix == "STL":  # single precision, no shared vertices
        read.vertices, expected = read.vertices, expected[mesh.faces].reshape(-1, 3)
        assert np.allclose(read.triangles.reshape(-1, 3), expected, rtol=1e-6, atol=1e-6 * scale)
    else:
        assert read.is_watertight and np.array_equal(read.faces, mesh.faces)
        assert np.abs(read.vertices - expected).max() < 1e-4 * scale
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["mesh", "mesh.png"])
def test_export_to_an_unknown_suffix(tmp_path, name):
    with pytest.raises(InputError, match=r"use one of \.ply, \.obj, \.stl"):
        export(trimesh.creation.box(), tmp_path / name, Similarity((0.0, 0.0, 0.0), 1.0))
    assert not list(tmp_path.iterdir())


def test_export_to_a_full_disk(tmp_path):
    code = """
import resource, signal, sys, trimesh
from dss.errors import InputError
from dss.geometry.similarity import Similarity
from dss.rendering.isosurface import export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    export(trimesh.creation.icosphere(4), sys.argv[1], Similarity((0.0, 0.0, 0.0), 1.0))
except InputError as error:
    sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "mesh.ply"]).returncode == 3
    assert not list(tmp_path.iterdir())


def test_memory_at_512():
    code = """
import resource, torch
from dss.rendering.isosurface import extract
from dss.shell.dual_shell import DualShell
from tests.helpers import Analytic, sphere
shell = DualShell(torch.zeros(1, 3), torch.tensor([0.69]), torch.tensor([0.71]))
mesh = extract(Analytic(sphere(0.7), shell), 512)
assert mesh.is_watertight
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    kilobytes = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert kilobytes < 2e6


def test_specks_are_dropped_and_small_bodies_kept():
    def formula(points):
        speck = (points - points.new_tensor([0.5, 0.5, 0.5])).norm(dim=1) - 0.02
        body = (points + points.new_tensor([0.5, 0.5, 0.5])).norm(dim=1) - 0.1
        void = 0.02 - (points - points.new_tensor([0.1, 0.0, 0.0])).norm(dim=1)
        return torch.minimum(torch.maximum(ball(points, 0.4), void), torch.minimum(speck, body))

    mesh = extract(Analytic(formula), 64)
    assert mesh.is_watertight and mesh.body_count == 2
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * (0.4**3 + 0.1**3), rel=0.01)
