"""What scripts/compare.py compares."""

from dataclasses import dataclass

from dss.experiments.compare import Draco, Entry, Fitted, Published, Request

THINGI32 = ("53159", "252119", "64764", "75656", "76277", "78671", "92880", "96481")  # those at hand, see data/README.md
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
    meshes: tuple[str, ...]
    entries: tuple[Entry, ...]
    request: Request
    note: str  # printed under the tables
    tables: dict[str, tuple[str, ...]] | None = None  # title and methods of each; None: one of all
    published: dict[str, Published] | None = None  # by method


def _quick(name: str, config: str = "", *overrides: str) -> Fitted:
    """Four million samples for every method: eight epochs of the same half million."""
    return Fitted(name, config, ("samples.count=500000", "fit.epochs=8", "fit.resample=8", "fit.checkpoint=8", *overrides))


QUICK = Preset(
    THINGI32[:3],
    (
        _quick("fast"),
        # `pairs` expands a count of 60,000 per technique to about half a million
        _quick("dss_2x128", "", "samples.count=60000", "fit.batch=2048"),
        _quick("neural_implicit_8x32", "", "fit.batch=1024", "fit.rate=3e-3", "fit.schedule=cosine"),
        _quick("key_spheres", "", "fit.batch=512", "fit.rate=1.5e-2", "fit.schedule=cosine", "fit.starts=1"),
        _quick("key_spheres_latent", "", "fit.batch=512", "fit.rate=1.5e-2", "fit.schedule=cosine", "fit.starts=1"),
        *(_quick(f"nglod_{lods}", "", "fit.batch=4096", "fit.rate=4e-3", "fit.schedule=cosine") for lods in (1, 2, 3)),
        _quick("deepsdf_points", "", "samples.points=5000", "samples.count=83", "samples.uniform=0.2", "field.width=128",
               "field.dropout=0", "field.activation=silu", "fit.loss=l2", "fit.batch=2048", "fit.rate=1e-3",
               "fit.schedule=cosine"),  # fmt: skip
        *CLASSIC,
    ),
    Request(128, 4, 192),
    "Every fit saw about four million samples, far fewer than published, with other batches and rates (dss/presets.py): this shows the "
    "methods' character, not their best. Meshed at 128, SSIM from 4 views of 192 x 192 pixels on white.",
)

PAPER = Preset(
    THINGI32,
    tuple(
        Fitted(name)
        for name in ("dss_1x128", "dss_2x128", "dss_4x128", "nglod_3", "nglod_4", "nglod_5", "dss_2x128_128", "dss_2x128_1024",
                     "dss_4x128_128", "dss_4x128_1024", "fast")
    ),  # fmt: skip
    Request(),
    "Every method at the length that was published for it, all on one frame (smallest enclosing ball of radius 0.9). Published rows are "
    "means over all 32 meshes and copied as they stand: those of NGLOD were taken on meshes of radius 1, where the same error counts 1.23 "
    "times in chamfer, and all contain a sampling floor of about 2.2e-05. KiB of the published DSS rows do not count as ours "
    "(the released network is smaller).",
    {
        "Table I, 512 spheres": ("dss_1x128", "dss_2x128", "dss_4x128", "nglod_3", "nglod_4", "nglod_5", "fast"),
        "Table II, number of spheres": ("dss_2x128_128", "dss_2x128", "dss_2x128_1024", "dss_4x128_128", "dss_4x128", "dss_4x128_1024"),
    },
    {
        "dss_1x128": Published("DSS 1x128", 125, 2.81e-5, 0.965),
        "dss_2x128": Published("DSS 2x128", 189, 2.53e-5, 0.978, 0.0344),
        "dss_4x128": Published("DSS 4x128", 318, 2.49e-5, 0.982, 0.0344),
        "nglod_3": Published("NGLOD-3", 202, 2.99e-5, 0.963),
        "nglod_4": Published("NGLOD-4", 657, 2.73e-5, 0.980),
        "nglod_5": Published("NGLOD-5", 2446, 2.71e-5, 0.988),
        "dss_2x128_128": Published("DSS 2x128, 128 spheres", 141, 3.30e-5, 0.962, 0.0674),
        "dss_2x128_1024": Published("DSS 2x128, 1024 spheres", 253, 2.51e-5, 0.980, 0.0279),
        "dss_4x128_128": Published("DSS 4x128, 128 spheres", 270, 2.99e-5, 0.973, 0.0674),
        "dss_4x128_1024": Published("DSS 4x128, 1024 spheres", 382, 2.45e-5, 0.989, 0.0279),
    },
)

PRESETS = {"quick": QUICK, "paper": PAPER}
