"""The training loop, the same for every field: samples in, fitted field out, resumable to the same result."""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dss.config import Config, FitConfig
from dss.errors import InputError
from dss.fields import Field, build
from dss.fields.base import CHUNK, Geometry
from dss.fitting.samples import Samples
from dss.run import load_tensors, save_tensors

WARM_UP = 0.02  # share of the fit over which the cosine schedule rises from zero
PATIENCE, PATIENT = 3, 0.1  # epochs that a field may take to cross zero; if that is more, this share of the fit
STEPS, STEP = (0.4, 0.5), 0.1  # shares of the fit after which the schedule `steps` multiplies the learning rate (DeepSDF points)
CLAMP = 0.1  # distance beyond which the loss `clamp` asks for no more (DeepSDF)
FOCUS = 50.0  # the loss `min`, also called `weighted`, weighs by exp(-FOCUS |sdf|) (Neural Implicit)
LOSSES = {
    "l1": lambda predicted, true: (predicted - true).abs(),
    "l2": lambda predicted, true: (predicted - true).square(),
    "clamp": lambda predicted, true: (predicted.clamp(-CLAMP, CLAMP) - true.clamp(-CLAMP, CLAMP)).abs(),
    "min": lambda predicted, true: (predicted - true).abs() * torch.exp(-FOCUS * true.abs()),
}
LOSSES["weighted"] = LOSSES["min"]
Report = Callable[[int, Field, dict[str, float]], None]  # (epochs done, field, scalars), after every epoch


