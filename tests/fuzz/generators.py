"""Hypothesis strategies of hostile and of merely odd inputs, as cases for `tests.fuzz.judge`."""

import functools
import io
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import igl
import numpy as np
import torch
import trimesh
import yaml
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.judge import Case, judge
from tests.helpers import write_synthetic

CONFIG = {
    "mesh": {"path": "mesh.ply"},
    "spheres": {"method": "farthest", "resolution": 32, "count": 8},
    "samples": {"count": 500},
    "field": {"method": "dual_shell", "width": 8, "latent": 2, "octaves": 2},
    "fit": {"epochs": 2, "resample": 2, "batch_size": 512, "checkpoint": 10},
}
CLOUD_CONFIG = {
    "samples": {"method": "oriented", "count": 4},
    "field": {"method": "deepsdf", "width": 8},
    "fit": CONFIG["fit"] | {"loss": "clamp", "mixed_precision": False},
}
NETWORK = {"layers": 2, "width": 8, "skip": 0, "feature": 2, "colour_layers": 1, "colour_width": 8}
SCENE_CONFIG = {
    "scene": {"path": "scene"},
    "model": NETWORK,
    "sampler": {"method": "uniform", "coarse": 4, "fine": 4, "rounds": 1},
    "train": {"steps": 1, "rays": 8, "warm_up_steps": 1, "anneal_steps": 1},
}
FORMATS = ("obj", "stl", "ply", "off", "glb", "3mf")
TOLERANCE = 2e-3  # of distances, in normalised units: files in single precision
TRAIN = ["train", "--config", "tiny.yaml", "--out", "run"]
NUMBERS = (
    *("nan", "inf", "-1", "0", "1e400", "-1e-400", "1" + "0" * 400, "9" * 20, "2147483648"),
    *("", "x", "1,5", "0x10", "1_000", "--1", "１", "\0", "true", "[" * 2000, "4294967297"),
)
SCALARS = (
    *("2020-01-01", "9" * 5000, "1e400", ".nan", "-.inf", "!!float abc", "!!int x", "!!set {a}"),
    *("!!python/object/apply:os.system [ls]", "!!binary aaaa", "[]", "{}", "[1, 2]", "{a: 1}"),
    *("~", "yes", "0", "-1", "1e12", "1e13", "0x1f", "1_000", "12:30:45", "&a [*a]", "*b", "''"),
    *("[" * 5000, "{" * 500, "? ? a", "- - a", "'\\0'", '"\\uD800"', "ü", "<<", "|", "%", "@", "`"),
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def configured(folder: Path, config: dict) -> None:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))


def damages() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Changes of a file's bytes, the same each time."""
    places = st.floats(0, 1)

    def change(what: str, at: float, size: int, number: str) -> Callable[[bytes], bytes]:
        def changed(content: bytes) -> bytes:
            start = min(int(at * len(content)), max(len(content) - 1, 0))
            before, middle, after = (
                content[:start],
                content[start : start + size],
                content[start + size :],
            )
            match what:
                case "truncate":
                    return before
                case "flip":
                    return (
                        before
                        + bytes(byte ^ (1 << size % 8) for byte in middle[:1])
                        + middle[1:]
                        + after
                    )
                case "remove":
                    return before + after
                case "repeat":
                    return before + middle * 3 + after
                case "zero":
                    return before + bytes(len(middle)) + after
                case "ones":
                    return before + b"\xff" * len(middle) + after
                case "number":  # in the place of one that is there
                    tail = content[start:]
                    words = tail.split(maxsplit=2)
                    return before + b" " + number.encode() + b" " + b" ".join(words[1:])
                case "append":
                    return content + middle * 1000
            raise AssertionError(what)

        changed.__name__ = f"{what} {size} bytes at {at:.3f} {number[:20]}"
        return changed

    kinds = ("truncate", "flip", "remove", "repeat", "zero", "ones", "number", "append")
    return st.builds(
        change, st.sampled_from(kinds), places, st.integers(1, 64), st.sampled_from(NUMBERS)
    )


# Meshes


