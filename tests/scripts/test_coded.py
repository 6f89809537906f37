"""Coded fields as a user meets them: train.py leaves one, eval.py packs one, and all scripts take
it."""

import json

import pytest
import trimesh

from dss.codec.container import MAX_BYTES

pytestmark = pytest.mark.usefixtures("fewer_points", "cache")
MEASURED = ["--resolution", 32]
SMALL = ("spheres.count=8", "samples.count=4000", "fit.epochs=20", "fit.resample=20")


@pytest.fixture(scope="module")
def mesh_path(tmp_path_factory, ball):
    """A ball with a centre and a size of its own."""
    path = tmp_path_factory.mktemp("mesh") / "ball.ply"
    ball.copy().apply_scale(3).apply_translation((5, -2, 1)).export(path)
    return path


@pytest.fixture
def packed(ball_run, tmp_path, script):
    """A run that was not fitted to be coded, packed; and what eval.py says of it."""
    path, result = tmp_path / "packed.dss", tmp_path / "packed.json"
    options = [*MEASURED, "--mesh", ball_run.parent / "ball.ply", "--pack", path]
    options += ["--json", result]
    code, out, error = script("eval", ball_run, *options)
    assert code == 0, error
    assert f"| {path} |" in " ".join(out.split())
    return path, json.loads(result.read_text())["runs"][str(path)]


def test_a_finished_run_is_packed_and_measured(packed, ball_run, script):
    path, result = packed
    size = path.stat().st_size
    assert result["file_bytes"] == size == sum(result["file_parts"].values())
    assert size < (ball_run / "field.safetensors").stat().st_size / 2
    assert result["file_parts"].keys() == {"header", "spheres", "latents", "weights"}
    assert 0 < result["decode_ms"] < 5000
    assert script("eval", ball_run, *MEASURED, "--mesh", ball_run.parent / "ball.ply").code == 0
    before = json.loads((ball_run / "eval.json").read_text())
    assert result["surface_mean"] == pytest.approx(before["surface_mean"], abs=3e-4)
    assert "file_parts" not in before


def test_every_script_takes_the_file(packed, ball_run, script, tmp_path, monkeypatch):
    path, result = packed
    monkeypatch.chdir(tmp_path)
    mesh = ball_run.parent / "ball.ply"
    again = tmp_path / "again.json"
    for arguments in (
        ["eval", path, "--mesh", mesh, *MEASURED, "--json", again],
        ["eval_ssim", path, "--mesh", mesh, "--views", 1, "--size", 32],
        ["render", path, "--views", 1, "--size", 32],
        ["render", path, "--mode", "error", "--mesh", mesh, "--views", 1, "--size", 32],
    ):
        code, _, error = script(*arguments)
        assert code == 0, error
    same = json.loads(again.read_text())["runs"][str(path)]
    assert {**same, "decode_ms": 0} == {**result, "decode_ms": 0}
    assert (tmp_path / "ssim/packed/ssim.json").is_file()
    assert (tmp_path / "pictures/packed").is_dir()


def test_bad_files_and_options_are_one_line(packed, ball_run, script, tmp_path):
    path, _ = packed
    mesh, other = ball_run.parent / "ball.ply", tmp_path / "other.ply"
    trimesh.creation.box().export(other)
    cut, huge = tmp_path / "cut.dss", tmp_path / "huge.dss"
    cut.write_bytes(path.read_bytes()[:-9])
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for arguments, message in (
        (["eval", path], "does not hold the truth; name it with --data"),
        (["eval", path, "--mesh", other], "not the mesh that"),
        (["eval", cut, "--mesh", mesh], "cut.dss: not a .dss file, or damaged (its checksum"),
        (["eval", huge, "--mesh", mesh], "huge.dss: not a .dss file, or damaged (longer"),
        (["render", cut], "cut.dss: not a .dss file"),
        (["eval_ssim", cut, "--mesh", mesh], "cut.dss: not a .dss file"),
        (["eval", tmp_path / "gone.dss"], "gone.dss: not a run folder"),
        (["eval", ball_run, "--pack", tmp_path / "x.ply"], "x.ply: coded fields are .dss files"),
        (["eval", ball_run, ball_run, "--pack", "x.dss"], "--pack: does not apply to 2 runs"),
        (["eval", mesh, "--mesh", mesh, "--pack", "x.dss"], "--pack: does not apply to the mesh"),
    ):
        code, _, error = script(*arguments)
        assert code == 2 and message in error and error.count("\n") == 1, error


def test_a_fit_to_be_coded_leaves_the_file(mesh_path, script, tmp_path, monkeypatch):
    monkeypatch.setattr("dss.shell.cover.DENSE", 20_000)
    monkeypatch.setattr("dss.shell.cover.MIN_COARSE", 5_000)
    monkeypatch.setattr("dss.shell.certify.SAMPLES", 50_000)
    run, copy = tmp_path / "run", tmp_path / "copy.dss"
    fit = ["train", "--config", "compact_shell_4k", "--mesh", mesh_path, "--out", run, *SMALL]
    code, out, error = script(*fit)
    assert code == 0, error
    size = (run / "field.dss").stat().st_size
    assert f"coded in {size:,} bytes" in out and size < 4096
    assert script("eval", run, *MEASURED).code == 0
    metrics = json.loads((run / "eval.json").read_text())
    assert metrics["file_bytes"] == size == sum(metrics["file_parts"].values())
    whole = (run / "field.dss").read_bytes()
    (run / "field.dss").unlink()  # the run is none the worse
    assert script("eval", run, *MEASURED, "--pack", copy).code == 0
    assert copy.read_bytes() == whole
