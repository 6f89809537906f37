"""Run folders that were damaged, tampered with, left behind, or that cannot be written."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors import safe_open
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dss.checkpoint import load_tensors, save_tensors
from dss.errors import InputError
from dss.files import is_temporary, remove_stale, replacing
from dss.log import Log
from dss.pipeline import fit_run
from dss.progress import Event, silent
from dss.registry import load_config
from dss.run import load_samples, open_run
from tests.helpers import write_synthetic

NOISE = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)


def test_a_log_on_a_full_disk_warns_once_and_the_fit_goes_on(tmp_path, capfd):
    events = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Log(tmp_path, "fit", 10, events.append) as log:
        log.scalars(1, {"loss": 0.5})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        try:
            log.picture(2, "normals", lambda: NOISE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        log.scalars(2, {"loss": 0.4})
        log.picture(3, "normals", lambda: NOISE)
    kinds = [event.stage for event in events]
    assert kinds == ["fit", "warning", "fit"]
    assert events[1].text == f"{tmp_path}/log: cannot be written (File too large); the fit goes on"
    assert capfd.readouterr() == ("", "")


def test_a_log_in_a_place_that_cannot_be_written_warns_once(tmp_path):
    (tmp_path / "log").write_text("in the way")
    events = []
    with Log(tmp_path, "fit", 10, events.append) as log:
        log.scalars(1, {"loss": 0.5})
    assert [event.stage for event in events] == ["warning", "fit"]
    assert events[1] == Event("fit", 1, 10, "loss 0.5")


def test_tensorboard_reads_the_log(tmp_path):
    with Log(tmp_path, "fit", 10, lambda _: None) as log:
        log.scalars(7, {"loss": 0.5})
        log.picture(7, "normals", lambda: NOISE)
    seen = EventAccumulator(str(tmp_path / "log")).Reload()
    (scalar,) = seen.Scalars("loss")
    assert (scalar.step, scalar.value) == (7, 0.5)
    (image,) = seen.Images("normals")
    assert (image.step, image.width, image.height) == (7, 100, 90)


TINY = [
    "spheres.method=farthest", "spheres.count=8", "spheres.resolution=24", "samples.count=500",
    "field.width=8", "field.latent=2", "fit.epochs=4", "fit.resample=2", "fit.batch_size=256",
    "fit.checkpoint=2",
]  # fmt: skip
TINY_PHOTOS = [
    "scene.downscale=1", "model.layers=1", "model.width=8", "model.skip=0", "model.feature=4",
    "model.colour_layers=1", "model.colour_width=8", "sampler.coarse=8", "sampler.fine=8",
    "train.steps=4", "train.rays=16", "train.checkpoint=2", "train.warm_up_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, box) -> Path:
    """A finished run of a mesh, beside its mesh."""
    folder = tmp_path_factory.mktemp("mesh")
    box.export(folder / "box.ply")
    fit_run(load_config(None, TINY, str(folder / "box.ply")), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def photographed(tmp_path_factory) -> Path:
    """A finished run of photos, beside its scene."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "scene").mkdir()
    write_synthetic(folder / "scene", 16)
    fit_run(load_config("neus_tiny", TINY_PHOTOS, str(folder / "scene")), folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, of the same mesh."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refit(run: Path, progress=silent):
    """What the train.py command does that made the run."""
    return fit_run(load_config(run / "config.yaml"), run, progress=progress)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", ["field", "training", "model"])
def test_every_flipped_bit_of_tensors_is_noticed(finished, photographed, tmp_path, name):
    path, folder = tmp_path / "x.safetensors", photographed if name == "model" else finished
    content = (folder / f"{name}.safetensors").read_bytes()
    header = 8 * (8 + int.from_bytes(content[:8], "little"))
    bits = [
        *random.sample(range(header), 800),
        *random.sample(range(header, 8 * len(content)), 200),
    ]
    begin = content.index(b"checksum") - 4  # where files without a checksum look otherwise
    for bit in [*bits, *range(8 * begin, 8 * begin + 8 * 120)]:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(InputError, match=r"x\.safetensors: not a file of dss, or damaged"):
            load_tensors(path)


def test_every_flipped_bit_of_samples_is_noticed(finished, tmp_path):
    content, path = (finished / "samples.npz").read_bytes(), tmp_path / "samples.npz"
    tail = range(8 * len(content) - 8 * 100, 8 * len(content))
    for bit in [*random.sample(range(8 * len(content)), 300), *tail]:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(InputError, match=r"samples\.npz: damaged .*; delete it"):
            load_samples(tmp_path)
    path.write_bytes(content)
    with np.load(path) as arrays:  # an archive as any other
        np.savez(path, **dict(arrays))  # without a checksum, as earlier versions wrote it
    assert load_samples(tmp_path)[0] == load_samples(finished)[0]


def test_files_without_a_checksum_are_read(run):
    points = torch.rand(100, 3) - 0.5
    before = open_run(run).field.sdf(points)
    for name in ("field", "training"):
        path = run / f"{name}.safetensors"
        tensors, about = load_tensors(path)
        about.pop("threads", None)
        save_file(tensors, path, {"dss": json.dumps(about)})
        with safe_open(path, "pt") as file:
            assert "checksum" not in file.metadata()["dss"]
    assert torch.equal(open_run(run).field.sdf(points), before)
    (run / "field.safetensors").unlink()
    assert torch.equal(refit(run).field.sdf(points), before)


@pytest.mark.parametrize("name", ["samples.npz", "training.safetensors", "field.safetensors"])
def test_train_names_the_one_file_to_delete(run, name):
    whole = (run / "field.safetensors").read_bytes()
    path = run / name
    path.write_bytes(path.read_bytes()[:-100])
    if name.startswith("training"):
        (run / "field.safetensors").unlink()
    with pytest.raises(InputError, match=rf"^{path}: .*damaged .*; delete it"):
        refit(run)
    path.unlink()
    refit(run)
    assert (run / "field.safetensors").read_bytes() == whole
    assert path.is_file()


def tampered(path: Path, number: int) -> None:
    """Rewrite a file of tensors, with a right checksum, with one thing that does not fit."""
    choice = random.Random(number)
    tensors, about = load_tensors(path)
    name = choice.choice(sorted(tensors))
    value = tensors[name]
    spoil = choice.choice(["shape", "dtype", "nan", "gone", "more", "about", "about", "about"])
    match spoil:
        case "shape":
            tensors[name] = torch.cat([value.flatten(), value.flatten()[:1]])
        case "dtype":
            tensors[name] = value.to(choice.choice([torch.float64, torch.int32, torch.bfloat16]))
        case "nan":
            tensors[name] = torch.full_like(value.float(), torch.nan)
        case "gone":
            del tensors[name]
        case "more":
            tensors[f"{name}.more"] = value.clone()
        case "about":
            node, key = about, choice.choice(sorted(about))
            while isinstance(node[key], dict) and choice.random() < 0.8:
                node, key = node[key], choice.choice(sorted(node[key]))
            junk = [None, -1, 1.5, 10**9, "x", [], {}, [1] * 3, True, "\n", float("nan")]
            node[key] = choice.choice(junk)
    save_tensors(path, tensors, about)


@pytest.mark.parametrize("number", range(30))
@pytest.mark.parametrize("name", ["field", "training", "model", "state"])
def test_what_does_not_fit_is_one_line_or_harmless(finished, photographed, tmp_path, name, number):
    source = finished if name in ("field", "training") else photographed
    run = Path(shutil.copytree(source, tmp_path / "run"))
    file = run / f"{'training' if name == 'state' else name}.safetensors"
    tampered(file, number)
    try:
        if name in ("field", "model"):
            opened = open_run(run)
            asked = opened.field if name == "field" else opened.model
            assert asked.sdf(torch.zeros(3, 3)).shape == (3,)
        else:
            other = "field" if name == "training" else "model"
            (run / f"{other}.safetensors").unlink()
            refit(run)
    except InputError as error:
        assert "\n" not in str(error) and str(file) in str(error), error
        assert "delete" in str(error) and len(str(error)) < 700


def test_a_field_of_a_monstrous_configuration_is_not_built(run):
    path = run / "field.safetensors"
    tensors, about = load_tensors(path)
    about["config"]["field"]["width"] = 40_000  # 6 GB
    save_tensors(path, tensors, about)
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"field\.safetensors: .*are too few for its config"):
        open_run(run)
    assert time.perf_counter() - start < 1


