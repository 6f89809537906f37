"""The training loop of multi-view reconstruction, the same for every model and sampler.

An interrupted training resumes to the same result.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

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
from dss.config import MAX_NUMBER, PhotoConfig, TrainSettings
from dss.errors import InputError
from dss.reconstruction.models import build_model
from dss.reconstruction.models.base import Model, Step
from dss.reconstruction.ray_samples import RaySamples, ranks
from dss.reconstruction.samplers import build_sampler
from dss.reconstruction.scene import Scene
from dss.reconstruction.views import Views, bilinear
from dss.reconstruction.volume_rendering import Rendered, background_colour, render_rays

RELAXED = 1.2  # radius within which gradients are taught to have length 1
BESIDE = 0.01  # edge of the cube in which normals should agree
MIN_RAYS = 64  # rays per step, where their number is adapted
Report = Callable[["Training", dict[str, Tensor | float]], None]  # after every step


class Training:
    """A model and a sampler with the optimiser, at some step: all that a checkpoint holds."""

    def __init__(self, config: PhotoConfig, scene: Scene, device: torch.device):
        torch.manual_seed(config.seed)
        self.config, self.scene, self.device = config, scene, device
        self.step, self.rays = 0, config.train.rays
        # Spent so far, of the processor on the CPU; None: an earlier version did not count them
        self.seconds: float | None = 0.0
        self.model = build_model(config.model).to(device)
        self.sampler = build_sampler(config.sampler).to(device)
        lr, ratio = config.train.lr, config.train.sharpness_lr_ratio
        named = list(self.model.named_parameters())
        groups = [
            {"params": [value for name, value in named if name != "v"], "scale": lr},
            {"params": [value for name, value in named if name == "v"], "scale": lr * ratio},
        ]
        self.optimizer = torch.optim.Adam(groups, lr, fused=True)
        cameras = [photo.camera for photo in scene.photos]
        self.views = Views.of(cameras, scene.load().to(device))

    def run_step(self) -> dict[str, Tensor | float]:
        """One step; returns the scalars to report.

        Random numbers depend on the seed and the step alone. Raises InputError where the loss is
        not finite, or the sampler cannot go on.
        """
        train, scene = self.config.train, self.config.scene
        if not self.scene.masked:  # all pixels would be said to be the object
            train = train.model_copy(update={"mask_weight": 0.0})
        seed = self.config.seed + 1_000_003 * (self.step + 1)
        generator = torch.Generator(self.device).manual_seed(seed)
        self.model.anneal(min(1.0, self.step / train.anneal_steps) if train.anneal_steps else 1.0)
        self.sampler.prepare(self.model, self.step, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * schedule(self.step, train)

        photo, places = self._draw(generator)
        origins, directions = self.views.cameras.rays(photo, places)
        pixels = bilinear(self.views.images, photo, places)
        background = background_colour(scene, self.device)
        if scene.background == "random":
            background = torch.rand(len(origins), 3, generator=generator, device=self.device)
        samples = self.sampler.sample(self.model, origins, directions, generator)
        self.step += 1
        if train.samples:
            wanted = int(len(origins) * train.samples / max(len(samples.ray), 1))
            self.rays = min(max(wanted, MIN_RAYS), train.max_rays)
        # Nothing but background, from which there is nothing to learn unless the model has it, too
        if not len(samples.ray) and self.model.backdrop is None:
            return {"samples": 0.0}
        behind = self.model.behind(origins, directions, background, generator)
        rendered = render_rays(self.model, samples, origins, directions, behind)
        loss, scalars = losses(rendered, pixels, background, train)
        if train.eikonal_at == "spread":
            places = spread_points(rendered.points, samples.ray, len(origins), generator)
            eikonal = (slopes(self.model, places).norm(dim=1) - 1).square().mean()
            loss = loss + train.eikonal_weight * eikonal
            scalars["eikonal"] = eikonal.detach()
        if train.smooth_weight:
            roots = surface_points(rendered, samples, origins, directions)
            smooth = smoothness(self.model, roots, generator)
            loss = loss + train.smooth_weight * smooth
            scalars["smooth"] = smooth.detach()
        drawn = Step(
            self.step - 1, self.views, photo, places, samples, rendered.points, rendered.shaded,
            self.sampler, background_colour(scene, self.device),
        )  # fmt: skip
        for name, term in self.model.extra_losses(drawn).items():
            loss = loss + term
            scalars[name] = term.detach()
        if not torch.isfinite(loss):
            raise InputError(f"step {self.step}: the loss is not finite; lower train.lr")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        rays = len(origins)
        return scalars | {"samples": len(samples.ray) / rays, "rays": float(rays)}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The photo (n,) int64 and the pixel coordinates (n, 2) of each ray of a step."""
        photos, device, count = self.scene.photos, self.device, self.rays
        places = None
        if self.config.train.pixels == "photo":  # a fresh order of the photos per round, as NeuS
            seed = self.config.seed + self.step // len(photos)
            order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
            number = int(order[self.step % len(photos)])
            places = self.sampler.aim(photos[number].camera, count, generator)
            count = count if places is None else len(places)
            photo = torch.full((count,), number, device=device)
        else:
            photo = torch.randint(len(photos), (count,), generator=generator, device=device)
        if places is None:
            camera = photos[0].camera
            size = torch.tensor([camera.width, camera.height], device=device)
            places = torch.rand(count, 2, generator=generator, device=device) * size
            places = places.floor() + 0.5
        return photo, places

    def save(self, path: Path) -> None:
        """Write the resumable state."""
        tensors = self.weights() | with_prefix("optimizer", optimizer_tensors(self.optimizer))
        about = {
            "step": self.step,
            "rays": self.rays,
            "scene": self.scene.sha256,
            "threads": torch.get_num_threads(),
            "seconds": self.seconds,
        }
        save_tensors(path, tensors, about)

    def weights(self) -> dict[str, Tensor]:
        """The state of model and sampler, all that a finished training keeps."""
        model = with_prefix("model", self.model.state_dict())
        return model | with_prefix("sampler", self.sampler.state_dict())

    def load(self, path: Path) -> None:
        """Read what `save` wrote. Raises InputError where the file is damaged or of another
        configuration or scene."""
        tensors, about = load_tensors(path)
        if about.get("scene", self.scene.sha256) != self.scene.sha256:  # earlier versions lack it
            raise InputError(
                f"{path}: begun with another scene than {self.config.scene.path} is now; choose "
                "another --out, or delete it"
            )
        try:
            for name, module in (("model", self.model), ("sampler", self.sampler)):
                check_tensors(module, part(tensors, name))
            self.model.load_state_dict(part(tensors, "model"))
            self.sampler.restore(part(tensors, "sampler"))
            restore_optimizer(self.optimizer, part(tensors, "optimizer"))
            self.step, self.rays = about["step"], about["rays"]
            self.seconds = about.get("seconds")
            if self.seconds is not None and not 0 <= float(self.seconds) < MAX_NUMBER:
                raise ValueError(f"it cannot have taken {self.seconds} seconds")
            whole = type(self.step) is type(self.rays) is int
            done = whole and self.step in range(self.config.train.steps + 1)
            if not (done and self.rays in range(1, MAX_NUMBER)):
                raise ValueError(f"there is no step {self.step} of {self.rays} rays")
        except MISFITS as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: not a state of this configuration, or damaged ({reason}); {REMEDY}"
            ) from error
        self.sampler.to(self.device)