class Training:
    """A field with its optimiser and schedule, at some epoch of some attempt: all that a checkpoint holds."""

    def __init__(self, config: Config, geometry: Geometry, device: torch.device, attempt: int = 0):
        torch.manual_seed(config.seed + 1000 * attempt)
        self.attempt, self.epoch, self.rate = attempt, 0, config.fit.rate
        self.config, self.device = config.fit, device
        self.field = build(config.field, geometry).to(device)
        self.optimizers = make_optimizers(self.field, config.fit)
        # The constants of the paper's code (dss.md, section 6).
        rule = {"cooldown": 5, "threshold": 1e-4, "threshold_mode": "abs", "min_lr": 1e-6}
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizers[0], factor=config.fit.drop, patience=config.fit.patience, **rule
        )

    def run_epoch(self, samples: Samples, holdout: Samples, generator: torch.Generator) -> dict[str, float]:
        """One pass over `samples` in an order drawn from `generator`; returns the scalars to report."""
        config = self.config
        order = torch.randperm(len(samples), generator=generator, device=self.device).split(config.batch)
        total = torch.zeros((), device=self.device)
        self.field.train()
        torch.manual_seed(generator.initial_seed())  # for dropout, so that a resumed fit draws the same
        for step, batch in enumerate(order):
            if config.schedule in FACTORS:
                self._set_rate(FACTORS[config.schedule]((self.epoch + step / len(order)) / config.epochs) * config.rate)
            loss = self._loss(Samples(samples.points[batch], samples.owner[batch], samples.sdf[batch]))
            self.field.zero_grad()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            total += loss.detach() * len(batch)
        self.field.eval()
        self.epoch += 1
        mean, rate = total.item() / len(samples), self.optimizers[0].param_groups[0]["lr"]
        if not math.isfinite(mean):
            return {"loss": mean, "error": mean, "rate": rate, "crossing": False}
        with torch.no_grad():
            chunks = zip(holdout.points.split(CHUNK), holdout.owner.split(CHUNK), strict=True)
            predicted = torch.cat([self.field(*chunk) for chunk in chunks])
        error = (predicted - holdout.sdf).abs().mean().item()
        if config.schedule == "plateau":
            self.plateau.step(error)
            self._set_rate(self.plateau.get_last_lr()[0])
        crossing = bool((predicted < 0).any() and (predicted > 0).any())
        return {"loss": mean, "error": error, "rate": rate, "crossing": crossing}

    def _loss(self, samples: Samples) -> Tensor:
        mixed = self.config.mixed and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return self.field.loss(samples, self._error)

    def _error(self, predicted: Tensor, true: Tensor) -> Tensor:
        error = LOSSES[self.config.loss](predicted.float(), true)
        if self.config.band > 0:
            error = error * (0.05 + torch.exp(-true.abs() / self.config.band))
        return error.mean()

    def _set_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]

    def save(self, path: Path) -> None:
        """Write the resumable state: parameters, the optimisers' moments, schedule, epoch and attempt."""
        tensors = {f"field.{name}": value for name, value in self.field.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in state.items()}
        about = {"attempt": self.attempt, "epoch": self.epoch, "plateau": self.plateau.state_dict()}
        save_tensors(path, tensors, about)

    @staticmethod
    def load(path: Path, config: Config, geometry: Geometry, device: torch.device) -> "Training":
        """Read what `save` wrote. Raises InputError where the file is damaged."""
        tensors, about = load_tensors(path)
        training = Training(config, geometry, device, about["attempt"])
        training.epoch = about["epoch"]
        training.field.load_state_dict({name.removeprefix("field."): value for name, value in tensors.items() if name.startswith("field.")})
        for number, optimizer in enumerate(training.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{number}."):
                    index, key = name.split(".")[2:]
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        training.plateau.load_state_dict(about["plateau"])
        training._set_rate(about["plateau"]["_last_lr"][0])
        return training


def fit(config: Config, geometry: Geometry, rounds: list[Samples], device: torch.device, state_path: Path, report: Report) -> Field:
    """Fit the configured field, which stands on `geometry`, to `rounds` of samples, one round per `fit.resample` epochs.

    Resumes from `state_path` where it exists, and writes it every `fit.checkpoint` epochs. Begins with the best of
    `fit.starts` initialisations. Starts afresh, at most `fit.restarts` times, after a non-finite loss or where the field
    has one sign on all held-out samples; then raises InputError.
    """

    @functools.lru_cache(1)
    def parts(number: int) -> tuple[Samples, Samples]:
        whole = config.samples.method == "oriented"  # then the same points of the cloud are held out of all rounds
        return split(rounds[number].to(device), config.fit.holdout, config.seed + (0 if whole else number), whole)

    def advance(training: Training) -> dict[str, float]:
        generator = torch.Generator(device).manual_seed(config.seed + 1000 * training.attempt + 1_000_000 * training.epoch)
        return training.run_epoch(*parts(min(training.epoch // config.fit.resample, len(rounds) - 1)), generator)

    def trial(training: Training) -> tuple[bool, float]:
        scalars = {"crossing": False, "error": 0.0}  # a fit of one epoch has none for trials
        for _ in range(min(config.fit.start_epochs, config.fit.epochs - 1)):
            scalars = advance(training)
        return not scalars["crossing"], scalars["error"]

    if state_path.is_file():
        training = Training.load(state_path, config, geometry, device)
    else:
        starts = [Training(config, geometry, device, attempt) for attempt in range(config.fit.starts)]
        training = min(starts, key=trial) if len(starts) > 1 else starts[0]
    while training.epoch < config.fit.epochs:
        scalars = advance(training)
        finite = math.isfinite(scalars["loss"])
        alive = finite and (scalars["crossing"] or training.epoch < max(PATIENCE, PATIENT * config.fit.epochs))
        if alive and training.epoch % config.fit.checkpoint == 0:
            training.save(state_path)
        report(training.epoch, training.field, scalars)
        if not alive:
            attempt = max(training.attempt + 1, config.fit.starts)
            if attempt == config.fit.starts + config.fit.restarts:
                what = "the field has no surface" if finite else "the loss is not finite"
                raise InputError(f"epoch {training.epoch}: {what}, also after {config.fit.restarts} restarts; lower fit.rate")
            training = Training(config, geometry, device, attempt)
    return training.field


def make_optimizers(field: Field, config: FitConfig) -> list[torch.optim.Optimizer]:
    """Adam for every parameter; with `muon`, hidden matrices are taught by Muon instead (Jordan et al. 2024).

    A group's `scale` multiplies the scheduled learning rate.
    """
    muon = config.optimizer == "muon"
    latents, matrices, rest = [], [], []
    for name, parameter in field.named_parameters():
        hidden = muon and parameter.ndim == 2 and len(parameter) > 1
        (latents if name == "latents" else matrices if hidden else rest).append(parameter)
    groups = [{"params": rest, "scale": 1.0}, {"params": latents, "scale": config.latent_rate}]
    groups = [group | {"lr": config.rate * group["scale"]} for group in groups if group["params"]]
    result = [torch.optim.AdamW(groups, weight_decay=config.decay, fused=True)]
    if matrices:
        matrix_group = {"params": matrices, "scale": 1.0}
        result.append(torch.optim.Muon([matrix_group], config.rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    return result


def split(samples: Samples, share: float, seed: int, whole: bool = False) -> tuple[Samples, Samples]:
    """Part `samples` at random into those to learn and a `share` held out, the same for the same seed. `whole`: all samples
    of an owner go the same way."""
    count = int(samples.owner.max()) + 1 if whole else len(samples)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(samples.points.device)
    held = max(1, round(share * count))
    kept, out = order[held:], order[:held]
    if whole:
        held_out = torch.isin(samples.owner, out)
        kept, out = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    return tuple(Samples(samples.points[part], samples.owner[part], samples.sdf[part]) for part in (kept, out))


def cosine(progress: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: a short linear rise, then half a cosine down to zero."""
    return min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))


def steps(progress: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: falls by STEP after each share of STEPS."""
    return STEP ** sum(progress >= share for share in STEPS)


FACTORS = {"cosine": cosine, "steps": steps}  # schedules that only depend on the progress
