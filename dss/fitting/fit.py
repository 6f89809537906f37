"""The training loop, the same for every field: samples in, fitted field out, resumable to the same
result."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dss.checkpoint import (
    MISFITS,
    REMEDY,
    check_tensors,
    load_tensors,
    optimizer_tensors,
    part,
    restore_optimizer,
    save_tensors,
    with_prefix,
)
from dss.codec.descent import descend
from dss.codec.quantise import Quantiser
from dss.config import FitSettings, MeshConfig
from dss.errors import InputError
from dss.fields import Field, build
from dss.fields.base import CHUNK, Geometry, Samples
from dss.fitting.losses import mean_error

WARM_UP = 0.02  # share of the fit over which the cosine schedule rises from zero
# shares of the fit at which `steps` multiplies the learning rate (DeepSDF)
DROPS, DROP = ((0.4, 0.5), 0.1)
# A field may have one sign on all held-out samples for this many epochs, or for this share of the
# fit.
MIN_PATIENCE, PATIENCE = 3, 0.1
# Constants of the codes of all who use `plateau` (docs/method.md, section 6).
PLATEAU = {"threshold": 1e-4, "threshold_mode": "abs", "min_lr": 1e-6}

# (epochs done, field, scalars), after every epoch
Report = Callable[[int, Field, dict[str, float]], None]


class Rounds:
    """The rounds of samples on the device, each parted into samples to learn and samples held
    out."""

    def __init__(self, config: MeshConfig, rounds: list[Samples], device: torch.device):
        self.config, self.rounds, self.device = config, rounds, device
        self.number, self.parts = -1, None

    def at(self, epoch: int) -> tuple[Samples, Samples]:
        """What the epoch learns, and what is held out. Only the last round stays on the device."""
        number = min(epoch // self.config.fit.resample, len(self.rounds) - 1)
        if number != self.number:
            # The same points of a cloud are held out of all rounds; else every round has its own
            # split.
            by_owner = self.config.samples.method == "oriented"
            seed = self.config.seed + (0 if by_owner else number)
            samples = self.rounds[number].to(self.device)
            self.number, self.parts = (
                number,
                split(samples, self.config.fit.holdout, seed, by_owner),
            )
        return self.parts


def samples_seen(config: MeshConfig, rounds: list[Samples]) -> int:
    """How many samples the gradient of a whole fit sees, each as often as it is learnt: without
    those held out, and without the other `fit.starts`."""
    parts = Rounds(config, rounds, torch.device("cpu"))
    return sum(len(parts.at(epoch)[0]) for epoch in range(config.fit.epochs))


class _Objective(nn.Module):
    """A field's loss as the `forward` of a module, so that it can be asked with other
    parameters."""

    def __init__(self, field: Field):
        super().__init__()
        self.field = field

    def forward(self, samples: Samples, error: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return self.field.loss(samples, error)


class Training:
    """A field with its optimisers and schedule, at some epoch of some attempt: all that a
    checkpoint holds."""

    def __init__(
        self, config: MeshConfig, geometry: Geometry, device: torch.device, attempt: int = 0
    ):
        torch.manual_seed(config.seed + 1000 * attempt)
        self.config, self.seed, self.device = config.fit, config.seed, device
        self.attempt, self.epoch = attempt, 0
        # the state of the best epoch so far, and its monitored value, where `fit.keep` asks for it
        self.best, self.least = {}, math.inf
        self.field = build(config.field, geometry).to(device)
        self.optimizers = make_optimizers(self.field, config.fit)
        self.objective = _Objective(self.field)
        self.quantiser = None  # of a field that is to be coded
        if config.fit.rate_weight:
            self.quantiser = Quantiser(self.field, config).to(device)
            self.optimizers.append(_quantiser_optimizer(self.quantiser, config))
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizers[0],
            factor=config.fit.plateau_factor,
            patience=config.fit.plateau_patience,
            cooldown=config.fit.plateau_cooldown,
            **PLATEAU,
        )

    def run_epoch(self, rounds: Rounds) -> dict[str, float]:
        """One pass over the epoch's samples in an order that depends on seed, attempt and epoch;
        returns its scalars."""
        samples, holdout = rounds.at(self.epoch)
        seed = self.seed + 1000 * self.attempt + 1_000_000 * self.epoch
        generator = torch.Generator(self.device).manual_seed(seed)
        order = torch.randperm(len(samples), generator=generator, device=self.device)
        batches = order.split(self.config.batch_size)
        total = torch.zeros((), device=self.device)
        self.field.train()
        torch.manual_seed(seed)  # for dropout, so that a resumed fit draws the same
        for step, batch in enumerate(batches):
            progress = (self.epoch + step / len(batches)) / self.config.epochs
            if self.config.schedule in SCHEDULES:
                self._set_lr(SCHEDULES[self.config.schedule](progress) * self.config.lr)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = self._loss(samples[batch], progress)
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            total += loss.detach() * len(batch)
        self.field.eval()
        self.epoch += 1
        scalars = {
            "loss": total.item() / len(samples),
            "lr": self.optimizers[0].param_groups[0]["lr"],
        }
        if not math.isfinite(scalars["loss"]):
            nothing = dict.fromkeys(("error", "monitored"), scalars["loss"])
            return scalars | nothing | {"crossing": False}
        scalars |= self._held_out(holdout, scalars["loss"])
        if self.config.schedule == "plateau":
            self.plateau.step(scalars["monitored"])
            self._set_lr(self.plateau.get_last_lr()[0])
        better = scalars["crossing"] and scalars["monitored"] < self.least
        if self.config.keep == "best" and better:
            self.least = scalars["monitored"]
            self.best = {name: value.clone() for name, value in self.field.state_dict().items()}
        return scalars

    def kept(self) -> Field:
        """The field that `fit.keep` names, after the last epoch. Where none had a surface, none is
        best, and the last one is kept."""
        if self.best:
            self.field.load_state_dict(self.best)
        return self.field

    @torch.no_grad()
    def _held_out(self, holdout: Samples, training_loss: float) -> dict[str, float]:
        """The mean error on the samples held out, whether the field has both signs there, and the
        value that `fit.monitor` names."""
        chunks = zip(holdout.points.split(CHUNK), holdout.owner.split(CHUNK), strict=True)
        values, bits = self._quantised(self.epoch / self.config.epochs)
        predicted = torch.cat([functional_call(self.field, values, chunk) for chunk in chunks])
        error = (predicted - holdout.sdf).abs().mean().item()
        monitored = {
            "error": error,
            "loss": self._error(predicted, holdout.sdf).item(),
            "training_loss": training_loss,
        }[self.config.monitor]
        crossing = bool((predicted < 0).any() and (predicted > 0).any())
        scalars = {"error": error, "monitored": monitored, "crossing": crossing}
        return scalars if bits is None else scalars | {"kib": bits.item() / 8192}

    def _loss(self, samples: Samples, progress: float) -> Tensor:
        values, bits = self._quantised(progress)
        mixed = self.config.mixed_precision and multiplies_bfloat16(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            loss = functional_call(
                self.objective, with_prefix("field", values), (samples, self._error)
            )
        return loss + self.quantiser.weight(progress) * bits if self.quantiser else loss

    def _quantised(self, progress: float) -> tuple[dict[str, Tensor], Tensor | None]:
        """The parameters by name where they are not the field's own, and their bits."""
        return self.quantiser(self.field, progress) if self.quantiser else ({}, None)

    def _error(self, predicted: Tensor, true: Tensor) -> Tensor:
        return mean_error(predicted, true, self.config.loss, self.config.band)

    def _set_lr(self, lr: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["ratio"]

    def save(self, path: Path) -> None:
        """Write the resumable state: parameters, those of the best epoch, the optimisers' moments,
        schedule, epoch and attempt."""
        tensors = with_prefix("field", self.field.state_dict()) | with_prefix("best", self.best)
        if self.quantiser:
            tensors |= with_prefix("quantiser", self.quantiser.state_dict())
        for number, optimizer in enumerate(self.optimizers):
            tensors |= with_prefix(f"optimizer.{number}", optimizer_tensors(optimizer))
        about = {
            "attempt": self.attempt,
            "epoch": self.epoch,
            "plateau": self.plateau.state_dict(),
            "threads": torch.get_num_threads(),
            **({"least": self.least} if self.best else {}),
        }
        save_tensors(path, tensors, about)

    @staticmethod
    def load(
        path: Path, config: MeshConfig, geometry: Geometry, device: torch.device
    ) -> "Training":
        """Read what `save` wrote. Raises InputError where the file is damaged or of another
        configuration."""
        tensors, about = load_tensors(path)
        try:
            attempt, epoch, plateau = about["attempt"], about["epoch"], about["plateau"]
            attempts = config.fit.starts + config.fit.restarts
            whole = type(attempt) is type(epoch) is int
            if not (whole and attempt in range(attempts) and epoch in range(config.fit.epochs + 1)):
                raise ValueError(f"there is no epoch {epoch} of attempt {attempt}")
            training = Training(config, geometry, device, attempt)
            training.epoch = epoch
            own = training.plateau.state_dict()
            if {name: type(value) for name, value in plateau.items()} != {
                name: type(value) for name, value in own.items()
            }:
                raise ValueError("the state of the schedule is none")
            if best := part(tensors, "best"):
                training.best, training.least = best, float(about["least"])
            # The best one only to see that it fits, as at the end it must.
            for state in (best or part(tensors, "field"), part(tensors, "field")):
                check_tensors(training.field, state)
                training.field.load_state_dict(state)
            if training.quantiser:
                state = part(tensors, "quantiser")
                check_tensors(training.quantiser, state)
                training.quantiser.load_state_dict(state)
            for number, optimizer in enumerate(training.optimizers):
                restore_optimizer(optimizer, part(tensors, f"optimizer.{number}"))
            training.plateau.load_state_dict(plateau)
            training._set_lr(plateau["_last_lr"][0])
        except MISFITS as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: not a state of this configuration, or damaged ({reason}); {REMEDY}"
            ) from error
        return training