def test_tampered_samples_are_one_line(run):
    path = run / "samples.npz"
    with np.load(path) as arrays:
        whole = dict(arrays)
    source = json.loads(str(whole["source"]))
    for changed in (
        {"points_0": whole["points_0"][:, :2]},
        {"points_0": whole["points_0"].astype(np.float64)},
        {"owner_1": whole["owner_1"].astype(np.int32)},
        {"sdf_0": whole["sdf_0"][1:]},
        {"sdf_0": whole["sdf_0"] * np.nan},
        {"owner_0": whole["owner_0"] + 8},
        {"geometry.shell.centers": whole["geometry.shell.centers"][:, :2]},
        {"geometry.shell.inner_radii": whole["geometry.shell.inner_radii"][1:]},
        {"source": np.array("[1]")},
        {"source": np.array(json.dumps(source | {"similarity": {"center": [0.0], "scale": 1.0}}))},
        {"source": np.array(json.dumps(source | {"path": 7}))},
        {"source": np.array([{}], dtype=object)},
    ):
        np.savez(path, **(whole | changed))
        with pytest.raises(InputError, match=rf"^{path}: damaged .*; delete it") as caught:
            refit(run)
        assert "\n" not in str(caught.value)
    for name in list(whole):
        np.savez(path, **{key: value for key, value in whole.items() if key != name})
        with pytest.raises(InputError, match=rf"^{path}: damaged"):
            refit(run)


