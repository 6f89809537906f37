"""What scripts/compare.py compares."""

from collections.abc import Callable
from dataclasses import dataclass

from dss.experiments import mesh_methods, photo_methods
from dss.experiments.compare import Entry, EvalSettings, Result, Row, means
from dss.experiments.mesh_methods import Draco, Fitted, Published, Truth, TunedDraco
from dss.experiments.photo_methods import EqualSeconds, Trained
from dss.registry import CONFIGS
from dss.tables import Column

MESHES = "thingi32/{}.ply"  # places in the folder of data sets, see data/README.md
SCENES = "nerf_synthetic/{}"
# The meshes of Thingi32 that data/README.md names
THINGI32 = (
    "53159",
    "252119",
    "64764",
    "75656",
    "76277",
    "78671",
    "92880",
    "96481",
)
CLASSIC = (
    Draco("Draco, 14 bits", 14),
    Draco("Draco, 11 bits", 11),
    Draco("50 % of the faces, Draco, 12 bits", 12, 0.5),
    Draco("25 % of the faces, Draco, 11 bits", 11, 0.25),
    Draco("10 % of the faces, Draco, 11 bits", 11, 0.10),
    Draco("5 % of the faces, Draco, 11 bits", 11, 0.05),
)


@dataclass(frozen=True)
class Preset:
    """Methods, what they are measured on and how, and the tables that come of it."""

    data: tuple[str, ...]  # names of meshes or scenes
    place: str  # of a name in the folder of data sets
    always: tuple[Entry, ...]  # measured whatever methods are named
    entries: tuple[Entry, ...]
    settings: EvalSettings
    columns: tuple[Column, ...]
    note: str  # printed under the tables
    tabulate: Callable[[list[Result]], dict[str, dict[str, Row]]]  # title -> rows of a table
    others: Callable[[], dict[str, Entry]]  # further methods that may be named


def one_table(measured: list[Result]) -> dict[str, dict[str, Row]]:
    """The means of all methods."""
    return {"": means(measured)}


def paper_tables(measured: list[Result]) -> dict[str, dict[str, Row]]:
    """Tables I and II of the DSS paper, with its numbers."""
    tables = {}
    for title, names in PAPER_TABLES.items():
        part = [result for result in measured if result.method in (Truth().name, *names)]
        tables[title] = mesh_methods.with_published(means(part), PUBLISHED)
    return tables


def photo_tables(measured: list[Result]) -> dict[str, dict[str, Row]]:
    """One table per scene, with speed-ups, and the paper's numbers."""
    tables = {}
    for scene in dict.fromkeys(result.data for result in measured):
        rows = means([result for result in measured if result.data == scene])
        tables[scene] = photo_methods.with_speed_ups(rows) | photo_methods.published(scene)
    return tables


def scene_tables(measured: list[Result]) -> dict[str, dict[str, Row]]:
    """One table per scene."""
    tables = {}
    for scene in dict.fromkeys(result.data for result in measured):
        tables[scene] = means([result for result in measured if result.data == scene])
    return tables


def configured_models() -> dict[str, Entry]:
    """A method for each configuration of a model of photos in configs/."""
    found = {path.stem for path in CONFIGS.glob("*.yaml")} - set(mesh_methods.configured())
    return {name: Trained(name) for name in sorted(found)}


def _quick(name: str, config: str = "", *overrides: str) -> Fitted:
    """Four million samples for every method: eight epochs of the same half million, of which
    everyone holds out as few."""
    common = ("samples.count=500000", "fit.epochs=8", "fit.resample=8", "fit.holdout=0.01")
    return Fitted(name, config, (*common, "fit.checkpoint=8", *overrides))


