"""The training loop on a ball in one thick shell: learning, resuming, restarting, refusing."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dss.checkpoint import load_tensors, save_tensors
from dss.config import FitSettings, MeshConfig
from dss.errors import InputError
from dss.fields.dual_shell import DualShellSettings
from dss.fitting.fit import Rounds, Training, cosine, fit, samples_seen, split, steps
from dss.fitting.losses import mean_error
from dss.fitting.samples import Samples
from dss.registry import load_config
from dss.shell.dual_shell import DualShell

CPU = torch.device("cpu")
SHELL = DualShell(
    torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]]),
    torch.tensor([0.4, 0.1]),
    torch.tensor([0.8, 0.5]),
)


def ball_samples(seed: int, count: int = 6_000) -> Samples:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    radius = 0.4 + 0.4 * torch.rand(count, generator=torch.Generator().manual_seed(seed + 1))
    points = torch.nn.functional.normalize(points, dim=1) * radius[:, None]
    return Samples(points, SHELL.owner(points, "relative"), radius - 0.6)


def configuration(**changes) -> MeshConfig:
    values = {
        "epochs": 12,
        "resample": 6,
        "batch_size": 256,
        "checkpoint": 3,
        "band": 0.1,
    } | changes
    return MeshConfig(field=DualShellSettings(width=32, latent=4), fit=FitSettings(**values))


def run(config: MeshConfig, path: Path, rounds: list[Samples] | None = None, stop_at: int = 0):
    seen = []

    def report(epoch, _field, scalars):
        seen.append((epoch, scalars["error"]))
        if epoch == stop_at:
            raise KeyboardInterrupt

    field = fit(
        config, SHELL.geometry, rounds or [ball_samples(0), ball_samples(2)], CPU, path, report
    )
    return field, seen


PAPER = {"schedule": "plateau", "optimizer": "adam", "lr": 3e-3, "band": 0.0, "batch_size": 128}


@pytest.mark.parametrize("changes", [{}, {"loss": "l2"}, PAPER])
def test_a_ball_is_learnt(tmp_path, changes):
    field, seen = run(configuration(**changes), tmp_path / "state")
    assert seen[-1][1] < 0.01
    fresh = ball_samples(9)
    assert (field(fresh.points, fresh.owner) - fresh.sdf).abs().mean() < 0.01


# With these the rate falls nearly every second epoch.
RESTLESS = {"schedule": "plateau", "plateau_patience": 1, "plateau_cooldown": 0, "lr": 2e-5}
RESTLESS |= {"monitor": "training_loss", "optimizer": "adam", "batch_size": 4096}


@pytest.fixture(
    scope="module",
    params=[{"schedule": "cosine"}, {"schedule": "plateau"}, RESTLESS],
    ids=["cosine", "plateau", "restless"],
)
def whole(request, tmp_path_factory):
    """A configuration with this schedule, and the field of a fit that nothing interrupted."""
    config = configuration(**request.param)
    return config, run(config, tmp_path_factory.mktemp("whole") / "state")[0]


@pytest.mark.parametrize("stop_at", [3, 5, 10])
def test_a_resumed_fit_ends_the_same(tmp_path, whole, stop_at):
    config, field = whole
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "cut", stop_at=stop_at)
    resumed, seen = run(config, tmp_path / "cut")
    assert seen[0][0] == stop_at // 3 * 3 + 1
    for one, other in zip(field.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_seeds_decide(tmp_path):
    first, second = (
        run(configuration(epochs=1).model_copy(update={"seed": seed}), tmp_path / str(seed))[0]
        for seed in (1, 2)
    )
    assert not torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("poison", [float("nan"), 0.5])
def test_a_dead_fit_restarts_and_then_stops(tmp_path, poison):
    samples = ball_samples(0)
    # no number, or nothing but outside
    samples = dataclasses.replace(samples, sdf=torch.full_like(samples.sdf, poison))
    with pytest.raises(InputError, match="restarts"):
        run(configuration(restarts=1), tmp_path / "state", [samples])
    attempts = []
    with pytest.raises(InputError):
        fit(
            configuration(restarts=2),
            SHELL.geometry,
            [samples],
            CPU,
            tmp_path / "other",
            lambda epoch, *_: attempts.append(epoch),
        )
    assert attempts.count(1) == 3


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "state").write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="state"):
        run(configuration(), tmp_path / "state")


def test_split_parts_every_sample_once():
    samples = ball_samples(0, 1000)
    kept, out = split(samples, 0.2, seed=1)
    assert len(out) == 200 and torch.equal(
        torch.cat([kept.points, out.points]).sort(0)[0], samples.points.sort(0)[0]
    )


def test_cosine_rises_then_falls_to_zero():
    values = [cosine(i / 1000) for i in range(1001)]
    assert values[0] == 0 and values[-1] == pytest.approx(0) and max(values) > 0.99
    assert all(a >= b for a, b in zip(values[20:], values[21:], strict=False))


def test_the_optimiser_s_state_survives(tmp_path):
    config = configuration()
    training = Training(config, SHELL.geometry, CPU)
    training.run_epoch(Rounds(config, [ball_samples(0)], CPU))
    training.save(tmp_path / "state")
    loaded = Training.load(tmp_path / "state", config, SHELL.geometry, CPU)
    assert loaded.epoch == 1
    for one, other in zip(training.optimizers, loaded.optimizers, strict=True):
        for before, after in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(before[name], after[name]) for name in before)


def test_steps_fall_twice():
    values = [steps(progress) for progress in (0, 0.39, 0.4, 0.49, 0.5, 1)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_rounds_follow_the_epochs():
    """Each round has its own split, but the same points of a cloud are held out of all of them."""
    rounds = [ball_samples(seed, 1000) for seed in (0, 2)]
    parts = Rounds(configuration(), rounds, CPU)
    for epoch, number in ((0, 0), (5, 0), (6, 1), (11, 1), (40, 1)):
        learnt, held_out = parts.at(epoch)
        points = torch.cat([learnt.points, held_out.points])
        assert torch.equal(points.sort(0)[0], rounds[number].points.sort(0)[0])
        assert len(held_out) == 50
    config = configuration()
    oriented = config.samples.model_copy(update={"method": "oriented"})
    config = config.model_copy(update={"samples": oriented})
    owners = [dataclasses.replace(item, owner=torch.arange(1000) // 10) for item in rounds]
    clouds = Rounds(config, owners, CPU)
    kept = [set(clouds.at(epoch)[0].owner.tolist()) for epoch in (0, 6)]
    out = [set(clouds.at(epoch)[1].owner.tolist()) for epoch in (0, 6)]
    assert kept[0] == kept[1] and out[0] == out[1] and not kept[0] & out[0] and len(out[0]) == 5


def test_the_best_of_several_starts_goes_on(tmp_path, monkeypatch):
    """Here the second one of three, as the others are spoilt."""
    from dss.fitting import fit as module

    class Spoilt(Training):
        def run_epoch(self, rounds):
            scalars = super().run_epoch(rounds)
            return scalars if self.attempt == 1 else scalars | {"monitored": 1.0}

    monkeypatch.setattr(module, "Training", Spoilt)
    config = configuration(epochs=3, starts=3, start_epochs=2)
    rounds = Rounds(config, [ball_samples(0)], CPU)
    best = module._best_start(config, SHELL.geometry, rounds, CPU)
    assert (best.attempt, best.epoch) == (1, 2)


def keras_rates(values: list[float], factor: float, patience: int) -> list[float]:
    """The rate after each epoch by Keras' ReduceLROnPlateau(min_delta=1e-4, cooldown=0): it falls
    in the `patience`-th epoch that is not better than the best by min_delta."""
    best, wait, rates, rate = float("inf"), 0, [], 1.0
    for value in values:
        wait += 1
        if value < best - 1e-4:
            best, wait = value, 0
        if wait >= patience:
            rate, wait = rate * factor, 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize("name", ["neural_implicit_8x32", "neural_implicit_10x256"])
def test_neural_implicit_lowers_the_rate_as_keras_does(name):
    settings = load_config(name).fit
    config = configuration(**settings.model_dump() | {"optimizer": "adam", "lr": 1.0})
    training = Training(config, SHELL.geometry, CPU)
    values = (1 / torch.arange(1, 400)).tolist() + [0.5] * 200
    rates = []
    for value in values:
        training.plateau.step(value)
        rates.append(training.plateau.get_last_lr()[0])
    assert rates == pytest.approx(keras_rates(values, 0.8, 30))
    assert rates[-1] < 0.3


@pytest.mark.parametrize(
    ("name", "monitor", "cooldown"),
    [
        ("neural_implicit_8x32", "training_loss", 0),
        ("key_spheres", "training_loss", 0),
        ("key_spheres_latent", "training_loss", 5),
        ("dss_2x128", "error", 5),
    ],
)
def test_plateau_is_as_published(name, monitor, cooldown):
    settings = load_config(name).fit
    assert (settings.monitor, settings.plateau_cooldown) == (monitor, cooldown)
    training = Training(configuration(**settings.model_dump()), SHELL.geometry, CPU)
    assert training.plateau.cooldown == cooldown


@pytest.mark.parametrize("monitor", ["error", "loss", "training_loss"])
def test_plateau_sees_what_the_fit_monitors(monkeypatch, monitor):
    config = configuration(schedule="plateau", loss="l2", monitor=monitor)
    training, seen = Training(config, SHELL.geometry, CPU), []
    monkeypatch.setattr(training.plateau, "step", seen.append)
    rounds = Rounds(config, [ball_samples(0)], CPU)
    scalars = training.run_epoch(rounds)
    held_out = rounds.at(0)[1]
    predicted = training.field(held_out.points, held_out.owner)
    expected = {
        "error": (predicted - held_out.sdf).abs().mean().item(),
        "loss": mean_error(predicted, held_out.sdf, "l2", config.fit.band).item(),
        "training_loss": scalars["loss"],
    }
    assert seen == pytest.approx([expected[monitor]]) == [scalars["monitored"]]


def test_samples_are_counted_as_the_gradient_sees_them(tmp_path, monkeypatch):
    """Rounds of different sizes, a fifth held out, and two starts of which one goes on."""
    config = configuration(epochs=5, resample=2, holdout=0.2, starts=2, start_epochs=1)
    rounds = [ball_samples(0, 1000), ball_samples(2, 500), ball_samples(4, 2000)]
    seen, loss = [], Training._loss

    def counted(training, samples, progress):
        seen.append((training.attempt, len(samples)))
        return loss(training, samples, progress)

    monkeypatch.setattr(Training, "_loss", counted)
    run(config, tmp_path / "state", rounds)
    last = seen[-1][0]
    count = sum(number for attempt, number in seen if attempt == last)
    assert samples_seen(config, rounds) == count == 800 * 2 + 400 * 2 + 1600


# At such a rate the error jumps up and down, and the last epoch is not the best. Without mixed
# precision it does so alike on processors that multiply in bfloat16 and on others.
JUMPY = {"schedule": "constant", "optimizer": "adam", "lr": 0.3, "keep": "best"}
JUMPY |= {"mixed_precision": False}


@pytest.mark.parametrize(
    "able, wanted, used",
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True, True),
        ({"avx512_bf16": True}, False, False),
        ({"avx512": True, "avx512_bf16": False}, True, False),
        ({}, True, False),
    ],
)
def test_bfloat16_where_the_processor_multiplies_it(monkeypatch, able, wanted, used):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    training = Training(configuration(mixed_precision=wanted), SHELL.geometry, CPU)
    kinds = []
    training.field.mlp[0].register_forward_hook(
        lambda _module, _inputs, out: kinds.append(out.dtype)
    )
    training._loss(ball_samples(0, 10), 0.0).backward()
    assert kinds == [torch.bfloat16 if used else torch.float32]
    assert all(value.dtype == torch.float32 for value in training.field.state_dict().values())


def saved(field, path: Path) -> bytes:
    save_tensors(path, field.state_dict(), {})
    return path.read_bytes()


@pytest.mark.parametrize("monitor", ["error", "loss", "training_loss"])
def test_the_best_epoch_is_kept(tmp_path, monitor):
    """As if the fit had ended there."""
    config, values, states = configuration(**JUMPY, monitor=monitor), [], []

    def report(_epoch, field, scalars):
        values.append(scalars["monitored"] if scalars["crossing"] else float("inf"))
        states.append(saved(field, tmp_path / "field"))

    rounds = [ball_samples(0), ball_samples(2)]
    field = fit(config, SHELL.geometry, rounds, CPU, tmp_path / "state", report)
    best = values.index(min(values))
    assert best < len(values) - 1  # else nothing is tested
    assert saved(field, tmp_path / "field") == states[best]
    settings = config.fit.model_copy(update={"keep": "last"})
    config = config.model_copy(update={"fit": settings})
    field = fit(config, SHELL.geometry, rounds, CPU, tmp_path / "other", lambda *_: None)
    assert saved(field, tmp_path / "field") == states[-1]


@pytest.fixture(scope="module")
def jumpy(tmp_path_factory):
    """A configuration that keeps the best epoch, and the bytes of an undisturbed fit."""
    config, folder = configuration(**JUMPY), tmp_path_factory.mktemp("jumpy")
    return config, saved(run(config, folder / "state")[0], folder / "field")


@pytest.mark.parametrize("stop_at", [4, 8, 11])
def test_a_resumed_fit_keeps_the_same_bytes(tmp_path, jumpy, stop_at):
    config, whole = jumpy
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "cut", stop_at=stop_at)
    assert saved(run(config, tmp_path / "cut")[0], tmp_path / "field") == whole
    # the fit was over, and its field not yet written
    assert saved(run(config, tmp_path / "cut")[0], tmp_path / "field") == whole


def test_a_best_epoch_that_does_not_fit_is_named(tmp_path):
    config = configuration(**JUMPY)
    run(config, tmp_path / "state")
    tensors, about = load_tensors(tmp_path / "state")
    name = next(name for name in tensors if name.startswith("best.mlp"))
    for value in (tensors[name][:1], torch.full_like(tensors[name], torch.nan)):
        save_tensors(tmp_path / "state", tensors | {name: value}, about)
        with pytest.raises(InputError, match="not a state of this configuration, or damaged"):
            run(config, tmp_path / "state")
    del about["least"]
    save_tensors(tmp_path / "state", tensors, about)
    with pytest.raises(InputError, match="least"):
        run(config, tmp_path / "state")


def test_a_state_from_before_there_was_a_best_goes_on(tmp_path):
    run(configuration(), tmp_path / "state")
    tensors, about = load_tensors(tmp_path / "state")
    assert "least" not in about and not any(name.startswith("best") for name in tensors)
    assert Training.load(tmp_path / "state", configuration(), SHELL.geometry, CPU).epoch == 12


def test_the_published_fit_to_points_keeps_the_best():
    assert load_config("deepsdf_points").fit.keep == "best"
    assert load_config("deepsdf_points").fit.monitor == "loss"
