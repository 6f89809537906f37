def test_table(tmp_path, box, script, cache):
    box.export(tmp_path / "box.ply")
    options = ["--views", "2", "--size", "64"]
    code, out, error = script("scripts.compare_truths", tmp_path / "box.ply", *options)
    assert code == 0, error
    line = out.strip().split("\n")[-1].replace("%", "").split("|")
    name, mask, ssim, normals, turned, depth = (cell.strip() for cell in line[1:-1])
    assert name == "box" and float(mask) < 0.2 and 0.9 < float(ssim) < 1
    assert 0.1 < float(normals) < 10 and 0.1 < float(turned) < 20 and 0 < float(depth) < 1e-3
