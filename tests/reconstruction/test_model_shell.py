import numpy as np
import pytest
import torch

from dss.config import RenderSettings
from dss.errors import InputError
from dss.evaluation.images import psnr
from dss.reconstruction.model_shell import (
    CHECKS,
    MAX_LEAKS,
    SPARE,
    ModelField,
    mend,
    shell_of_model,
)
from dss.reconstruction.samplers.shell import Shell, ShellSettings
from dss.reconstruction.samplers.uniform import Uniform, UniformSettings
from dss.reconstruction.volume_rendering import render_picture
from dss.rendering.isosurface import extract
from dss.shell.dual_shell import DualShell
from tests.helpers import ball_model, pinhole

# the second is too thin for inner spheres: 0.03 < the band
BALLS = ((0.0, 0.0, 0.0, 0.45), (0.6, 0.0, 0.0, 0.03))
SIZES = 24, 64, 1e-2  # spheres, resolution and eps, as below
SETTINGS = ShellSettings(spheres=24, resolution=64, eps=1e-2, step=0.01, start_step=0)


@pytest.fixture(scope="module")
def model():
    return ball_model(100.0, BALLS)


@pytest.fixture(scope="module")
def shell(model) -> DualShell:
    """From the spheres that a cover, which tests/shell/test_cover.py tests, would at least find."""
    with pytest.MonkeyPatch.context() as quicker:
        quicker.setattr(
            "dss.reconstruction.model_shell.cover",
            lambda *_: (np.zeros((1, 3)), np.array([0.44]), np.array([0.455])),
        )
        return shell_of_model(model, *SIZES)


def test_the_shell_encloses_the_band_and_its_inner_spheres_are_solid(model, shell):
    """Fresh samples agree with the check's own, but for slivers: it is dense, not a proof."""
    margin = model.band(SETTINGS.eps)
    points = torch.rand(400_000, 3, generator=torch.Generator().manual_seed(9)) * 2 - 1
    points = points[points.norm(dim=1) < 1]
    sdf = model.sdf(points)
    gap = shell.outer_gap(points)[0][sdf.abs() <= margin]
    assert (gap > 0).float().mean() < 1e-4 and gap.max() < SPARE
    assert (sdf[shell.inner_gap(points) < 0] < -margin).all()


def test_thin_parts_have_no_inner_spheres(shell):
    near = (shell.centers - torch.tensor(BALLS[1][:3])).norm(dim=1) < 0.1
    assert near.any() and not shell.inner_radii[near].any()
    assert (shell.inner_radii > 0.2).any()  # the thick part has


def test_the_shell_shows_the_same_picture(model, shell):
    camera, white = pinhole(size=48), torch.ones(3)
    plain = render_picture(model, Uniform(UniformSettings()), camera, white, RenderSettings())
    sampler = Shell(SETTINGS)
    sampler.shell = shell
    found = render_picture(model, sampler, camera, white, RenderSettings(min_transmittance=1e-4))
    assert psnr(found.colour, plain.colour) > 35 and found.samples < 10 and found.background > 0.4


def test_mending_finds_leaks_and_hollow_spheres(model):
    """A shell that is too small, too solid and misses a part."""
    margin = model.band(1e-2)
    shell = DualShell(torch.zeros(1, 3), torch.tensor([0.44]), torch.tensor([0.46]))
    surface = (
        torch.nn.functional.normalize(
            torch.randn(5000, 3, generator=torch.Generator().manual_seed(1)), dim=1
        )
        * 0.45
    )
    counts = []
    for number in range(6):
        shell, count = mend(model, shell, margin, surface, torch.Generator().manual_seed(number))
        counts.append(count)
    assert counts[0] > 1000 and counts[-1] == 0
    assert shell.outer_radii[0] >= 0.45 + margin and shell.inner_radii[0] <= 0.45 - margin
    assert len(shell) > 1 and (shell.outer_gap(torch.tensor([BALLS[1][:3]]))[0] < 0).all()


@pytest.mark.parametrize("leaks, settles", [(MAX_LEAKS, True), (MAX_LEAKS + 1, False)])
def test_a_last_check_may_find_next_to_nothing(model, monkeypatch, leaks, settles):
    checks = []
    monkeypatch.setattr(
        "dss.reconstruction.model_shell.mend",
        lambda model, shell, *_: checks.append(1) or (shell, leaks),
    )
    if settles:
        shell_of_model(model, *SIZES)
    else:
        with pytest.raises(InputError, match=f"still leaks .*{leaks} samples"):
            shell_of_model(model, *SIZES)
    assert len(checks) == (1 if settles else CHECKS)


def test_a_model_without_a_surface():
    with pytest.raises(InputError, match="the model: no surface"):
        shell_of_model(ball_model(100.0, ((5.0, 0.0, 0.0, 0.1),)), *SIZES)


def test_the_sampler_builds_its_shells_on_time(model, monkeypatch):
    built, shell = [], DualShell(torch.zeros(1, 3), torch.ones(1), torch.ones(1))
    monkeypatch.setattr(
        "dss.reconstruction.model_shell.shell_of_model", lambda *_: built.append(step) or shell
    )
    sampler = Shell(SETTINGS.model_copy(update={"start_step": 10, "rebuild_every": 5}))
    for step in range(18):
        sampler.prepare(model, step, torch.Generator())
    assert built == [10, 15] and sampler.shell is shell


def test_mesh_of_a_model_with_and_without_its_shell(model, shell):
    for field in (ModelField(model), ModelField(model, shell)):
        mesh = extract(field, 128)
        assert mesh.is_watertight and mesh.body_count == 2
        assert abs(model.sdf(torch.tensor(mesh.vertices).float())).max() < 2e-3