def solids() -> dict[str, trimesh.Trimesh]:
    """Closed meshes whose inside is not in doubt."""
    ball, box = trimesh.creation.icosphere(2), trimesh.creation.box((3, 2, 1))
    ring, cup = trimesh.creation.annulus(0.5, 1, 0.7), trimesh.creation.torus(1, 0.4, 16, 12)
    two = trimesh.util.concatenate([ball, ball.copy().apply_translation((3, 0.2, 0))])
    shell = trimesh.util.concatenate([ball, inverted(ball.copy().apply_scale(0.6))])
    rod = trimesh.creation.cylinder(0.05, 2, sections=16)
    return {
        "ball": ball,
        "box": box,
        "ring": ring,
        "torus": cup,
        "two": two,
        "hollow": shell,
        "rod": rod,
    }


def inverted(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    mesh.invert()
    return mesh


def dirt(what: str, mesh: trimesh.Trimesh, seed: int) -> trimesh.Trimesh:
    """The same solid as another program might have written it."""
    generator = np.random.default_rng(seed)
    vertices, faces = np.array(mesh.vertices), np.array(mesh.faces)
    bodies = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(faces))
    match what:
        case "inside out":
            faces = faces[:, ::-1]
        case "one body inside out":
            faces[bodies == 0] = faces[bodies == 0][:, ::-1]
        case "some faces turned":
            turned = generator.random(len(faces)) < 0.3
            faces[turned] = faces[turned][:, ::-1]
        case "soup":
            vertices, faces = vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)
        case "repeated faces":
            faces = np.concatenate([faces, faces[generator.integers(len(faces), size=9)]])
        case "faces without area":
            corner = generator.integers(len(vertices), size=(5, 1))
            faces = np.concatenate([faces, np.repeat(corner, 3, 1)])
        case "a far vertex without faces":
            vertices = np.concatenate([vertices, [[1e3, -2e3, 5e2]]])
        case "another order":
            faces = np.roll(faces[generator.permutation(len(faces))], seed % 3, axis=1)
    return trimesh.Trimesh(vertices, faces, process=False)


DIRT = (
    *("as it is", "inside out", "some faces turned", "soup", "repeated faces"),
    *("faces without area", "a far vertex without faces", "another order"),
)
WRONG = {  # what a mesh must not be, with the faces that are left
    "empty": lambda mesh: mesh.faces[:0],
    "one face": lambda mesh: mesh.faces[:1],
    "a sheet": lambda mesh: mesh.faces[mesh.face_normals[:, 2] > 0.999],
}


def exported(mesh: trimesh.Trimesh, form: str) -> bytes:
    content = mesh.export(file_type=form)
    return content.encode() if isinstance(content, str) else content


def same_solid(mesh: trimesh.Trimesh) -> Callable[[Path], str]:
    """Whether the samples of a run lie as deep in the solid as libigl says."""

    def check(folder: Path) -> str:
        from dss.run import load_samples

        source, _, rounds = load_samples(folder / "run")
        points = source.similarity.apply(rounds[0].points.double().numpy()[:200])
        distance = igl.signed_distance(points, np.array(mesh.vertices), np.array(mesh.faces))[0]
        off = np.abs(distance / source.similarity.scale - rounds[0].sdf.double().numpy()[:200])
        return f"samples are off by {off.max():.3g}" if not off.max() < TOLERANCE else ""

    return check


@st.composite
def meshes(draw) -> Case:
    name = draw(st.sampled_from(sorted(solids())))
    form, scale = draw(st.sampled_from(FORMATS)), 10 ** draw(st.floats(-4, 4))
    mesh = solids()[name].apply_scale(scale)
    mesh.apply_translation(scale * np.array(draw(st.tuples(*[st.floats(-3, 3)] * 3))))
    what, seed = draw(st.sampled_from((*DIRT, *WRONG, "damaged"))), draw(st.integers(0, 99))
    expected, check, content, odd = "accept", same_solid(mesh), None, what
    if what == "damaged":
        damage = draw(damages())
        content, odd = damage(exported(mesh, form)), damage.__name__
        expected, check = "either", lambda folder: ""
    elif what in WRONG:
        left = trimesh.Trimesh(mesh.vertices, WRONG[what](mesh), process=False)
        expected, check = "refuse", lambda folder: ""
        with np.errstate(all="ignore"):
            try:
                content = exported(left, form)
            except Exception:  # trimesh cannot write some kinds of nothing
                content = b""
    else:
        content = exported(dirt(what, mesh, seed), form)
    suffix = draw(st.sampled_from((form, form.upper())))
    stem = draw(st.sampled_from(("mesh", "a b", "ü", os.fsdecode(b"\xff"), "x" * 240)))

    def write(folder: Path) -> list[str]:
        configured(folder, CONFIG)
        (folder / f"{stem}.{suffix}").write_bytes(content)
        return [*TRAIN, "--mesh", f"{stem}.{suffix}"]

    return Case("mesh", f"{name}, {odd}, {stem[:9]!r}.{suffix}", write, expected, check)


