"""Models and samplers on photos: what a row says, and how a speed-up parts into factors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dss.config import RenderSettings, Settings
from dss.errors import InputError
from dss.experiments import photo_methods
from dss.experiments.compare import EvalSettings, Result, measure, results, save, titled
from dss.experiments.photo_methods import (
    COLUMNS,
    FACTORS,
    GEOMETRY_COLUMNS,
    EqualSeconds,
    Trained,
    published,
    speed_up,
    with_speed_ups,
)
from dss.experiments.presets import photo_tables
from dss.geometry.similarity import Similarity
from dss.reconstruction.made_scene import make_scene
from dss.reconstruction.samplers import SAMPLERS, build_sampler
from dss.reconstruction.scene import Photo
from dss.registry import load_config
from dss.rendering.spheres import draw_spheres
from dss.run import PhotoRun, Source
from dss.shell.dual_shell import DualShell
from tests.helpers import ball_model, pinhole

CPU = torch.device("cpu")
PLAIN = {"psnr": 26.0, "ssim": 0.9, "seconds": 4.0, "samples": 40.0, "background": 0.0}
PLAIN |= {"uncut": 40.0}
SHELL = PLAIN | {"seconds": 0.25, "samples": 2.0, "background": 0.75, "uncut": 4.0}


@pytest.fixture
def photo(tmp_path: Path) -> Photo:
    Image.fromarray(np.full((48, 48, 4), 255, np.uint8)).save(tmp_path / "photo.png")
    return Photo("photo", tmp_path / "photo.png", None, pinhole())


def photo_run(sampler: Settings) -> PhotoRun:
    """A converged ball of radius 0.5 and, where the sampler is the shell, its shell."""
    config = load_config("neus_tiny").model_copy(
        update={"sampler": sampler, "render": RenderSettings()}
    )
    source = Source("scene", "", Similarity((0.0, 0.0, 0.0), 1.0))
    run = PhotoRun(Path("run"), config, source, ball_model(400.0), build_sampler(sampler))
    if sampler.method == "shell":
        radii = torch.tensor([0.48]), torch.tensor([0.52])
        run.sampler.shell = DualShell(torch.zeros(1, 3), *radii)
    return run


def test_factors_multiply_to_the_speed_up():
    found = speed_up(PLAIN, SHELL)
    assert found["speed_up"] == 16
    factors = {key: found[f"{key}_factor"] for key in FACTORS}
    assert factors == {"empty": 4.0, "ended": 2.0, "fewer": 2.5, "cheaper": pytest.approx(0.8)}
    assert math.prod(factors.values()) == pytest.approx(16)
    shares = [found[f"{key}_share"] for key in FACTORS]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([0.5, 0.25, 0.33, -0.08], abs=5e-3)


def test_what_is_no_faster_has_no_shares():
    found = speed_up(PLAIN, PLAIN)
    assert found["speed_up"] == 1 and not [key for key in found if key.endswith("_share")]


def test_only_the_plain_sampler_of_the_same_model_is_compared_with():
    rows = with_speed_ups({"neus": PLAIN, "neus_shell": SHELL, "volsdf_spheres": SHELL})
    assert rows["neus"] == PLAIN and rows["volsdf_spheres"] == SHELL
    assert rows["neus_shell"]["speed_up"] == 16


def test_tables():
    measured = [Result(name, "chair_400", PLAIN) for name in ("neus", "volsdf")]
    measured.insert(1, Result("neus_shell", "chair_400", SHELL))
    measured.append(Result("neus", "lego", PLAIN))
    tables = photo_tables(measured)
    assert list(tables) == ["chair_400", "lego"]
    lines = titled("chair_400", tables["chair_400"], COLUMNS).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0] == ["", *(column.heading for column in COLUMNS)]
    rows = {line[0]: dict(zip(cells[0], line, strict=True)) for line in cells[2:]}
    assert rows["neus_shell"]["speed-up"] == "16.0" and rows["neus_shell"]["empty rays"] == "4.0"
    assert rows["neus_shell"]["its share, empty rays"] == "50%"
    assert rows["neus"]["speed-up"] == rows["volsdf"]["speed-up"] == ""
    assert rows["NeuS, published, 800x800"]["PSNR"] == "30.10"
    theirs = rows["DSS, published, 800x800"]
    assert [theirs[key] for key in ("PSNR", "speed-up", "empty rays")] == ["31.30", "8.2", "4.8"]
    assert list(tables["lego"]) == ["neus"]


def test_published_rows():
    assert published("lego") == {}
    hotdog = published("hotdog")["DSS, published, 800x800"]
    assert hotdog["speed_up"] == pytest.approx(45.4 / 6.5) and "empty_factor" not in hotdog
    mic = published("mic_800")["DSS, published, 800x800"]
    assert mic["empty_factor"] == pytest.approx(1 / 0.119)
    assert len(published("mic")) == 2


def test_the_chair_has_both_published_numbers():
    rows = published("chair_400")
    assert rows["NeuS, published, 800x800"] == {"psnr": 30.1, "seconds": 45.1}
    assert rows["NeuS, published in a figure"] == {"psnr": 30.7}


def test_what_would_have_been_seen_without_inner_spheres(photo):
    """The shell's rays end early; the uncut ones go through the whole ball."""
    shell = SAMPLERS["shell"].Settings(step=0.01)
    row = photo_methods._measure_photo(photo_run(shell), photo)
    assert row["uncut"] > 3 * row["samples"] > 0 and 0.5 < row["background"] < 1
    uniform = SAMPLERS["uniform"].Settings(coarse=16, fine=16)
    plain = photo_methods._measure_photo(photo_run(uniform), photo)
    assert plain["uncut"] == plain["samples"] == 32 and plain["background"] == 0
    found = speed_up(plain, row)
    product = math.prod(found[f"{key}_factor"] for key in FACTORS)
    assert product == pytest.approx(plain["seconds"] / row["seconds"])


