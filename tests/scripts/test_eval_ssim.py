"""eval_ssim.py as a user calls it: meshes against meshes, and images against a scene."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import metrics

from dss.rendering.images import read_image

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def meshes(tmp_path, ball):
    """A ball in its own units and place, and a decoded one that is a little too large."""
    for name, scale in (("truth", 2.0), ("decoded", 2.02)):
        copy = ball.copy()
        copy.apply_scale(scale)
        copy.apply_translation([5, 0, 0])
        copy.export(tmp_path / f"{name}.ply")
    return tmp_path / "truth.ply", tmp_path / "decoded.ply"


def test_a_mesh_against_itself(script, meshes, tmp_path):
    out, around = tmp_path / "out", ["--views", 2, "--size", 40]
    pair = ["--mesh", meshes[0], "--truth-mesh", meshes[0]]
    code, output, error = script("eval_ssim", *pair, *around, "--out", out)
    assert code == 0, error
    assert output.splitlines()[-1] == f"next: look at {out / 'ssim.json'}"
    result = json.loads((out / "ssim.json").read_text())
    keys = ("ssim_white", "ssim_black", "mask_iou", "normal_error_deg", "depth_error")
    for protocol in ("paper", "surface"):
        mean = result[protocol]["mean"]
        assert [mean[key] for key in keys] == [1, 1, 1, 0, 0]
        assert mean["psnr_white"] is None and len(result[protocol]["views"]) == 2


def test_a_decoded_mesh(script, meshes, tmp_path):
    pair = ["--mesh", meshes[1], "--truth-mesh", meshes[0]]
    around = ["--views", 2, "--size", 64]
    code, output, _ = script("eval_ssim", *pair, *around, "--out", tmp_path / "out")
    assert code == 0 and f"| {meshes[1]}, surface |" in " ".join(output.split())
    result = json.loads((tmp_path / "out/ssim.json").read_text())
    for protocol in ("paper", "surface"):
        mean = result[protocol]["mean"]
        assert 0.9 < mean["ssim_white"] < 1
        assert 0.96 < mean["mask_iou"] < 0.999  # 1 % larger: 2 % more area
        assert 0.009 < mean["depth_error"] < 0.02
        for background in ("white", "black"):  # the files give the same numbers
            for index, row in enumerate(result[protocol]["views"]):
                folder = tmp_path / "out/ssim" / f"{protocol}_{background}"
                names = [f"{index:03d}{suffix}.png" for suffix in ("", "_truth")]
                images = [Image.open(folder / name) for name in names]
                gray = [np.asarray(image.convert("L")) for image in images]
                expected = metrics.structural_similarity(*gray)
                assert row[f"ssim_{background}"] == pytest.approx(expected, abs=1e-6)
                expected = metrics.peak_signal_noise_ratio(*map(np.asarray, images))
                assert row[f"psnr_{background}"] == pytest.approx(expected, abs=1e-6)


def test_a_run_against_its_mesh(script, ball_run):
    mesh = ball_run.parent / "ball.ply"
    around = ["--views", 2, "--size", 48]
    code, output, error = script("eval_ssim", ball_run, "--mesh", mesh, *around)
    assert code == 0, error
    result = json.loads((ball_run / "ssim.json").read_text())
    assert result["surface"]["mean"]["ssim_white"] > 0.95
    assert result["surface"]["mean"]["mask_iou"] > 0.95
    assert (ball_run / "ssim" / "paper_white" / "001_truth.png").is_file()
    assert output.splitlines()[-1] == f"next: look at {ball_run / 'ssim.json'}"


def test_means_of_several_runs(script, ball_run):
    runs, mesh = [ball_run, ball_run], ball_run.parent / "ball.ply"
    code, _, error = script("eval_ssim", *runs, "--out", ball_run.parent)
    assert code == 2 and "--out: does not apply to 2 runs at once" in error
    other = ball_run.rename(ball_run.with_name("other"))
    ball_run.symlink_to(other)
    around = ["--views", 1, "--size", 32]
    code, output, error = script("eval_ssim", ball_run, other, "--mesh", mesh, *around)
    assert code == 0, error
    names = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("| ")]
    expected = [f"{run}, {kind}" for run in (ball_run, other) for kind in ("paper", "surface")]
    assert names[-6:] == [*expected, "mean, paper", "mean, surface"]


NAME_ONE = "name runs, or --mesh and --truth-mesh, or --renders and --truth"


def degraded(image, kind):
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(1))
    if kind == "more blur":
        return image.filter(ImageFilter.GaussianBlur(3))
    pixels = np.asarray(image)
    if kind == "shift":
        return Image.fromarray(np.roll(pixels, 2, 1))
    noise = np.random.default_rng(0).normal(0, 4, pixels.shape) if kind == "noise" else 0
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def test_degraded_renders_are_ordered(script, scene, tmp_path):
    scores = {}
    for kind in ("same", "noise", "blur", "more blur", "shift"):
        folder = tmp_path / kind
        folder.mkdir()
        for index in range(3):
            image = Image.fromarray(read_image(scene / f"test/r_{index}.png"))
            degraded(image, kind).save(folder / f"r_{index}.png")
        code, _, error = script("eval_ssim", "--renders", folder, "--truth", scene)
        assert code == 0, error
        scores[kind] = json.loads((folder / "ssim.json").read_text())
    ssim = {kind: score["mean"]["ssim"] for kind, score in scores.items()}
    assert ssim["same"] == 1 and scores["same"]["mean"]["psnr"] is None
    assert (
        ssim["same"] > ssim["noise"] > ssim["blur"] > ssim["more blur"]
        and ssim["noise"] > ssim["shift"]
    )
    assert (
        scores["noise"]["mean"]["psnr"]
        > scores["blur"]["mean"]["psnr"]
        > scores["more blur"]["mean"]["psnr"]
    )
    row = scores["blur"]["images"][1]
    images = [read_image(scene / "test/r_1.png"), np.asarray(Image.open(tmp_path / "blur/r_1.png"))]
    assert row["name"] == "r_1" and row["psnr"] == pytest.approx(
        metrics.peak_signal_noise_ratio(*images), abs=1e-6
    )
    options = {
        "channel_axis": 2,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    assert row["ssim"] == pytest.approx(metrics.structural_similarity(*images, **options), abs=1e-6)


def test_renders_that_do_not_match(script, scene, tmp_path):
    folder = tmp_path / "renders"
    folder.mkdir()
    for name in ("r_0", "r_1", "r_9"):
        Image.new("RGB", (24, 16)).save(folder / f"{name}.png")
    code, _, error = script("eval_ssim", "--renders", folder, "--truth", scene)
    assert code == 2 and "missing r_2; not in the scene r_9" in error
    (folder / "r_9.png").rename(folder / "r_2.png")
    Image.new("RGB", (8, 8)).save(folder / "r_1.png")
    code, _, error = script("eval_ssim", "--renders", folder, "--truth", scene)
    assert (
        code == 2
        and "the scene is 24x16, but r_1 (8x8) differ" in error
        and not (folder / "ssim.json").exists()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], NAME_ONE),
        (["--mesh", "a.ply"], NAME_ONE),
        (["--renders", "a"], NAME_ONE),
        (["runs/a", "--renders", "a", "--truth", "b"], NAME_ONE),
        (["nowhere"], "not a run folder"),
        (["--mesh", "nowhere.ply", "--truth-mesh", "nowhere.ply"], "no such file"),
        (["--renders", "nowhere", "--truth", "nowhere"], "transforms_test.json: cannot be read"),
        (["nowhere", "--views", "0"], "--views 0"),
        (["nowhere", "--size", "0"], "--size 0"),
        (["nowhere", "--size", "9999999"], "GiB of memory"),
        (["--mesh", "MESH", "--truth-mesh", "MESH", "--size", "5"], "windows of 11 pixels"),
        (["--truth-mesh", "MESH"], NAME_ONE),
        (["--renders", "a", "--truth", "b", "--views", "3"], "--views: does not apply to images"),
        (["--renders", "a", "--truth", "b", "--every", "3"], "--every: does not apply to images"),
        (["--mesh", "MESH", "--truth-mesh", "MESH", "--split", "val"], "--split: does not apply"),
    ],
)
def test_bad_input(script, meshes, arguments, message):
    arguments = [meshes[0] if argument == "MESH" else argument for argument in arguments]
    code, _, error = script("eval_ssim", *arguments)
    assert code == 2 and message in error and len(error.strip().split("\n")) == 1


def test_options_of_photos_do_not_apply_to_runs_of_meshes(script, ball_run):
    for option, value in (("--split", "val"), ("--every", 2), ("--truth", "scene")):
        code, _, error = script("eval_ssim", ball_run, option, value)
        assert (
            code == 2
            and error == f"error: {option}: does not apply to runs of meshes; leave it out\n"
        )
