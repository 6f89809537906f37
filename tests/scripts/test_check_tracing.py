"""Certified shells hide nothing of a real mesh; and the script would notice if they did."""

import pytest

from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh
from dss.rendering.cameras import fibonacci
from dss.run import MeshRun
from dss.shell.certify import build_shell
from dss.shell.dual_shell import DualShell
from dss.shell.farthest import farthest
from scripts.check_tracing import compare


@pytest.fixture(scope="module", params=["53159", "96481"])
def certified(request, data) -> tuple[MeshDistance, DualShell]:
    mesh = load_mesh(data / "thingi32" / f"{request.param}.ply")
    distance = MeshDistance(mesh.vertices, mesh.faces)
    return distance, build_shell(mesh.vertices, mesh.faces, *farthest(distance, 128, 96))


def test_through_a_certified_shell_the_same_is_seen(certified):
    row = compare(*certified, fibonacci(4, 32))
    assert row["rays"] == 4 * 32 * 32 and row["hits"] > 300
    assert row["wrong"] == 0 and row["grazing"] < 5 and row["depth"] < 1e-5


def test_a_shell_with_holes_is_found_out(certified):
    distance, shell = certified
    leaky = DualShell(shell.centers, shell.inner_radii, shell.inner_radii + 0.5 * shell.thickness)
    assert compare(distance, leaky, fibonacci(1, 32))["wrong"] > 10


def test_command_line(ball_run, monkeypatch, script):
    mesh = load_mesh(ball_run.parent / "ball.ply")
    monkeypatch.setattr(MeshRun, "load_mesh", lambda run: mesh)  # the mesh has moved
    code, out, error = script("scripts.check_tracing", ball_run, "--views", "1", "--size", "8")
    assert code == 0, error
    assert out.splitlines()[-1] == "no pinholes"