# Configurations


@st.composite
def configurations(draw) -> Case:
    """Odd YAML for a mesh that is not there, so that nothing is accepted."""
    tree = json.loads(json.dumps(CONFIG))
    text = yaml.safe_dump(tree, default_flow_style=draw(st.booleans()))
    what = draw(st.sampled_from(("value", "section", "override", "bytes", "bomb", "nothing")))
    section = draw(st.sampled_from(sorted(tree)))
    key, odd = draw(st.sampled_from(sorted(tree[section]))), draw(st.sampled_from(SCALARS))
    more = []
    match what:
        case "value":
            tree[section][key] = "ODD"
            text = yaml.safe_dump(tree).replace("ODD", odd)
        case "section":
            tree[draw(st.sampled_from((section, "scene", "1", "no")))] = "ODD"
            text = yaml.safe_dump(tree).replace("ODD", odd)
        case "override":
            name = draw(st.sampled_from((f"{section}.{key}", section, "", ".", "a.b.c", "seed")))
            more = [f"{name}={odd}".replace("\0", "")]
        case "bytes":
            damage = draw(damages())
            text, odd = damage(text.encode()), damage.__name__
        case "bomb":
            text += BOMB
    content = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")

    def write(folder: Path) -> list[str]:
        (folder / "tiny.yaml").write_bytes(content)
        return [*TRAIN, *more, "mesh.path=gone.ply"]

    return Case("configuration", f"{what} {section}.{key}: {odd[:40]}", write, "refuse")


CHOICES = {
    "samples.method": ("pairs", "partition", "importance", "near", "oriented"),
    "samples.count": (1, 2, 300),
    "samples.spread": (1e-300, 1e-6, 100, 1e12),
    "samples.focus": (1e-300, 1e12),
    "samples.uniform_share": (0, 1),
    "samples.points": (1, 40),
    "field.method": ("dual_shell", "deepsdf", "key_spheres", "neural_implicit", "nglod"),
    "field.width": (1, 3, 4, 10**9, 10**12),
    "field.layers": (1, 2),
    "field.latent": (1, 10**9),
    "field.octaves": (0, 1, 200, 10**12),
    "spheres.count": (1, 2, 5),
    "spheres.method": ("farthest", "cover", "file"),
    "spheres.leaks": ("refuse", "enlarge"),
    "spheres.resolution": (1, 2, 16, 10**9),
    "mesh.radius": (1e-300, 1e-9, 1),
    "fit.batch_size": (1, 10**12),
    "fit.holdout": (1e-12, 0.5),
    "fit.lr": (1e-300, 1e12),
    "fit.optimizer": ("adam", "muon"),
    "fit.schedule": ("plateau", "cosine", "steps", "constant"),
    "fit.monitor": ("error", "loss", "training_loss"),
    "fit.keep": ("last", "best"),
    "fit.plateau_cooldown": (0, 10**12),
    "fit.loss": ("l1", "l2", "clamp", "weighted"),
    "fit.band": (0, 1e-300, 1e12),
    "fit.starts": (1, 2),
    "fit.restarts": (0, 1),
    "fit.weight_decay": (0, 1e12),
    "fit.rate_weight": (1e-300, 1e-8, 1, 1e12),
    "codec.center_bits": (1, 2, 16),
    "codec.radius_bits": (0, 10),
    "codec.thickness_bits": (0, 10),
    "codec.noise_from": (0, 0.5, 1),
    "codec.round_from": (0, 0.5, 1),
    "codec.lr_ratio": (1e-300, 1e12),
    "seed": (0, 10**12),
}


