"""Steps that are learnt with a field, for every method: the fit ends with integers, resumes to the
same bits, and spends fewer of them where they cost more."""

import dataclasses

import numpy as np
import pytest
import torch

from dss.codec.pack import decode_field, encode_field
from dss.codec.quantise import STEPS, fine_steps, integers, laplace_bits
from dss.config import CodecSettings, FitSettings, MeshConfig
from dss.fields import METHODS, build
from dss.fields.base import Samples
from dss.fields.deepsdf import DeepSdfSettings
from dss.fields.displaced_mesh import DisplacedMeshSettings
from dss.fields.dual_shell import DualShellSettings
from dss.fields.key_spheres import KeySpheresSettings
from dss.fields.neural_implicit import NeuralImplicitSettings
from dss.fields.nglod import NglodSettings
from dss.fitting.fit import fit
from dss.geometry.similarity import Similarity
from dss.shell.dual_shell import DualShell
from dss.shell.lattice import Lattice

CPU = torch.device("cpu")
LATTICE = Lattice(8, 5, 2)
CENTERS = torch.tensor([[-0.3, 0.1, 0.0], [0.3, 0.0, 0.0], [0.1, 0.2, 0.3]])
SHELL = LATTICE.enclosing(
    DualShell(CENTERS, torch.tensor([0.4, 0.1, 0.2]), torch.tensor([0.8, 0.5, 0.7]))
)
KEYS = torch.cat([SHELL.centers, -SHELL.inner_radii[:, None]], 1)
METHODS_TRIED = {
    "dual_shell": (DualShellSettings(width=16, latent=4), SHELL.geometry),
    "key_spheres": (KeySpheresSettings(width=8, layers=2, features="latent"), {"spheres": KEYS}),
    "key_spheres, shared": (KeySpheresSettings(width=8, layers=2), {"spheres": KEYS}),
    "neural_implicit": (NeuralImplicitSettings(width=16, layers=2), {}),
    "deepsdf": (DeepSdfSettings(width=16), {}),
    "displaced_mesh": (DisplacedMeshSettings(faces=12), None),
    "nglod": (NglodSettings(lods=2, features=4, width=8, grow_every=3), None),
}
IDENTITY = Similarity((0.0, 0.0, 0.0), 1.0)


@pytest.fixture(scope="module", params=METHODS_TRIED)
def method(request, box, tmp_path_factory):
    """The settings of a method, and what its field is built on."""
    settings, geometry = METHODS_TRIED[request.param]
    if geometry is None:
        from dss.geometry.distance import MeshDistance
        from dss.geometry.mesh import load_mesh

        path = tmp_path_factory.mktemp("mesh") / "box.ply"
        box.export(path)
        mesh = load_mesh(path)
        distance = MeshDistance(mesh.vertices, mesh.faces)
        config = MeshConfig(field=settings)
        geometry = METHODS[settings.method].build_geometry(mesh, distance, config)
    return settings, geometry


