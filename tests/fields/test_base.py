"""Fields against hand-made networks, closed forms and the paper's parameter counts."""

import pytest
import torch

from dss.errors import InputError
from dss.fields import build
from dss.fields.base import Field
from dss.fields.dual_shell import DualShellSettings
from dss.shell.dual_shell import DualShell

PAPER = {
    "local": False,
    "octaves": 6,
    "activation": "leaky_relu",
    "output": "tanh",
    "owner": "smallest",
}


def random_shell(count: int, seed: int = 0) -> DualShell:
    generator = torch.Generator().manual_seed(seed)
    inner = torch.rand(count, generator=generator) * 0.2 + 0.02
    return DualShell(torch.rand(count, 3, generator=generator) - 0.5, inner, inner + 0.05)


class Truth(Field):
    """The exact distance to a sphere about the origin, known in the interlayer only."""

    def __init__(self, shell: DualShell, radius: float):
        super().__init__(shell)
        self.radius = radius

    def forward(self, points, owner=None):
        return points.norm(dim=1) - self.radius


@pytest.mark.parametrize(
    ("layers", "count", "kib"),
    [(1, 512, 109.0), (2, 512, 173.5), (4, 512, 302.5), (2, 128, 118.0), (4, 1024, 376.5)],
)
def test_storage_is_that_of_the_published_code(layers, count, kib):
    # docs/method.md, section 5: latents, network and 5 floats of geometry per sphere
    field = build(DualShellSettings(layers=layers, **PAPER), random_shell(count).geometry)
    assert sum(field.storage().values()) / 1024 == pytest.approx(kib, abs=0.05)


def test_the_paper_s_network_is_what_its_description_says():
    shell = random_shell(7)
    field = build(DualShellSettings(layers=2, **PAPER), shell.geometry)
    points = torch.rand(50, 3) - 0.5
    owner = torch.randint(7, (50,))
    for i in range(50):  # one point at a time, straight from docs/method.md, section 5
        v = points[i] - shell.centers[owner[i]]
        sines = [torch.sin(2**k * v[axis]) for axis in range(3) for k in range(6)]
        cosines = [torch.cos(2**k * v[axis]) for axis in range(3) for k in range(6)]
        x = torch.cat([field.latents[owner[i]], torch.stack(sines + cosines)])
        for layer in field.mlp[:-1:2]:
            x = torch.nn.functional.leaky_relu(layer.weight @ x + layer.bias, 0.1)
        expected = torch.tanh(field.mlp[-1].weight @ x + field.mlp[-1].bias)
        assert field(points[i : i + 1], owner[i : i + 1]).item() == pytest.approx(
            expected.item(), abs=1e-6
        )


@pytest.mark.parametrize("options", [PAPER, {}])
def test_gradient_equals_finite_differences(options):
    torch.manual_seed(0)
    field = build(DualShellSettings(**options), random_shell(5).geometry)
    points = torch.rand(100, 3) - 0.5
    owner = field.shell.owner(points, field.owner_rule)
    points, owner = points[owner >= 0], owner[owner >= 0]
    gradient = field.gradient(points)
    field, points = field.double(), points.double().requires_grad_()
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    differences = torch.stack(
        [(field(points + h, owner) - field(points - h, owner)) / 2e-6 for h in step], 1
    )
    assert torch.allclose(gradient, differences.float(), atol=2e-5)


def test_sdf_is_total_and_keeps_the_sign_in_a_pocket():
    # Small spheres on the surface of a large ball, and nothing inside: the middle is a pocket that
    # no sphere covers.
    direction = torch.nn.functional.normalize(
        torch.randn(1500, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    shell = DualShell(direction * 0.72, torch.full((1500,), 0.05), torch.full((1500,), 0.15))
    points = torch.rand(5_000, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    field = Truth(shell, 0.8)
    sdf, truth = field.sdf(points), points.norm(dim=1) - 0.8
    pocket = points.norm(dim=1) < 0.5
    assert pocket.sum() > 100 and (shell.outer_gap(points)[0][pocket] > 0).all()
    assert ((sdf < 0) == (truth < 0)).all()
    # outside the interlayer a safe step
    assert (sdf.abs() <= truth.abs() + 1e-5)[shell.owner(points, "relative") < 0].all()
    assert (sdf <= shell.inner_gap(points)).logical_or(sdf > 0).all()


def test_sdf_of_no_points():
    assert build(DualShellSettings(), random_shell(3).geometry).sdf(torch.zeros(0, 3)).shape == (0,)


def test_weights_of_other_programs_are_refused_where_there_are_none(tmp_path):
    field = build(DualShellSettings(), random_shell(3).geometry)
    message = "net.h5: dual_shell has no weight files of other programs"
    with pytest.raises(InputError, match=message):
        type(field).from_weights(tmp_path / "net.h5", field.settings, {})
    with pytest.raises(InputError, match=message):
        field.to_weights(tmp_path / "net.h5")