def fit(
    config: MeshConfig,
    geometry: Geometry,
    rounds: list[Samples],
    device: torch.device,
    state_path: Path,
    report: Report,
) -> Field:
    """Fit the configured field, built on `geometry`, to `rounds` of samples, one round per
    `fit.resample` epochs.

    Resumes from `state_path` where it exists, and writes it every `fit.checkpoint` epochs. Begins
    with the best of `fit.starts` initialisations. Starts afresh, at most `fit.restarts` times,
    after a loss that is not finite or where the field has one sign on all held-out samples; then
    raises InputError. Returns the field of the last epoch or of the best, as `fit.keep` says.

    With a `fit.rate_weight`, the field ends with parameters that are multiples of its `code_steps`.
    """
    settings, parts = config.fit, Rounds(config, rounds, device)
    if state_path.is_file():
        training = Training.load(state_path, config, geometry, device)
    else:
        training = _best_start(config, geometry, parts, device)
    while training.epoch < settings.epochs:
        scalars = training.run_epoch(parts)
        finite = math.isfinite(scalars["loss"])
        patient = training.epoch < max(MIN_PATIENCE, PATIENCE * settings.epochs)
        alive = finite and (scalars["crossing"] or patient)
        if alive and training.epoch % settings.checkpoint == 0:
            training.save(state_path)
        report(training.epoch, training.field, scalars)
        if not alive:
            attempt = max(training.attempt + 1, settings.starts)
            if attempt == settings.starts + settings.restarts:
                what = "the field has no surface" if finite else "the loss is not finite"
                raise InputError(
                    f"epoch {training.epoch}: {what}, also after {settings.restarts} restarts; "
                    "lower fit.lr"
                )
            training = Training(config, geometry, device, attempt)
    field = training.kept()
    if training.quantiser:
        training.quantiser.finish(field)
        samples, plain = (
            parts.at(settings.epochs - 1)[0],
            (settings.loss, settings.band) == ("l1", 0),
        )
        if plain and (terms := field.linear_terms(samples)):
            descend(field, terms, settings.rate_weight)
    return field