def train(
    config: PhotoConfig, scene: Scene, device: torch.device, state_path: Path, report: Report
) -> Training:
    """Train the configured model on a scene.

    Resumes from `state_path` where it exists, and writes it every `train.checkpoint` steps. Raises
    InputError where the loss is not finite, or a sampler cannot go on.
    """
    training = Training(config, scene, device)
    if state_path.is_file():
        training.load(state_path)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    while training.step < config.train.steps:
        start = clock()
        with flushed():
            scalars = training.run_step()
        if training.seconds is not None:
            training.seconds += clock() - start
        report(training, scalars)
        if training.step % config.train.checkpoint == 0:
            training.save(state_path)
    generator = torch.Generator(device).manual_seed(config.seed)
    training.sampler.finish(training.model, training.step, generator)
    return training


@contextmanager
def flushed() -> Iterator[None]:
    """Numbers next to 0 are 0: steep softplus has such slopes, which slow processors down."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def losses(
    rendered: Rendered, pixels: Tensor, background: Tensor, settings: TrainSettings
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The loss of rays with true pixels (n, 4): colours times mask, and mask.

    Its parts are returned too, for the report.
    """
    mask = pixels[:, 3]
    truth = pixels[:, :3] + (1 - mask)[:, None] * background
    counted = (mask > 0.5).float() if settings.masked else torch.ones_like(mask)
    error = (rendered.colour - truth) * counted[:, None]
    error = error.abs() if settings.colour == "l1" else error.square()
    colour = error.sum() / (counted.sum() + 1e-5)
    loss, scalars = settings.colour_weight * colour, {"colour": colour.detach()}
    if settings.eikonal_at == "samples":
        near = (rendered.points.norm(dim=1) < RELAXED).float()
        excess = rendered.shaded.gradient.norm(dim=1) - 1
        eikonal = (near * excess.square()).sum() / (near.sum() + 1e-5)
        loss = loss + settings.eikonal_weight * eikonal
        scalars["eikonal"] = eikonal.detach()
    if settings.mask_weight:
        opacity = rendered.opacity.clamp(1e-3, 1 - 1e-3)
        cross = -(mask * opacity.log() + (1 - mask) * (1 - opacity).log()).mean()
        loss = loss + settings.mask_weight * cross
        scalars["mask"] = cross.detach()
    return loss, scalars


