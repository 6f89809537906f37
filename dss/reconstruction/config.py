"""Configuration of surfaces from images; read, checked and overridden as that of meshes (dss/config.py).

The defaults are NeuS as published (sphere_guided_neus.md, section 6).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SceneConfig:
    path: str = ""  # a folder in the NeRF-synthetic or the DTU layout
    downscale: int = 1  # each pixel is the mean of downscale x downscale pixels of the files
    background: Literal["white", "black", "random"] = "white"  # behind the object; random: in training, else white
    bounds: str = "auto"  # of the object, "x y z radius" in the scene's units; auto: the scene's own, else the masks' visual hull
    test_every: int = 0  # DTU: every n-th picture is for the test; 0: all are for both


@dataclass(frozen=True)
class ModelConfig:
    method: Literal["neus", "volsdf", "unisurf"] = "neus"  # a module of dss/views/models
    encoding: Literal["frequency", "hash"] = "frequency"  # of the points
    octaves: int = 6  # `frequency`
    levels: int = 16  # `hash`, each with two features per entry
    table: int = 19  # `hash`: log2 of the entries per level
    base: int = 32  # `hash`: cells per axis of the coarsest level
    growth: float = 1.3195  # `hash`: of the cells per axis from level to level
    layers: int = 8  # hidden layers of the distance network
    width: int = 256  # of each
    start: float = 0.5  # radius of the sphere that the distance begins with
    skip: int = 4  # layer that gets the encoded point again; 0: none
    feature: int = 256  # floats that the distance network passes to the colour network
    colour_layers: int = 4  # hidden layers of the colour network
    colour_width: int = 256
    sharpness: float = 0.3  # `neus`: v to begin with; the sharpness is exp(10 v)
    beta: float = 0.1  # `volsdf`: width of the Laplace distribution to begin with
    interval_first: float = 2.0  # `unisurf`: half the interval of samples about the surface to begin with,
    interval_last: float = 0.1  # and after `train.anneal` steps


@dataclass(frozen=True)
class SamplerConfig:
    method: Literal["uniform", "occupancy", "shell", "sphere_cloud"] = "uniform"  # a class of dss/views/samplers
    coarse: int = 64  # `uniform`, `sphere_cloud`: evenly spaced samples per ray
    fine: int = 64  # `uniform`, `sphere_cloud`: samples that the model's up-sampling adds, or puts in their place
    rounds: int = 4  # `uniform`, `sphere_cloud`: of up-sampling; `unisurf`: of the search for the surface
    step: float = 3.4e-3  # `occupancy`, `shell`: length of a section at most, in unit coordinates
    grid: int = 128  # `occupancy`: cells per axis
    refresh: int = 16  # `occupancy`: steps between updates of the grid
    threshold: float = 1e-3  # `occupancy`: opacity of a section above which a cell is occupied
    after: int = 60_000  # `shell`: steps with `uniform` before the first shell is built; `sphere_cloud`: before the spheres move
    rebuild: int = 60_000  # `shell`: steps between shells; the finished model gets one of its own
    spheres: int = 512  # `shell`, `sphere_cloud`
    resolution: int = 256  # `shell`: marching-cubes cells per axis of the surface that the shell is made for
    eps: float = 1e-3  # `shell`, `sphere_cloud`: opacity that may be lost outside the band
    radius_first: float = 0.4  # `sphere_cloud`: of all spheres, to begin with
    radius_last: float = 0.04  # `sphere_cloud`: the least one
    shrink: float = 2.5e-5  # `sphere_cloud`: share of the radius lost per step
    wander: int = 5000  # `sphere_cloud`: steps between searches for spheres that left the unit ball
    resample: int = 50_000  # `sphere_cloud`: steps between searches for spheres without surface
    repulsion: float = 1e-4  # `sphere_cloud`: its weight beside the attraction's 1
    sphere_rate: float = 1e-4  # `sphere_cloud`: learning rate of the centres


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 300_000
    batch: int = 512  # rays per step
    samples: int = 0  # sections per step that the number of rays is adapted to; 0: `batch` rays always
    most: int = 8192  # rays per step, where they are adapted
    pixels: Literal["photo", "scene"] = "photo"  # the rays of a step come from one photo, or from all
    rate: float = 5e-4  # highest learning rate, of Adam
    sharpness_rate: float = 1.0  # of the sharpness, as a multiple of `rate`
    warm_up: int = 5000  # steps of its linear rise
    fall: Literal["cosine", "exponential"] = "cosine"  # that follows
    floor: float = 0.05  # where it ends, as a share of `rate`
    colour: Literal["l1", "l2"] = "l1"  # loss
    masked: bool = False  # colours count inside the masks only
    colour_weight: float = 1.0
    mask_weight: float = 0.0  # of the cross entropy between opacity and mask
    eikonal_weight: float = 0.1
    smooth_weight: float = 0.0  # of the difference between normals at the surface and beside it
    anneal: int = 50_000  # steps over which `neus` comes to use true angles, and `unisurf` its last interval; 0: from the start
    checkpoint: int = 5000  # steps between resumable states, and pictures for TensorBoard


@dataclass(frozen=True)
class RenderConfig:
    stop: float = 0.0  # transmittance below which a ray ends; 0: never, as published
    chunk: int = 4096  # rays at once


@dataclass(frozen=True)
class ViewsConfig:
    seed: int = 0
    scene: SceneConfig = SceneConfig()
    model: ModelConfig = ModelConfig()
    sampler: SamplerConfig = SamplerConfig()
    train: TrainConfig = TrainConfig()
    render: RenderConfig = RenderConfig()