def _best_start(
    config: MeshConfig, geometry: Geometry, rounds: Rounds, device: torch.device
) -> Training:
    """The initialisation that is best after `fit.start_epochs`: one with a surface, then the least
    of what `fit.monitor` names."""
    starts = [Training(config, geometry, device, attempt) for attempt in range(config.fit.starts)]
    epochs = min(config.fit.start_epochs, config.fit.epochs - 1)
    if len(starts) == 1 or epochs == 0:
        return starts[0]
    ranks = []
    for training in starts:
        for _ in range(epochs):
            scalars = training.run_epoch(rounds)
        ranks.append((not scalars["crossing"], scalars["monitored"]))
    return starts[ranks.index(min(ranks))]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices are faster than those of float32: on CUDA, and on
    processors that have instructions for them (AVX512-BF16 or AMX)."""
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not say
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return device.type == "cuda"


def make_optimizers(field: Field, settings: FitSettings) -> list[torch.optim.Optimizer]:
    """Adam for every parameter; with `muon`, Muon for the hidden matrices instead (Jordan et al.
    2024).

    A group's `ratio` multiplies the scheduled learning rate.
    """
    muon = settings.optimizer == "muon"
    latents, matrices, rest = [], [], []
    for name, parameter in field.named_parameters():
        hidden = muon and parameter.ndim == 2 and len(parameter) > 1
        (latents if name == "latents" else matrices if hidden else rest).append(parameter)
    groups = [
        {"params": rest, "ratio": 1.0},
        {"params": latents, "ratio": settings.latent_lr_ratio},
    ]
    groups = [group | {"lr": settings.lr * group["ratio"]} for group in groups if group["params"]]
    result = [torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)]
    if matrices:
        group = {"params": matrices, "ratio": 1.0}
        muon_options = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        result.append(torch.optim.Muon([group], settings.lr, **muon_options))
    return result


def _quantiser_optimizer(quantiser: Quantiser, config: MeshConfig) -> torch.optim.Optimizer:
    lr = config.fit.lr * config.codec.lr_ratio
    group = {"params": list(quantiser.parameters()), "ratio": config.codec.lr_ratio, "lr": lr}
    return torch.optim.AdamW([group], weight_decay=0.0, fused=True)


def split(
    samples: Samples, share: float, seed: int, by_owner: bool = False
) -> tuple[Samples, Samples]:
    """Part `samples` at random into those to learn and a `share` held out, the same for the same
    seed.

    `by_owner`: all samples of an owner go the same way.
    """
    count = int(samples.owner.max()) + 1 if by_owner else len(samples)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(
        samples.points.device
    )
    size = max(1, round(share * count))
    kept, out = order[size:], order[:size]
    if by_owner:
        held_out = torch.isin(samples.owner, out)
        kept, out = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    return samples[kept], samples[out]


def cosine(progress: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: a short linear rise, then half a cosine
    down to zero."""
    return min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


def steps(progress: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: multiplied by DROP at each of DROPS."""
    return DROP ** sum(progress >= share for share in DROPS)


SCHEDULES = {"cosine": cosine, "steps": steps}  # those that depend on the progress only