QUICK = Preset(
    THINGI32[:3],
    MESHES,
    (Truth(),),
    (
        _quick("fast"),
        # `pairs` expands a count of 60,000 per technique to about half a million
        _quick("dss_2x128", "", "samples.count=60000", "fit.batch_size=2048"),
        _quick(
            "neural_implicit_8x32", "", "fit.batch_size=1024", "fit.lr=3e-3", "fit.schedule=cosine"
        ),
        _quick(
            "key_spheres",
            "",
            "fit.batch_size=512",
            "fit.lr=1.5e-2",
            "fit.schedule=cosine",
            "fit.starts=1",
        ),
        _quick(
            "key_spheres_latent",
            "",
            "fit.batch_size=512",
            "fit.lr=1.5e-2",
            "fit.schedule=cosine",
            "fit.starts=1",
        ),
        *(
            _quick(f"nglod_{lods}", "", "fit.batch_size=4096", "fit.lr=4e-3", "fit.schedule=cosine")
            for lods in (1, 2, 3)
        ),
        # the network of our variant, a sixteenth of the published one's weights
        _quick(
            "DeepSDF 8x128 SiLU, 5,000 points",
            "deepsdf_points_smooth",
            "samples.points=5000",
            "samples.count=83",
            "samples.uniform_share=0.2",
            "fit.batch_size=2048",
        ),
        *CLASSIC,
    ),
    EvalSettings(128, 4, 192),
    mesh_methods.COLUMNS,
    "Every gradient saw about four million samples, far fewer than published, with other batches "
    "and rates (dss/experiments/presets.py): this shows the methods' character, not their best. "
    "Meshed at 128, SSIM from 4 views of 192 x 192 pixels on white.",
    one_table,
    mesh_methods.configured,
)

PAPER_TABLES = {
    "Table I, 512 spheres": (
        "dss_1x128",
        "dss_2x128",
        "dss_4x128",
        "nglod_3",
        "nglod_4",
        "nglod_5",
        "fast",
    ),
    "Table II, number of spheres": (
        "dss_2x128_128",
        "dss_2x128",
        "dss_2x128_1024",
        "dss_4x128_128",
        "dss_4x128",
        "dss_4x128_1024",
    ),
}
PUBLISHED = {
    "dss_1x128": Published("DSS 1x128", 125, 2.81e-5, 0.965),
    "dss_2x128": Published("DSS 2x128", 189, 2.53e-5, 0.978, 0.0344),
    "dss_4x128": Published("DSS 4x128", 318, 2.49e-5, 0.982, 0.0344),
    "nglod_3": Published("NGLOD-3", 202, 2.99e-5, 0.963, by_rays=False),
    "nglod_4": Published("NGLOD-4", 657, 2.73e-5, 0.980, by_rays=False),
    "nglod_5": Published("NGLOD-5", 2446, 2.71e-5, 0.988, by_rays=False),
    "dss_2x128_128": Published("DSS 2x128, 128 spheres", 141, 3.30e-5, 0.962, 0.0674),
    "dss_2x128_1024": Published("DSS 2x128, 1024 spheres", 253, 2.51e-5, 0.980, 0.0279),
    "dss_4x128_128": Published("DSS 4x128, 128 spheres", 270, 2.99e-5, 0.973, 0.0674),
    "dss_4x128_1024": Published("DSS 4x128, 1024 spheres", 382, 2.45e-5, 0.989, 0.0279),
}
PAPER = Preset(
    THINGI32,
    MESHES,
    (Truth(),),
    tuple(
        Fitted(name)
        for name in dict.fromkeys(name for names in PAPER_TABLES.values() for name in names)
    ),
    EvalSettings(),
    mesh_methods.COLUMNS,
    "Every method at the length that was published for it, all on one frame (smallest enclosing "
    "ball of radius 0.9). Published rows are means over all 32 meshes and copied as they stand. "
    "DSS's Chamfer is the one by rays, with a floor of about 2.25e-05. How NGLOD took its points "
    "is not said; its meshes had the radius 1, where the same error counts 1.23 times. KiB of the "
    "published DSS rows do not count as ours (docs/results.md, Published numbers).",
    paper_tables,
    mesh_methods.configured,
)

