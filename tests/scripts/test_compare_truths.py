import sys

from dss import cli
from scripts import compare_truths


def test_table(tmp_path, box, monkeypatch, capsys):
    box.export(tmp_path / "box.ply")
    monkeypatch.setenv("DSS_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["compare_truths.py", str(tmp_path / "box.ply"), "--views", "2", "--size", "64"])
    cli.run(compare_truths.main)
    line = capsys.readouterr().out.strip().split("\n")[-1].replace("%", "").split("|")
    name, mask, ssim, normals, turned, depth = (cell.strip() for cell in line[1:-1])
    assert name == "box" and float(mask) < 0.2 and 0.9 < float(ssim) < 1
    assert 0.1 < float(normals) < 10 and 0.1 < float(turned) < 20 and 0 < float(depth) < 1e-3