def test_what_was_measured_is_not_measured_again(tmp_path):
    settings = EvalSettings(every=2)
    entry, path = Trained("neus_tiny"), tmp_path / "mic"
    cache_key = {"entry": repr(entry), "data": str(path)}
    cache_key |= {"resolution": 256, "views": 30, "size": 512, "every": 2}
    folder = tmp_path / "out" / "neus_tiny" / "mic"
    folder.mkdir(parents=True)
    stored = {"cache_key": cache_key, "row": PLAIN}
    (folder / "comparison.json").write_text(json.dumps(stored))
    (found,) = results([entry], [path], tmp_path / "out", settings, CPU)
    assert found == Result("neus_tiny", "mic", PLAIN)
    save(tmp_path, [found], {"neus_tiny": PLAIN}, COLUMNS, "| neus_tiny |")
    row = json.loads((tmp_path / "table.json").read_text())[0]
    assert row == {"method": "neus_tiny", "data": "mic"} | PLAIN
    with pytest.raises(InputError, match="not a run folder"):  # another question: measure
        measure(entry, path, folder, EvalSettings(every=1), CPU)


def test_equal_seconds_are_more_steps_or_fewer(tmp_path, monkeypatch):
    """Of two entries that took 100 s and 40 s for 3,000 steps."""
    for name, seconds in (("plain", 100.0), ("guided_one", 40.0)):
        (tmp_path / name / "demo").mkdir(parents=True)
        facts = {"steps": 3000, "fit_seconds": seconds}
        (tmp_path / name / "demo" / "fit.json").write_text(json.dumps(facts))
    asked = []
    monkeypatch.setattr(Trained, "measure", lambda self, *_: asked.append(self) or PLAIN)
    of = Trained("guided one", "neus_spheres_tiny", ("train.steps=3000",))
    entry = EqualSeconds(of, Trained("plain", "neus_tiny"))
    (found,) = results([entry], [Path("demo")], tmp_path, EvalSettings(), CPU)
    assert found.row == PLAIN and found.method == "guided one, equal seconds"
    assert asked[0].overrides[-1] == "train.steps=7500" and asked[0].config == "neus_spheres_tiny"
    lost = EqualSeconds(Trained("none"), Trained("plain", "neus_tiny"))
    (failed,) = results([lost], [Path("demo")], tmp_path, EvalSettings(), CPU)
    assert failed.row is None and "have not been timed" in failed.reason


def test_a_row_has_pictures_geometry_and_cost(tmp_path, few):
    """A made scene whose truth is known, trained for a moment."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    ball.export(tmp_path / "ball.ply")
    make_scene(str(tmp_path / "ball.ply"), tmp_path / "scene", views=4, size=32)
    overrides = (
        *("scene.downscale=1", "train.steps=3", "train.rays=16", "model.layers=2"),
        *("model.width=16", "sampler.coarse=8", "sampler.fine=8", "train.checkpoint=2"),
    )
    entry, path = Trained("short", "neus_tiny", overrides), tmp_path / "scene/synthetic"
    settings = EvalSettings(resolution=32)
    (found,) = results([entry], [path], tmp_path / "out", settings, CPU)
    assert found.data == "scene" and found.row, found.reason
    assert found.row.keys() >= {column.key for column in GEOMETRY_COLUMNS}
    assert found.row["steps"] == 3 and found.row["fit_seconds"] > 0
    assert found.row["queries"] > 16 and 0 < found.row["surface_mean"] < 1


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr("dss.evaluation.geometry.SAMPLES", 1 << 12)


def test_a_training_that_fails_is_one_line(tmp_path):
    entries, out = [Trained("neus_tiny")], tmp_path / "out"
    (found,) = results(entries, [tmp_path / "mic"], out, EvalSettings(), CPU)
    assert found.row is None and "no such folder as" in found.reason
    assert "\n" not in found.reason


def test_spheres_in_front_hide_those_behind():
    centers = torch.tensor([[0.0, -0.5, 0], [0.0, 0.5, 0]])
    shell = DualShell(centers, torch.tensor([0.1, 0.1]), torch.tensor([0.2, 0.4]))
    first = DualShell(*(buffer[:1] for buffer in shell.buffers()))
    both, front = draw_spheres(shell, pinhole()), draw_spheres(first, pinhole())
    middle = (front < 255).all(-1)
    assert 0.005 < middle.mean() < 0.3 and (both[middle] == front[middle]).all()
    assert ((both < 255).all(-1) & ~middle).any()
    half = draw_spheres(shell, pinhole(), 0.5)
    assert (half < 255).all(-1).sum() < (both < 255).all(-1).sum() / 2