@st.composite
def combinations(draw) -> Case:
    """Settings that are fine one by one, on a mesh that is fine."""
    keys = draw(st.lists(st.sampled_from(sorted(CHOICES)), min_size=1, max_size=3, unique=True))
    overrides = [f"{key}={draw(st.sampled_from(CHOICES[key]))}" for key in keys]

    def write(folder: Path) -> list[str]:
        configured(folder, CONFIG)
        trimesh.creation.box().export(folder / "mesh.ply")
        return [*TRAIN, *overrides]

    return Case("configuration", " ".join(overrides), write)


# Run folders


@functools.cache
def finished_run() -> tuple[Path, str]:
    """A folder with a mesh and its run, finished and measured; and what was measured."""
    place = Path(tempfile.mkdtemp())

    def begin(folder: Path) -> list[str]:
        configured(folder, CONFIG)
        trimesh.creation.box((3, 2, 1)).export(folder / "mesh.ply")
        return TRAIN

    for write in (begin, lambda folder: ["eval", "run", "--resolution", "16"]):
        verdict = judge(Case("run", "as it is", write, "accept"), place)
        if verdict.outcome:
            raise RuntimeError(f"a plain run fails: {verdict}")
    return place, (place / "run" / "eval.json").read_text()


def same_field(folder: Path) -> str:
    """Whether the run has the field of the finished one."""
    from dss.run import open_run

    ours = open_run(folder / "run").field.state_dict()
    theirs = open_run(finished_run()[0] / "run").field.state_dict()
    odd = [name for name in theirs if not torch.equal(ours.get(name, torch.empty(0)), theirs[name])]
    return f"{odd[0]} is another" if odd else ""


def same_metrics(folder: Path) -> str:
    """Whether eval.py measured what it measured of the finished run."""
    other = (folder / "run" / "eval.json").read_text() != finished_run()[1]
    return "eval.json is another" if other else ""


@st.composite
def runs(draw) -> Case:
    place, _ = finished_run()
    files = ("field.safetensors", "samples.npz", "config.yaml", "fit.json")
    name, what = (
        draw(st.sampled_from(files)),
        draw(st.sampled_from(("damage",) * 5 + ("remove", "folder", "pipe", "device"))),
    )
    damage, script = draw(damages()), draw(st.sampled_from(("train", "eval", "render")))

    def write(folder: Path) -> list[str]:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        path = folder / "run" / name
        content = path.read_bytes()
        path.unlink()
        match what:
            case "damage":
                path.write_bytes(damage(content))
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "device":
                path.symlink_to("/dev/zero")
        return {
            "train": TRAIN,
            "eval": ["eval", "run", "--resolution", "16"],
            "render": ["render", "run", "--views", "1", "--size", "16"],
        }[script]

    check = {"train": same_field, "eval": same_metrics}.get(script, lambda folder: "")
    return Case("run", f"{script}, {name}: {what} {damage.__name__}", write, "either", check)


# Coded fields


@functools.cache
def coded_field() -> bytes:
    """The .dss file of the finished run."""
    from dss.run import open_run

    return open_run(finished_run()[0] / "run").packed()


def signed(content: bytes) -> bytes:
    """The same content, with the checksum that it has to have."""
    return content[:-4] + zlib.crc32(content[:-4]).to_bytes(4, "little")