def samples(count: int = 4000) -> Samples:
    """Distances to a sphere about the origin, in its interlayer."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    radius = 0.4 + 0.4 * torch.rand(count, generator=generator)
    points = points * radius[:, None]
    owner = SHELL.owner(points, "relative").clamp(min=0)
    return Samples(points, owner, radius - 0.6)


def fitted(method, path, rate_weight: float = 1e-7, stop_at: int = 0, **codec):
    """A short fit of a method; where it stops, an interrupted one."""
    settings, geometry = method
    config = MeshConfig(
        field=settings,
        fit=FitSettings(
            epochs=10,
            resample=10,
            batch_size=256,
            checkpoint=2,
            lr=1e-2,
            band=0.1,
            optimizer="adam",
            rate_weight=rate_weight,
        ),
        codec=CodecSettings(**codec),
    )

    def report(epoch, _field, _scalars):
        if epoch == stop_at:
            raise KeyboardInterrupt

    return fit(config, geometry, [samples()], CPU, path, report)


def test_a_fit_ends_with_integers(method, tmp_path):
    field = fitted(method, tmp_path / "state")
    numbers = integers(field, field.code_steps)
    for name, parameter in field.named_parameters():
        step = field.code_steps[name]
        assert np.isin(step.numpy(), STEPS).all()
        by_column = name.split(".")[0] in field.latent_keys and parameter.ndim == 2
        assert step.shape == ((parameter.shape[1],) if by_column else (1,))
        assert torch.equal(parameter, numbers[name].float() * step)


@pytest.mark.parametrize("stop_at", [2, 5, 9])  # before the noise, during it, while rounding
def test_a_resumed_fit_ends_the_same(method, tmp_path, stop_at):
    whole = fitted(method, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(method, tmp_path / "cut", stop_at=stop_at)
    resumed = fitted(method, tmp_path / "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert all(
        torch.equal(whole.code_steps[name], resumed.code_steps[name]) for name in whole.code_steps
    )


def test_a_field_comes_back_in_every_value(method, tmp_path):
    settings, _ = method
    field = fitted(method, tmp_path / "state")
    data = encode_field(field, settings, IDENTITY, "ab" * 32, LATTICE)
    coded = decode_field(data, "x.dss")
    assert coded.settings == settings and coded.mesh == "ab" * 8
    state = coded.field.state_dict()
    assert state.keys() == field.state_dict().keys()
    for name, value in field.state_dict().items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype, name
    points = samples(500).points
    assert torch.equal(field.eval().sdf(points), coded.field.sdf(points))
    assert encode_field(coded.field, settings, IDENTITY, "ab" * 32, LATTICE) == data


def test_a_field_without_steps_is_packed_after_the_fit(method, tmp_path):
    settings = method[0]
    field = fitted(method, tmp_path / "state", 0.0).eval()
    coded = decode_field(encode_field(field, settings, IDENTITY), "x.dss").field
    points = samples(500).points
    difference = (field.sdf(points) - coded.sdf(points)).abs().mean()
    assert difference < 0.03 * field.sdf(points).std()


def test_dearer_bits_are_fewer(tmp_path):
    method = METHODS_TRIED["dual_shell"]
    sizes = [
        len(
            encode_field(
                fitted(method, tmp_path / str(weight), weight, lr_ratio=10.0), method[0], IDENTITY
            )
        )
        for weight in (1e-8, 1e-5)
    ]
    assert sizes[1] < 0.8 * sizes[0]


def test_without_a_rate_weight_there_are_no_steps(tmp_path):
    method = METHODS_TRIED["dual_shell"]
    fields = [
        fitted(method, tmp_path / str(share), 0.0, noise_from=share, round_from=share)
        for share in (0.1, 0.9)
    ]
    assert fields[0].code_steps is None
    for one, other in zip(*(field.parameters() for field in fields), strict=True):
        assert torch.equal(one, other)


def test_noise_and_rounding_of_the_shape_of_a_step():
    """Where noise stands for rounding, values are within half a step of the parameters."""
    from dss.codec.quantise import Quantiser

    settings, geometry = METHODS_TRIED["dual_shell"]
    config = MeshConfig(field=settings, fit=FitSettings(rate_weight=1e-8))
    field = build(settings, geometry)
    quantiser = Quantiser(field, config)
    assert quantiser(field, 0.1)[0] == {} and quantiser.weight(0.1) == 0
    for progress in (0.4, 0.7):
        values, bits = quantiser(field, progress)
        for (name, parameter), log_step in zip(
            field.named_parameters(), quantiser.log_steps, strict=True
        ):
            steps = quantiser._step(log_step).detach()
            gap = (values[name] - parameter).detach().abs() / steps
            assert gap.max() <= 0.5001
            whole = (values[name].detach() / steps).round() * steps
            assert torch.equal(whole, values[name].detach()) is (progress > 0.6)
        assert bits > 0
    assert quantiser.weight(0.45) == pytest.approx(0.5e-8) and quantiser.weight(0.9) == 1e-8


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.3), (0.0, 0.0), (1.0, 1.0)])
def test_noise_may_be_left_out(tmp_path, shares):
    method = METHODS_TRIED["dual_shell"]
    field = fitted(method, tmp_path / "state", noise_from=shares[0], round_from=shares[1])
    encode_field(field, method[0], IDENTITY, "", LATTICE)


def test_bits_that_cost_next_to_nothing_leave_a_field_that_can_be_coded(tmp_path):
    """Steps then shrink without end."""
    method = METHODS_TRIED["dual_shell"]
    field = fitted(method, tmp_path / "state", 1e-30, noise_from=0.0, lr_ratio=100.0)
    assert min(steps.min() for steps in field.code_steps.values()) < 1e-4
    coded = decode_field(encode_field(field, method[0], IDENTITY, "", LATTICE), "x.dss").field
    for name, value in field.state_dict().items():
        assert torch.equal(value, coded.state_dict()[name])


def test_laplace_bits_are_the_integral():
    numbers = torch.linspace(-40, 40, 81)
    for width in (0.01, 0.3, 2.0, 15.0):
        distribution = torch.distributions.Laplace(0.0, torch.tensor(width).double())
        numbers64 = numbers.double()
        exact = distribution.cdf(numbers64 + 0.5) - distribution.cdf(numbers64 - 0.5)
        expected = -torch.log2(exact + 2.0**-16)
        assert (laplace_bits(numbers, torch.tensor(width)) - expected).abs().max() < 1e-3


def test_gradients_stay_finite():
    numbers = torch.tensor([0.0, 0.5, -0.5, 3.0, 1e4], requires_grad=True)
    width = torch.tensor([1e-3, 1e-2, 1.0, 100.0, 1e-3], requires_grad=True)
    laplace_bits(numbers, width).sum().backward()
    assert numbers.grad.isfinite().all() and width.grad.isfinite().all()


def test_fine_steps_are_never_too_fine_for_a_table():
    field = build(*METHODS_TRIED["neural_implicit"])
    with torch.no_grad():
        field.mlp[0].weight[0, 0] = 1e5
    encode_field(field, METHODS_TRIED["neural_implicit"][0], IDENTITY)
    assert fine_steps(field)["mlp.0.weight"].item() > 1


def test_a_shell_of_another_lattice_is_refused(tmp_path):
    settings, geometry = METHODS_TRIED["dual_shell"]
    field = fitted((settings, geometry), tmp_path / "state")
    with pytest.raises(ValueError, match="lattice"):
        encode_field(field, settings, IDENTITY, "", dataclasses.replace(LATTICE, center_bits=5))