def test_a_corrected_command_may_use_the_folder_of_a_failed_one(tmp_path, box):
    folder, path = tmp_path / "run", tmp_path / "box.ply"
    path.write_text("no mesh")
    with pytest.raises(InputError, match="not a readable mesh"):
        fit_run(load_config(None, TINY, str(path)), folder)
    assert not folder.exists()
    box.export(path)
    with pytest.raises(InputError, match="spheres.count"):
        fit_run(load_config(None, [*TINY, "spheres.count=9000"], str(path)), folder)
    assert not folder.exists()
    (folder / "log").mkdir(parents=True)
    (folder / f".samples.{os.getpid()}.npz").write_text("left behind")
    (folder / "config.yaml").write_text("seed: 7\n")  # of an earlier version, which began with it
    run = fit_run(load_config(None, TINY, str(path)), folder)
    assert load_config(folder / "config.yaml") == run.config
    assert not [path for path in folder.iterdir() if is_temporary(path)]


def test_a_folder_of_something_else_is_left_alone(tmp_path, box):
    box.export(tmp_path / "box.ply")
    config, folder = load_config(None, TINY, str(tmp_path / "box.ply")), tmp_path / "thesis"
    folder.mkdir()
    for name, content in (("notes.txt", "precious"), ("config.yaml", "seed: 7\n")):
        (folder / name).write_text(content)
        with pytest.raises(InputError, match="choose another --out"):
            fit_run(config, folder)
    assert (folder / "config.yaml").read_text() == "seed: 7\n"
    with pytest.raises(InputError, match="choose another --out"):
        fit_run(config, folder / "notes.txt")


def test_only_files_of_processes_that_are_gone_are_stale(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    names = [f".a.{other.pid}.npz", f".a.{int(gone.stdout)}.npz", f".a.{os.getpid()}.npz", ".a.npz"]
    for name in names:
        (tmp_path / name).touch()
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], ".a.npz"])
    other.communicate(b"\n")


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_one(tmp_path):
    gone = 9_999_999  # larger than any number of a process
    names = [f".a.{gone}.png", f".b.{gone}.png", f".a.{gone}.ply"]
    for name in names:
        (tmp_path / name).touch()
    with replacing(tmp_path / "a.png") as temporary:
        temporary.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "a.png"])


def test_a_mesh_replaced_under_the_same_name_is_noticed(finished, run):
    config = load_config(run / "config.yaml")
    mesh, before = Path(config.mesh.path), Path(config.mesh.path).read_bytes()
    try:
        trimesh.creation.icosphere().export(mesh)
        for name in ("field.safetensors", "training.safetensors"):
            with pytest.raises(InputError, match=r"box\.ply: not what .*its contents differ"):
                refit(run)
            (run / name).unlink()
    finally:
        mesh.write_bytes(before)
    refit(run)


def test_a_cloud_replaced_under_the_same_name_is_noticed(tmp_path, ball):
    path, points = tmp_path / "cloud.xyz", ball.vertices[::40]
    np.savetxt(path, np.hstack([points, points / 0.9]))
    tiny = ["samples.count=20", "field.width=16", "fit.epochs=2"]
    config = load_config("deepsdf_points_smooth", tiny, str(path))
    run = fit_run(config, tmp_path / "run")
    np.savetxt(path, np.hstack([points, points / 0.9])[1:])
    with pytest.raises(InputError, match=r"cloud\.xyz: not the points that .* was fitted to"):
        run.load_truth()
    with pytest.raises(InputError, match=r"cloud\.xyz: not what"):
        fit_run(config, tmp_path / "run")


def test_a_scene_replaced_under_the_same_name_is_noticed(photographed, tmp_path):
    run = Path(shutil.copytree(photographed, tmp_path / "run"))
    path = photographed.parent / "scene" / "transforms_train.json"
    before = path.read_text()
    try:
        path.write_text(before + " ")
        with pytest.raises(InputError, match="scene: not what .*its contents differ"):
            refit(run)
    finally:
        path.write_text(before)
    refit(run)


def test_another_number_of_threads_is_said(run, photographed, tmp_path):
    other = Path(shutil.copytree(photographed, tmp_path / "photos"))
    threads = torch.get_num_threads()
    for folder, name in ((run, "field"), (other, "model")):
        (folder / f"{name}.safetensors").unlink()
        tensors, about = load_tensors(folder / "training.safetensors")
        assert about["threads"] == threads
        save_tensors(folder / "training.safetensors", tensors, about | {"threads": threads + 2})
        events = []
        refit(folder, events.append)
        (warning,) = (event.text for event in events if event.stage == "warning")
        assert f"begun with {threads + 2} threads, goes on with {threads}" in warning