@st.composite
def coded_fields(draw) -> Case:
    """Damage that a checksum tells, and damage behind a right one."""
    kinds = ("plain", "damage", "damage", "signed", "signed", "signed", "pipe", "device", "folder")
    what, damage = draw(st.sampled_from(kinds)), draw(damages())
    script = draw(st.sampled_from(("eval", "eval", "render")))
    whole = coded_field()
    content = damage(whole) if what in ("damage", "signed") else whole
    changed = content != whole
    if what == "signed":
        content = signed(content)

    def write(folder: Path) -> list[str]:
        trimesh.creation.box((3, 2, 1)).export(folder / "mesh.ply")
        path = folder / "field.dss"
        match what:
            case "pipe":
                os.mkfifo(path)
            case "device":
                path.symlink_to("/dev/zero")
            case "folder":
                path.mkdir()
            case _:
                path.write_bytes(content)
        return {
            "eval": ["eval", "field.dss", "--mesh", "mesh.ply", "--resolution", "16"],
            "render": ["render", "field.dss", "--views", "1", "--size", "16"],
        }[script]

    refused = what in ("pipe", "device", "folder") or (what == "damage" and changed)
    expected = "refuse" if refused else "either" if what == "signed" else "accept"
    odd = damage.__name__ if what in ("damage", "signed") else ""
    return Case("coded field", f"{script}, {what} {odd}", write, expected)


# Point clouds


def directions(count: int) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def as_ply(table: np.ndarray, form: str, count: object) -> bytes:
    names = ("x", "y", "z", "nx", "ny", "nz")[: table.shape[1]]
    head = f"ply\nformat {form} 1.0\nelement vertex {count}\n"
    head += "".join(f"property double {name}\n" for name in names) + "end_header\n"
    order = ">" if "big" in form else "<"
    body = as_text(table, " ").encode() if form == "ascii" else table.astype(order + "f8").tobytes()
    return head.encode() + body


def as_text(table: np.ndarray, separator: str) -> str:
    return "".join(separator.join(map(repr, row)) + "\n" for row in table.tolist())


@st.composite
def clouds(draw) -> Case:
    count, scale = draw(st.integers(40, 120)), 10 ** draw(st.floats(-3, 3))
    center = scale * np.array(draw(st.tuples(*[st.floats(-2, 2)] * 3)))
    normal = directions(count)
    table = np.hstack([center + scale * normal, normal])[:, : draw(st.sampled_from((3, 6)))]
    suffix = draw(st.sampled_from(("pts", "xyz", "ply")))
    forms = ("ascii", "binary_little_endian", "binary_big_endian")
    form, separator = draw(st.sampled_from(forms)), draw(st.sampled_from((" ", ",", ", ", "\t")))
    kinds = ("plain", "counted", "count", "commas", "damage", "nan", "few", "pipe", "device")
    what, damage = draw(st.sampled_from(kinds)), draw(damages())
    wrong = draw(st.sampled_from((0, 1, count - 1, count + 1, 10**9, 2**31, 10**18, -5, "x")))
    bad = what in ("count", "nan", "few", "pipe", "device")
    if what == "nan":
        table[3, draw(st.integers(0, table.shape[1] - 1))] = draw(st.sampled_from((np.nan, np.inf)))
    if what == "few":
        table = table[:20]
    if suffix == "ply":
        content = as_ply(table, form, wrong if what == "count" else len(table))
    else:
        text = as_text(table, separator)
        if what == "commas":
            text, bad = as_text(table, " ").replace(".", ","), True
        number = {"counted": f"{len(table)}\n", "count": f"{wrong}\n"}.get(what, "")
        content = (number + text).encode()
    if what == "damage":
        content = damage(content)

    def write(folder: Path) -> list[str]:
        configured(folder, CLOUD_CONFIG)
        path = folder / f"cloud.{suffix}"
        if what == "pipe":
            os.mkfifo(path)
        elif what == "device":
            path.symlink_to("/dev/zero")
        else:
            path.write_bytes(content)
        return [*TRAIN, "--mesh", path.name]

    def check(folder: Path) -> str:
        from dss.run import open_run

        found = open_run(folder / "run").source.similarity
        points = found.inverse(center + scale * normal)
        reach = np.linalg.norm(points, axis=1).max()
        return f"another cloud: reaches {reach:.3g}" if not abs(reach - 0.9) < TOLERANCE else ""

    expected = "either" if what == "damage" else "refuse" if bad else "accept"
    odd = f"{what} {wrong if what == 'count' else damage.__name__ if what == 'damage' else ''}"
    whole = check if expected == "accept" else lambda folder: ""
    return Case("cloud", f"{odd}, {form}, {separator!r}.{suffix}", write, expected, whole)


