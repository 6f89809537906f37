"""The training loop of surfaces from images, the same for every model and sampler; resumable to the same result."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dss.errors import InputError
from dss.reconstruction.config import TrainConfig, ViewsConfig
from dss.reconstruction.models.base import Model, build_model
from dss.reconstruction.samplers.base import build_sampler
from dss.reconstruction.scene import Scene
from dss.reconstruction.volume_rendering import Rendered, render_rays
from dss.rendering.cameras import Cameras
from dss.run import load_tensors, save_tensors

RELAXED = 1.2  # radius within which gradients are taught to have length 1
BESIDE = 0.01  # edge of the cube in which normals should agree
LEAST = 64  # rays per step, where their number is adapted
BACKGROUNDS = {"white": 1.0, "black": 0.0, "random": 1.0}  # random: in training only
Report = Callable[["Training", dict[str, Tensor | float]], None]  # after every step


class Training:
    """A model and a sampler with the optimiser, at some step: all that a checkpoint holds."""

    def __init__(self, config: ViewsConfig, scene: Scene, device: torch.device):
        torch.manual_seed(config.seed)
        self.config, self.scene, self.device = config, scene, device
        self.step, self.rays = 0, config.train.batch
        self.model, self.sampler = build_model(config.model).to(device), build_sampler(config.sampler).to(device)
        rate, sharp = config.train.rate, config.train.sharpness_rate
        groups = [
            {"params": [value for name, value in self.model.named_parameters() if name != "v"], "scale": rate},
            {"params": [value for name, value in self.model.named_parameters() if name == "v"], "scale": rate * sharp},
        ]
        self.optimizer = torch.optim.Adam(groups, rate, fused=True)
        self.cameras, self.pixels = Cameras.of([photo.camera for photo in scene.photos], device), scene.load().to(device)

    def run_step(self) -> dict[str, Tensor | float]:
        """One step; returns the scalars to report. Random numbers depend on the seed and the step alone."""
        config = self.config.train
        generator = torch.Generator(self.device).manual_seed(self.config.seed + 1_000_003 * (self.step + 1))
        self.model.anneal(min(1.0, self.step / config.anneal) if config.anneal else 1.0)
        self.sampler.prepare(self.model, self.step, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * schedule(self.step, config)

        origins, directions, pixels = self._draw(generator)
        background = torch.tensor(BACKGROUNDS[self.config.scene.background], device=self.device)
        if self.config.scene.background == "random":
            background = torch.rand(len(origins), 3, generator=generator, device=self.device)
        sections = self.sampler.sections(self.model, origins, directions, generator)
        self.step += 1
        if config.samples:
            self.rays = min(max(int(len(origins) * config.samples / max(len(sections.ray), 1)), LEAST), config.most)
        if not len(sections.ray):  # nothing but background, from which there is nothing to learn
            return {"sections": 0.0}
        rendered = render_rays(self.model, sections, origins, directions, background)
        loss, scalars = losses(rendered, pixels, background, config)
        if config.smooth_weight:
            smooth = smoothness(self.model, rendered, generator)
            loss = loss + config.smooth_weight * smooth
            scalars["smooth"] = smooth.detach()
        if not torch.isfinite(loss):
            raise InputError(f"step {self.step}: the loss is not finite; lower train.rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return scalars | {"sections": len(sections.ray) / len(origins), "rays": float(len(origins))}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Origins, directions (n, 3) and pixels (n, 4) of a step."""
        photos, device = self.scene.photos, self.device
        if self.config.train.pixels == "photo":  # a fresh order of the photos per round, as NeuS
            shuffle = torch.Generator().manual_seed(self.config.seed + self.step // len(photos))
            number = int(torch.randperm(len(photos), generator=shuffle)[self.step % len(photos)])
            places = self.sampler.aim(photos[number].camera, self.rays, generator)
            photo = torch.full((self.rays if places is None else len(places),), number, device=device)
        else:
            places, photo = None, torch.randint(len(photos), (self.rays,), generator=generator, device=device)
        if places is None:
            size = torch.tensor([photos[0].camera.width, photos[0].camera.height], device=device)
            places = (torch.rand(len(photo), 2, generator=generator, device=device) * size).floor() + 0.5
        return *self.cameras.rays(photo, places), bilinear(self.pixels, photo, places)

    def save(self, path: Path) -> None:
        """Write the resumable state."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"sampler.{name}": value for name, value in self.sampler.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        save_tensors(path, tensors, {"step": self.step, "rays": self.rays})

    def load(self, path: Path) -> None:
        """Read what `save` wrote. Raises InputError where the file is damaged or of another configuration."""
        tensors, about = load_tensors(path)
        try:
            self.model.load_state_dict(part(tensors, "model."))
            self.sampler.restore(part(tensors, "sampler."))
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in part(tensors, "optimizer.").items():
                index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
            self.step, self.rays = about["step"], about["rays"]
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a state of this configuration, or damaged ({reason}); delete it to start afresh") from error
        self.sampler.to(self.device)


def train(config: ViewsConfig, scene: Scene, device: torch.device, state_path: Path, report: Report) -> Training:
    """Train the configured model on a scene. Resumes from `state_path` where it exists, and writes it every `train.checkpoint`
    steps. Raises InputError where the loss is not finite, or a sampler cannot go on."""
    training = Training(config, scene, device)
    if state_path.is_file():
        training.load(state_path)
    while training.step < config.train.steps:
        report(training, training.run_step())
        if training.step % config.train.checkpoint == 0:
            training.save(state_path)
    training.sampler.finish(training.model, training.step, torch.Generator(device).manual_seed(config.seed))
    return training


def losses(rendered: Rendered, pixels: Tensor, background: Tensor, config: TrainConfig) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The loss of rays with true pixels (n, 4): colours times mask, and mask. Its parts are returned too, for the report."""
    mask = pixels[:, 3]
    truth = pixels[:, :3] + (1 - mask)[:, None] * background
    counted = (mask > 0.5).float() if config.masked else torch.ones_like(mask)
    error = (rendered.colour - truth) * counted[:, None]
    error = error.abs() if config.colour == "l1" else error.square()
    colour = error.sum() / (counted.sum() + 1e-5)
    near = (rendered.points.norm(dim=1) < RELAXED).float()
    eikonal = (near * (rendered.shaded.gradient.norm(dim=1) - 1).square()).sum() / (near.sum() + 1e-5)
    loss = config.colour_weight * colour + config.eikonal_weight * eikonal
    scalars = {"colour": colour.detach(), "eikonal": eikonal.detach()}
    if config.mask_weight:
        opacity = rendered.opacity.clamp(1e-3, 1 - 1e-3)
        cross = -(mask * opacity.log() + (1 - mask) * (1 - opacity).log()).mean()
        loss = loss + config.mask_weight * cross
        scalars["mask"] = cross.detach()
    return loss, scalars


def smoothness(model: Model, rendered: Rendered, generator: torch.Generator) -> Tensor:
    """The mean difference between the unit normals at the points nearest to the surface, as many as rays, and beside them."""
    near = rendered.shaded.sdf.abs().topk(min(len(rendered.opacity), len(rendered.points)), largest=False, sorted=False).indices
    noise = torch.rand(len(near), 3, generator=generator, device=near.device) - 0.5
    beside = (rendered.points[near] + BESIDE * noise).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.raw_sdf(beside).sum(), beside, create_graph=True)
    one, other = (value / (value.norm(dim=1, keepdim=True) + 1e-5) for value in (rendered.shaded.gradient[near], gradient))
    return (one - other).norm(dim=1).mean()


def schedule(step: int, config: TrainConfig) -> float:
    """The learning rate's factor: a linear rise, then half a cosine or an exponential down to `floor`."""
    if step < config.warm_up:
        return (step + 1) / config.warm_up
    progress = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    if config.fall == "exponential":
        return config.floor**progress
    return (1 + math.cos(math.pi * progress)) / 2 * (1 - config.floor) + config.floor


def bilinear(images: Tensor, index: Tensor, places: Tensor) -> Tensor:
    """Values (n, c) of the images (k, h, w, c) that `index` (n,) names at continuous pixel coordinates (n, 2), x before y; exact at
    pixel centres, constant beyond the outermost ones."""
    size = torch.tensor([images.shape[2], images.shape[1]], device=images.device)
    place = (places - 0.5).clamp(min=0).minimum((size - 1).to(places))
    low = place.floor().long()
    high = (low + 1).minimum(size - 1)
    x, y = (place - low).to(images).split(1, dim=1)
    top, bottom = (images[index, row, low[:, 0]] * (1 - x) + images[index, row, high[:, 0]] * x for row in (low[:, 1], high[:, 1]))
    return top * (1 - y) + bottom * y


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
