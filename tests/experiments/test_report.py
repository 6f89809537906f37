"""The report: one file, its pictures and numbers, and in a headless Chromium the order of its
table."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from dss.errors import InputError
from dss.experiments.report import (
    Row,
    grouped,
    row_of_run,
    rows_of,
    worst,
    write_report,
)
from dss.experiments.status import Outcome, StatusTable
from tests.helpers import write_photo_run, write_synthetic

METRICS = {"surface_mean": 2e-3, "bytes": 2048, "bytes_parts": {"mlp": 2048}, "watertight": True}
URI = re.compile(r'src="data:image/webp;base64,([^"]+)"')
CELLS = "#meshes tbody td:first-child"


@pytest.fixture
def run(ball_run):
    """A run that was measured."""
    (ball_run / "config.yaml").write_text("")
    (ball_run / "eval.json").write_text(json.dumps(METRICS))
    (ball_run / "fit.json").write_text(json.dumps({"fit_seconds": 12.5}))
    return ball_run


def many(count: int = 12) -> list[Row]:
    """Rows of a sweep, some of which failed, with names that are no HTML."""
    rows = [
        Row(
            f"mesh {index}",
            seconds=float(index),
            metrics={"surface_mean": 10.0 ** -(index % 5 + 1)},
        )
        for index in range(count)
    ]
    return [
        *rows,
        Row("<b>bad</b>", "refused", 'no "volume" & more'),
        Row("z", "crashed", "x\n" * 900),
    ]


def test_a_run_with_its_pictures(run, tmp_path, script):
    out = tmp_path / "report.html"
    code, text, error = script(
        "scripts.report", run, "--data", tmp_path / "ball.ply", "--out", out, "--size", 64
    )
    assert (code, error) == (0, "") and text.splitlines()[-1] == f"next: open {out} in a browser"
    page = out.read_text()
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(found)))) for found in URI.findall(page)
    ]
    assert [image.shape for image in images] == [(64, 64, 3)] * 3
    assert all(image.std() > 10 for image in images)
    for part in ("shaded", "violet", "inner spheres", "2.00e-03", "12.5 s", "latent: 1", "2,048"):
        assert part in page, part
    addresses = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_what_is_missing_is_said(run, tmp_path):
    for name in ("eval.json", "fit.json"):
        (run / name).unlink()
    row = row_of_run(run)
    assert row.metrics == {} and row.seconds is None
    write_report(tmp_path / "report.html", "one", [row], [row], size=32)
    page = (tmp_path / "report.html").read_text()
    assert "no error map" in page and "Not measured" in page and len(URI.findall(page)) == 2
    (run / "field.safetensors").write_bytes(b"damaged")
    write_report(tmp_path / "report.html", "one", [row], [row], size=32)
    assert "field.safetensors" in (tmp_path / "report.html").read_text()


def test_a_folder_of_runs(run, tmp_path):
    folder = tmp_path / "sweep"
    for name in ("b", "a"):
        shutil.copytree(run, folder / name)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.yaml").write_text("")
    rows = rows_of(folder)
    assert [(row.mesh, row.status) for row in rows] == [
        ("a", "ok"), ("b", "ok"), ("unfinished", "unfinished"),
    ]  # fmt: skip
    for nothing in (tmp_path / "none", folder / "a" / "log", tmp_path / "ball.ply"):
        with pytest.raises(InputError, match="name run folders"):
            rows_of(nothing)


def test_photos_and_what_the_model_makes_of_them(tmp_path):
    run = write_photo_run(tmp_path / "run", write_synthetic(tmp_path, 20))
    mean = {"psnr": 12.344, "ssim": 0.5, "seconds": 3.0}  # of a frame, not of the run
    (run / "ssim.json").write_text(json.dumps({"mean": mean}))
    row = row_of_run(run)
    assert row.numbers == {"psnr": 12.344, "ssim": 0.5}
    write_report(tmp_path / "report.html", "photos", [row], [row])
    page = (tmp_path / "report.html").read_text()
    assert len(URI.findall(page)) == 3 and "12.34" in page and "photo r_0" in page
    shutil.rmtree(tmp_path / "test")
    write_report(tmp_path / "report.html", "photos", [row], [row])
    assert "no pictures" in (tmp_path / "report.html").read_text()


def test_the_outcomes_of_a_sweep(tmp_path):
    known = {"path": "one.ply", "warnings": ["3 holes"], "about": "12 faces", "metrics": METRICS}
    known |= {"seconds": 3.5, "stages": {"fit": 3.0}, "peak_memory": 1 << 20}
    with StatusTable(tmp_path, "config") as table:
        table.append(Outcome("one", status="ok_with_warnings", **known))
        table.append(Outcome("two", status="refused", **known))
    row, failed = rows_of(tmp_path)
    assert row.folder == tmp_path / "one" and row.numbers["peak_memory"] == 1 << 20
    assert failed.folder is None
    write_report(tmp_path / "report.html", "sweep", [row, failed], [])
    assert "ok_with_warnings" in (page := (tmp_path / "report.html").read_text())
    assert "3 holes" in page


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    rows = [Row("run", folder=tmp_path / "a" / "run"), Row("run", folder=tmp_path / "b" / "run")]
    (first,), (second,) = grouped([[row] for row in rows])
    assert first.mesh.endswith("a/run") and second.mesh.endswith("b/run")
    assert grouped([rows[:1]]) == [rows[:1]] and worst(rows[:1]) == rows[:1] and not worst(rows)


def test_the_worst_come_first(tmp_path):
    rows = [Row(str(index), metrics={"surface_mean": error}, folder=tmp_path)
            for index, error in enumerate((1e-3, 5e-3, None, 2e-3))]  # fmt: skip
    rows += [Row("no run", metrics={"surface_mean": 1.0}), Row("failed", folder=tmp_path)]
    assert [row.mesh for row in worst(rows, 2)] == ["1", "3"]


def test_a_sweep_in_the_browser(tmp_path, browser):
    rows = many()
    write_report(path := tmp_path / "sweep.html", "a sweep", rows, [])
    browser.get(path.as_uri())
    assert not browser.get_log("browser")  # nothing refused, no error

    def names() -> list[str]:
        return [cell.text for cell in browser.find_elements("css selector", CELLS)]

    assert names() == [row.mesh for row in rows]
    heads = {head.text: head for head in browser.find_elements("css selector", "#meshes th")}
    heads["seconds"].click()
    up = names()
    assert up[:3] == ["mesh 0", "mesh 1", "mesh 2"] and up[10] == "mesh 10"
    assert heads["seconds"].get_attribute("aria-sort") == "ascending"
    heads["seconds"].click()
    down = names()
    assert down[:3] == ["mesh 11", "mesh 10", "mesh 9"]
    assert set(up[-2:]) == set(down[-2:]) == {"<b>bad</b>", "z"}  # without a number: last
    heads["surface mean"].click()
    assert names()[0] in ("mesh 4", "mesh 9")
    heads["status"].click()
    assert names()[0] == "z"

    assert len(browser.find_elements("css selector", "svg")) == 1
    statuses = browser.find_element("id", "statuses").text
    assert "ok 12" in statuses and "refused 1" in statuses
    before = browser.get_screenshot_as_png()
    browser.execute_script("document.querySelector('svg').remove()")
    assert browser.get_screenshot_as_png() != before  # the plots are seen