# What the bits of a rival cost, where its fit is to be coded: about its loss per bit, as ours
CODED = {"neural_implicit_8x32": "3e-8", "key_spheres": "3e-8", "key_spheres_latent": "3e-8"}
COMPACT = Preset(
    THINGI32,
    MESHES,
    (Truth(),),
    (
        *(Fitted(f"compact_{size}k") for size in (4, 8, 16, 32)),
        *(Fitted(f"compact_shell_{size}k") for size in (4, 8, 16, 32)),
        *(TunedDraco(f"Draco, tuned to {size} KB", 1024 * size) for size in (4, 8, 16, 32)),
        *(TunedDraco(f"Draco, refined, {size} KB", 1024 * size, True) for size in (4, 8, 16, 32)),
        *(
            Fitted(f"{name}, coded", name, (f"fit.rate_weight={weight}",))
            for name, weight in CODED.items()
        ),
        Fitted("fast"),
        Fitted("dss_2x128"),
    ),
    EvalSettings(512),  # a mesh of 256 cells is as far from a field of 16 KB as that from the truth
    mesh_methods.COLUMNS,
    "KiB of a coded field or mesh are those of its file, of any other those of its numbers in "
    "float32. Draco: edges are collapsed and bits per coordinate chosen for the least error in a "
    "file of that size; refined: its vertices are moved by least squares to fit the surface first. "
    "Resident is what answers a distance with its sign: the field and the tree of its shell, or "
    "the decoded mesh and a tree of boxes.",
    one_table,
    mesh_methods.configured,
)

PHOTOS = Preset(
    ("chair_400",),
    SCENES,
    (),
    tuple(
        Trained(f"{name}_tiny")
        for name in (
            "neus",
            "neus_occupancy",
            "neus_shell",
            "neus_spheres",
            "volsdf",
            "volsdf_spheres",
            "unisurf",
            "unisurf_spheres",
        )
    ),
    EvalSettings(),
    photo_methods.COLUMNS,
    "The speed-up is over the plain sampler of the same model; its factors multiply to it, and "
    "the shares are those of its "
    "logarithm. Steps and training times differ, so rows of different models are no ranking.",
    photo_tables,
    configured_models,
)

# The same steps, and as many rays of one photo per step, as guided rays need it
EQUAL = ("train.steps=3000", "train.rays=128", "train.pixels=photo")


def _equal(name: str, config: str, *overrides: str) -> Trained:
    return Trained(name, config, (*EQUAL, *overrides))


GEOMETRY = Preset(
    ("demo",),
    SCENES,
    (),
    tuple(
        _equal(
            f"{base}{kind}" + (f", seed {seed}" if seeds > 1 else ""),
            f"{base}{kind}_tiny",
            f"seed={seed}",
            *(["model.warp_start=2000"] if base == "neuralwarp" else []),
        )
        for base, seeds in (("neus", 3), ("volsdf", 1), ("unisurf", 1), ("neuralwarp", 1))
        for kind in ("", "_spheres")
        for seed in range(seeds)
    ),
    EvalSettings(),
    photo_methods.GEOMETRY_COLUMNS,
    "All had the same steps of the same number of rays. Distances are in unit coordinates, of what "
    "the cameras see (docs/photos.md).",
    scene_tables,
    configured_models,
)

PLAIN = _equal("plain", "neus_tiny")
ABLATED = (
    _equal("spheres", "neus_spheres_tiny"),
    _equal("no repulsion", "neus_spheres_tiny", "sampler.repulsion=0"),
    _equal("rays not guided", "neus_spheres_tiny", "sampler.guide_rays=false"),
    _equal("points not guided", "neus_spheres_tiny", "sampler.guide_points=false"),
    _equal("voxels", "neus_voxels_tiny"),
    _equal("radius always large", "neus_spheres_tiny", "sampler.shrink_rate=0"),
    _equal("radius always small", "neus_spheres_tiny", "sampler.radius_initial=0.15"),
)
ABLATIONS = Preset(
    ("demo",),
    SCENES,
    (),
    (PLAIN, *ABLATED, *(EqualSeconds(entry, PLAIN) for entry in ABLATED)),
    EvalSettings(),
    photo_methods.GEOMETRY_COLUMNS,
    "Each part of neus_spheres_tiny left out, with the steps of the plain sampler, and with its "
    "seconds.",
    scene_tables,
    configured_models,
)

PRESETS = {
    "quick": QUICK,
    "paper": PAPER,
    "compact": COMPACT,
    "photos": PHOTOS,
    "geometry": GEOMETRY,
    "ablations": ABLATIONS,
}
OF_PHOTOS = (PHOTOS, GEOMETRY, ABLATIONS)