# Scenes


@functools.cache
def plain_scene() -> Path:
    """Six photos of a ball, in the NeRF-synthetic layout."""
    return write_synthetic(Path(tempfile.mkdtemp()), 16)


def as_dtu(folder: Path) -> None:
    """Rewrite a NeRF-synthetic scene in the DTU layout."""
    about = json.loads((folder / "transforms_train.json").read_text())
    arrays = {"scale_mat_0": np.diag([0.5, 0.5, 0.5, 1.0])}
    arrays["scale_mat_0"][:3, 3] = [1.0, -2.0, 0.5]
    for name in ("image", "mask"):
        (folder / name).mkdir()
    focal = 8 / np.tan(about["camera_angle_x"] / 2)
    intrinsics = np.array([[focal, 0, 7.5], [0, focal, 7.5], [0, 0, 1]])
    for index, frame in enumerate(about["frames"]):
        pose = np.linalg.inv(np.array(frame["transform_matrix"]) * [1, -1, -1, 1])
        arrays[f"world_mat_{index}"] = intrinsics @ pose[:3]
        with Image.open(folder / "train" / f"r_{index}.png") as image:
            image.convert("RGB").save(folder / "image" / f"{index:03}.png")
            image.getchannel("A").convert("RGB").save(folder / "mask" / f"{index:03}.png")
    np.savez(folder / "cameras_sphere.npz", **arrays)
    for name in ("train", "test"):
        shutil.rmtree(folder / name)
        (folder / f"transforms_{name}.json").unlink()


def odd_image(what: str) -> bytes:
    stream = io.BytesIO()
    match what:
        case "bomb":
            Image.new("1", (20_000, 20_000)).save(stream, "png")
        case "postscript":
            return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nquit\n"
        case "gif" | "tiff" | "bmp":
            Image.new("RGB", (16, 16)).save(stream, what)
        case "other size":
            Image.new("RGBA", (17, 16)).save(stream, "png")
    return stream.getvalue()


IMAGES = ("bomb", "postscript", "gif", "tiff", "bmp", "other size", "nothing")


@st.composite
def scenes(draw) -> Case:
    dtu = draw(st.booleans())
    kinds = ["plain", "damage", "damage", "image", "pipe", "device", "link", "remove"]
    if not dtu:
        kinds += ["angle", "matrix", "path", "deep", "twice"]
    what, damage, index = draw(st.sampled_from(kinds)), draw(damages()), draw(st.integers(0, 5))
    image = draw(st.sampled_from(IMAGES))
    place = draw(st.sampled_from(("camera", "image", "image")))
    angle = draw(
        st.sampled_from(
            (
                "0",
                "-1",
                "3.1416",
                "7",
                "1e400",
                "NaN",
                "1e-320",
                '"a"',
                "[]",
                "1" + "0" * 400,
                "true",
            )
        )
    )
    entry = draw(
        st.sampled_from(
            ("1e400", "NaN", "1" + "0" * 400, "9" * 5000, '"a"', "null", "true", "[]", "1e300")
        )
    )
    path = draw(
        st.sampled_from(
            (
                "../../secret",
                "/etc/passwd",
                "../scene/../../secret",
                "",
                ".",
                "\0",
                "x" * 400,
                "ü",
                "train",
            )
        )
    )

    def write(folder: Path) -> list[str]:
        configured(folder, SCENE_CONFIG)
        scene = folder / "scene"
        shutil.copytree(plain_scene(), scene)
        Image.new("RGBA", (16, 16), "red").save(folder / "secret.png")
        if dtu:
            as_dtu(scene)
        camera = scene / ("cameras_sphere.npz" if dtu else "transforms_train.json")
        picture = scene / (f"image/{index:03}.png" if dtu else f"train/r_{index}.png")
        chosen = camera if place == "camera" else picture
        content = chosen.read_bytes()
        match what:
            case "damage":
                chosen.write_bytes(damage(content))
            case "image":
                picture.write_bytes(odd_image(image))
            case "pipe" | "device" | "link" | "remove":
                chosen.unlink()
                if what == "pipe":
                    os.mkfifo(chosen)
                elif what == "device":
                    chosen.symlink_to("/dev/zero")
                elif what == "link":
                    (folder / "outside").write_bytes(content)
                    chosen.symlink_to(folder / "outside")
        if what in ("angle", "matrix", "path", "deep", "twice"):
            about = json.loads(camera.read_text())
            frame = about["frames"][index]
            match what:
                case "angle":
                    about["camera_angle_x"] = "ODD"
                case "matrix":
                    frame["transform_matrix"][index % 3][index % 4] = "ODD"
                case "path":
                    frame["file_path"] = path
                case "deep":
                    about["more"] = "ODD"
                case "twice":
                    about["frames"].append(frame)
            odd = {"angle": angle, "matrix": entry, "deep": "[" * 100_000}.get(what, "")
            camera.write_text(json.dumps(about).replace('"ODD"', odd))
        return TRAIN

    # A DTU scene whose last picture is missing is one of five
    unclear = what == "damage" or (what == "remove" and dtu)
    # Its cameras may be a link as long as the scene has a folder `image`
    expected = "either" if unclear else "accept" if what == "plain" else "refuse"
    odd = {"image": image, "angle": angle, "matrix": entry, "path": path, "damage": damage.__name__}
    layout = "dtu" if dtu else "nerf"
    return Case("scene", f"{layout}, {what} {place} {odd.get(what, '')[:50]!r}", write, expected)


