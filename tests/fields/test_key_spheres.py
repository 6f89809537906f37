"""Key Spheres against its formula, the published scores of its authors' networks, and bad files."""

import pickle  # noqa: TID251 (to write what must not be read)
from pathlib import Path

import numpy as np
import pytest
import torch

from dss.checkpoint import save_tensors
from dss.config import FitSettings, MeshConfig, SpheresSettings
from dss.errors import InputError
from dss.evaluation.geometry import inside, iou
from dss.fields.key_spheres import KeySpheresField, KeySpheresSettings, read_spheres
from dss.fitting.fit import fit
from dss.fitting.samples import Samples
from dss.geometry.distance import MeshDistance
from dss.geometry.mesh import load_mesh

# IoU of 1e5 points, percent, as its authors report it (docs/method.md, section 10)
SCORES = {"252119": 95.0, "64764": 98.7, "76277": 97.6, "92880": 97.4, "96481": 98.9}
FEATURES = ["shared", "latent", "folded"]


def make(count: int = 9, **settings) -> KeySpheresField:
    torch.manual_seed(0)
    return KeySpheresField(KeySpheresSettings(**settings), {"spheres": torch.rand(count, 4) - 0.5})


def cube(count: int = 200) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1


def own_features(field: KeySpheresField) -> list[torch.Tensor]:
    """What every sphere knows, one by one."""
    if field.settings.features == "latent":
        return list(field.latents)
    return [
        field.shared.weight @ sphere + field.shared.bias if hasattr(field, "shared") else sphere
        for sphere in field.spheres
    ]


def theirs(field: KeySpheresField) -> dict:
    """A field as the authors' code stores it."""
    state = field.state_dict()
    part = {
        "net": {
            "model." + name.removeprefix("mlp."): value
            for name, value in state.items()
            if name.startswith("mlp.")
        }
    }
    if field.settings.features == "latent":
        part["spherelatent"] = state["latents"]
    else:
        part["sphereNet"] = {
            "model.0.weight": state["shared.weight"],
            "model.0.bias": state["shared.bias"],
        }
    return part | {"sphere32": state["spheres"]}


def store(tree: object, path: Path) -> Path:
    torch.save(tree, path)  # noqa: TID251
    return path


@pytest.mark.parametrize("features", FEATURES)
def test_the_formula_point_by_point(features):
    field = make(features=features, layers=2, width=8)
    for x in cube(20):
        distances = [(x - sphere[:3]).norm() for sphere in field.spheres]
        value = torch.cat(
            [
                x,
                sum(d * feature for d, feature in zip(distances, own_features(field), strict=True))
                / sum(distances),
            ]
        )
        for layer in field.mlp[:-2:2]:
            value = torch.nn.functional.leaky_relu(layer.weight @ value + layer.bias, 0.1)
        expected = torch.tanh(field.mlp[-2].weight @ value + field.mlp[-2].bias)
        assert field(x[None]).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("features", "count", "layers", "width", "floats"),  # docs/method.md, section 10
    [
        ("shared", 128, 6, 32, 7026),
        ("shared", 128, 4, 16, 2018),
        ("shared", 128, 10, 32, 11250),
        ("folded", 128, 6, 32, 6081),
        ("latent", 128, 6, 32, 6369 + 33 * 128),
    ],
)
def test_storage_is_as_published(features, count, layers, width, floats):
    assert (
        sum(make(count, features=features, layers=layers, width=width).storage().values())
        == 4 * floats
    )


@pytest.mark.parametrize("features", FEATURES)
def test_one_sphere_and_a_point_at_its_centre(features):
    field = make(1, features=features)
    assert field.sdf(field.spheres[:, :3]).isfinite().all()
    assert field.gradient(cube(5)).isfinite().all()


def test_gradient_equals_finite_differences():
    field, points = make().double(), cube(50).double()
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    differences = torch.stack([(field(points + h) - field(points - h)) / 2e-6 for h in step], 1)
    assert torch.allclose(field.gradient(points), differences, atol=1e-6)