def surface_points(
    rendered: Rendered, samples: RaySamples, origins: Tensor, directions: Tensor
) -> Tensor:
    """Where rays (n, 3) first enter the solid, (k, 3), of those that do: by a secant between the
    two samples of an interval whose distances have different signs."""
    sdf, ray, t = rendered.shaded.sdf.detach(), samples.ray, samples.middle
    same = (ray[1:] == ray[:-1]) & (samples.interval[1:] == samples.interval[:-1])
    place = ((sdf[:-1] > 0) & (sdf[1:] <= 0) & same).nonzero()[:, 0]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = ray[place[1:]] != ray[place[:-1]]
    place = place[first]
    above, below = sdf[place], sdf[place + 1]
    root = t[place] + (t[place + 1] - t[place]) * above / (above - below)
    return origins[ray[place]] + root[:, None] * directions[ray[place]]


def smoothness(model: Model, points: Tensor, generator: torch.Generator) -> Tensor:
    """The mean difference between the unit normals at points (n, 3) of the surface and beside
    them; 0 where there are none."""
    noise = torch.rand(len(points), 3, generator=generator, device=points.device) - 0.5
    gradient = slopes(model, torch.cat([points, points + BESIDE * noise]))
    one, other = (gradient / (gradient.norm(dim=1, keepdim=True) + 1e-5)).chunk(2)
    return (one - other).norm(dim=1).sum() / max(len(points), 1)


def spread_points(points: Tensor, ray: Tensor, rays: int, generator: torch.Generator) -> Tensor:
    """A random one of the points (m, 3) of each ray (m,) that has some, and points of the cube
    [-1, 1]^3, half as many as there are rays: (k, 3)."""
    device = points.device
    _, count = ranks(ray, rays)
    seen = count > 0
    chosen = torch.rand(rays, generator=generator, device=device) * count
    index = (count.cumsum(0) - count + chosen.long().minimum(count - 1))[seen]
    cube = 2 * torch.rand(-(-rays // 2), 3, generator=generator, device=device) - 1
    return torch.cat([points[index], cube])


def slopes(model: Model, points: Tensor) -> Tensor:
    """Gradients (n, 3) of the distance at points (n, 3), differentiable in the parameters."""
    points = points.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.raw_sdf(points).sum(), points, create_graph=True)
    return gradient


def schedule(step: int, settings: TrainSettings) -> float:
    """The learning rate's factor: a linear rise, then a fall to `lr_final_ratio`, which is half a
    cosine or exponential."""
    warm_up, final = settings.warm_up_steps, settings.lr_final_ratio
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(settings.steps - warm_up, 1)
    if settings.lr_decay == "exponential":
        return final**progress
    return (1 + math.cos(math.pi * progress)) / 2 * (1 - final) + final