# Weights


@functools.cache
def weights(kind: str) -> bytes:
    """A file as the methods' authors write it."""
    from dss.fields.key_spheres import KeySpheresField, KeySpheresSettings
    from dss.fields.neural_implicit import NeuralImplicitField, NeuralImplicitSettings

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"net.{kind}")
        if kind == "h5":
            NeuralImplicitField(NeuralImplicitSettings(layers=1, width=4), {}).to_weights(path)
        elif kind == "pth":
            settings = KeySpheresSettings(feature=3, layers=1, width=4)
            state = KeySpheresField(settings, {"spheres": torch.rand(4, 4)}).state_dict()
            torch.save(state, path)  # noqa: TID251
        else:
            path.write_text("2\n64 64 64 10 0\n60 64 64 12 0\n0\n")
        return path.read_bytes()


def rezipped(content: bytes, damage: Callable[[bytes], bytes], index: int) -> bytes:
    """A zip archive with one damaged file and the right checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for number, name in enumerate(old.namelist()):
            part = old.read(name)
            new.writestr(name, damage(part) if number == index % len(old.namelist()) else part)
    return stream.getvalue()


@st.composite
def imports(draw) -> Case:
    kind, damage = draw(st.sampled_from(("h5", "pth", "txt"))), draw(damages())
    what = draw(st.sampled_from(("damage",) * 3 + ("plain", "inside")))
    index = draw(st.integers(0, 9))
    field = {
        "h5": {"method": "neural_implicit", "layers": 1, "width": 4},
        "pth": {"method": "key_spheres", "feature": 3, "layers": 1, "width": 4},
        "txt": {
            "method": "key_spheres",
            "feature": 3,
            "layers": 1,
            "width": 4,
            "sphere_file": "net.txt",
        },
    }[kind]

    def write(folder: Path) -> list[str]:
        configured(folder, CONFIG | {"field": field, "samples": {"method": "near", "count": 500}})
        trimesh.creation.box().export(folder / "mesh.ply")
        content = weights(kind)
        if what == "damage":
            content = damage(content)
        elif what == "inside" and kind == "pth":
            content = rezipped(content, damage, index)
        (folder / f"net.{kind}").write_bytes(content)
        return TRAIN if kind == "txt" else [*TRAIN, "--weights", f"net.{kind}"]

    plain = what == "plain" or (what == "inside" and kind != "pth")
    odd = f"{what} {'' if plain else damage.__name__}"
    return Case("weights", f"{kind}, {odd}", write, "accept" if plain else "either")


CASES = st.one_of(
    meshes(),
    meshes(),
    configurations(),
    combinations(),
    runs(),
    runs(),
    coded_fields(),
    clouds(),
    scenes(),
    imports(),
)