@pytest.mark.parametrize("features", FEATURES)
def test_the_centres_join_every_batch_with_their_own_feature(features):
    field, points, seen = make(features=features), cube(7), []

    def error(predicted, true):
        seen.append((predicted, true))
        return (predicted - true).abs().mean()

    samples = Samples(points, torch.full((7,), -1), torch.rand(7))
    field.loss(samples, error).backward()
    predicted, true = seen[0]
    assert torch.equal(true, torch.cat([samples.sdf, field.spheres[:, 3]]))
    assert torch.allclose(predicted[:7], field(points), atol=1e-6)
    for number, sphere in enumerate(field.spheres):
        expected = field.mlp(torch.cat([sphere[:3], own_features(field)[number]]))
        assert torch.allclose(predicted[7 + number], expected[0], atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_the_authors_networks_score_as_published(data, name):
    mesh = load_mesh(data / "thingi32" / f"{name}.ply")
    path = data / "key_spheres" / "models" / f"128_6_32_{name}.pth"
    field, folded = (
        KeySpheresField.from_weights(path, KeySpheresSettings(features=features), {})
        for features in ("shared", "folded")
    )
    points = np.random.default_rng(0).uniform(-1, 1, (100_000, 3))
    distance = MeshDistance(mesh.vertices, mesh.faces)
    assert 100 * iou(inside(field, points), inside(distance, points)) == pytest.approx(
        SCORES[name], abs=0.4
    )

    spheres = torch.from_numpy(
        read_spheres(data / "key_spheres" / "insphere128" / f"{name}.txt")
    ).float()
    assert torch.equal(field.spheres[:, :3], spheres[:, :3])
    # they asked again, too
    assert torch.allclose(field.spheres[:, 3], distance.sdf(spheres[:, :3]), atol=1e-6)

    assert (
        sum(parameter.numel() for parameter in field.parameters())
        - sum(parameter.numel() for parameter in folded.parameters())
        == 945
    )
    points = torch.from_numpy(points[:20_000]).float()
    assert (field.sdf(points) - folded.sdf(points)).abs().max() < 1e-6


def test_every_sphere_file_is_read(data):
    for path in (data / "key_spheres").glob("*sphere*/*.txt"):
        spheres = read_spheres(path)
        assert (
            len(spheres) == int(path.parent.name[-3:])
            and np.abs(spheres[:, :3]).max() <= 1
            and spheres[:, 3].min() >= 0
        )


@pytest.mark.parametrize("features", FEATURES)
def test_weights_of_any_size_come_back(tmp_path, features):
    settings = KeySpheresSettings(features=features, layers=3, width=7)
    field = make(5, features="latent" if features == "latent" else "shared", layers=3, width=7)
    points = cube()
    imported = KeySpheresField.from_weights(
        store(theirs(field), tmp_path / "net.pth"), settings, {}
    )
    assert (
        imported.settings == settings
        and (imported.sdf(points) - field.sdf(points)).abs().max() < 1e-6
    )
    save_tensors(tmp_path / "field.safetensors", field.state_dict(), {})  # as a run stores it
    assert torch.equal(
        KeySpheresField.from_weights(tmp_path / "field.safetensors", settings, {}).sdf(points),
        imported.sdf(points),
    )


class Harmful:
    """What a plain unpickler would run."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def _truncated(tree: dict, path: Path) -> None:
    store(tree, path)
    path.write_bytes(path.read_bytes()[:3000])


BAD_WEIGHTS = {
    "missing": (lambda tree, path: None, "not a file of plain tensors"),
    "text": (lambda tree, path: path.write_text("hello"), "not a file of plain tensors"),
    "truncated": (_truncated, "not a file of plain tensors"),
    "code": (
        lambda tree, path: store(tree | {"net": Harmful()}, path),
        "not a file of plain tensors",
    ),
    "pickle": (
        lambda tree, path: path.write_bytes(pickle.dumps(Harmful())),
        "not a file of plain tensors",
    ),
    "number": (lambda tree, path: store(tree | {"epoch": 3}, path), r"holds a int \(epoch\)"),
    "list": (lambda tree, path: store([tree], path), r"holds a list \(at its top\)"),
    "no spheres": (lambda tree, path: store({"net": tree["net"]}, path), "no sphere32"),
    "sphere columns": (
        lambda tree, path: store(tree | {"sphere32": torch.rand(9, 3)}, path),
        "no sphere32 of 4 columns",
    ),
    "no matrix of spheres": (
        lambda tree, path: store(tree | {"sphere32": torch.tensor(1.0)}, path),
        "no sphere32 of 4 columns",
    ),
    "no map": (
        lambda tree, path: store({"net": tree["net"], "sphere32": tree["sphere32"]}, path),
        "shared.weight is missing",
    ),
    "more": (
        lambda tree, path: store(tree | {"extra": torch.rand(2)}, path),
        r"extra is \(2,\), not there",
    ),
    "other width": (
        lambda tree, path: store(theirs(make(width=16)), path),
        r"mlp.0.weight is \(16, 32\), not \(32, 32\); set field",
    ),
    "not finite": (
        lambda tree, path: store(tree | {"sphere32": torch.full((9, 4), torch.nan)}, path),
        "NaN",
    ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weight_files_are_named_and_never_run(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    damage, message = BAD_WEIGHTS[case]
    damage(theirs(make()), tmp_path / "net.pth")
    with pytest.raises(InputError, match=f"net.pth.*{message}") as error:
        KeySpheresField.from_weights(tmp_path / "net.pth", KeySpheresSettings(), {})
    assert "\n" not in str(error.value) and not (tmp_path / "harm").exists()


def sphere_text(count: int, rows: int, row: str = "64 32 96 6.4 0") -> str:
    return "\n".join([str(count), *[row] * rows, "0", ""])


def test_a_sphere_file_maps_to_the_frame(tmp_path):
    (tmp_path / "s.txt").write_text(sphere_text(2, 2))
    assert np.array_equal(read_spheres(tmp_path / "s.txt"), [[0, -0.5, 0.5, 0.1]] * 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such sphere file"),
        ("", "not a sphere file"),
        (sphere_text(3, 2), "says 3 spheres and holds 2"),
        (sphere_text(2, 3), "says 2 spheres and holds 3"),
        (sphere_text(0, 0), "says 0 spheres"),
        (sphere_text(2, 2)[:-8], "says 2 spheres and holds 1"),
        (sphere_text(2, 2, "64 32 x 6.4 0"), "not a sphere file"),
        (sphere_text(2, 2, "64 32 nan 6.4 0"), "NaN"),
        (sphere_text(2, 2, "64 32 96 -6.4 0"), "negative radius"),
    ],
)
def test_bad_sphere_files_are_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "s.txt").write_text(text)
    with pytest.raises(InputError, match=f"s.txt.*{message}"):
        read_spheres(tmp_path / "s.txt")


@pytest.mark.parametrize("features", FEATURES)
def test_a_ball_is_learnt(tmp_path, ball, features):
    (tmp_path / "s.txt").write_text(sphere_text(3, 3, "64 32 96 6.4 0"))
    ball.export(tmp_path / "ball.ply")
    mesh = load_mesh(tmp_path / "ball.ply", 0.6)
    distance = MeshDistance(mesh.vertices, mesh.faces)
    options = FitSettings(
        epochs=9,
        batch_size=256,
        optimizer="adam",
        lr=5e-3,
        latent_lr_ratio=1,
        band=0,
        starts=2,
        start_epochs=2,
    )
    sdf = 0.1 * torch.randn(10_000, generator=torch.Generator().manual_seed(2))
    points = torch.nn.functional.normalize(cube(len(sdf)), dim=1) * (0.6 + sdf)[:, None]
    samples = Samples(points, torch.full((len(points),), -1), sdf)
    for file, spheres in (
        (str(tmp_path / "s.txt"), SpheresSettings()),
        ("", SpheresSettings(method="farthest", count=6, resolution=64)),
    ):
        settings = KeySpheresSettings(features=features, layers=2, width=24, sphere_file=file)
        config = MeshConfig(field=settings, fit=options, spheres=spheres)
        geometry = KeySpheresField.build_geometry(mesh, distance, config)
        assert len(geometry["spheres"]) == (3 if file else 6)
        assert torch.allclose(
            geometry["spheres"][:, 3], geometry["spheres"][:, :3].norm(dim=1) - 0.6, atol=1e-3
        )
        seen = []
        field = fit(
            config,
            geometry,
            [samples],
            torch.device("cpu"),
            tmp_path / "none",
            lambda epoch, *_, seen=seen: seen.append(epoch),
        )
        assert seen == list(range(3, 10))  # two epochs were its trial
        near = samples.sdf.abs() < 0.05
        assert (field(points) - samples.sdf)[near].abs().mean() < 0.012
