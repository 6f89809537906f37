"""Point clouds that lie about themselves: one line, at once, and never other points than meant."""

import os

import numpy as np
import pymeshlab
import pytest

from dss.errors import InputError
from dss.geometry.mesh import load_mesh
from dss.geometry.points import is_cloud, load_points

POINTS = np.random.default_rng(0).normal(size=(50, 3))
TEXT = "\n".join(" ".join(map(str, row)) for row in POINTS) + "\n"
BINARY = POINTS.astype("<f4").tobytes()


def header(count: object, form="ascii", more="") -> str:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    return f"ply\nformat {form} 1.0\nelement vertex {count}\n{axes}{more}end_header\n"


def refused(tmp_path, name: str, content: str | bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message) as error:
        load_points(path)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "separator",
    [(",", " "), (",", "\t"), (",", ", ")],
)
def test_decimal_commas(tmp_path, separator):
    decimal, between = separator
    rows = [between.join(f"{value:.4f}" for value in row).replace(".", decimal) for row in POINTS]
    refused(tmp_path, "german.xyz", "\n".join(rows), "write decimals with points")


def test_thousands(tmp_path):
    rows = [" ".join(f"{value:,.2f}" for value in 1e5 * row) for row in POINTS]
    refused(tmp_path, "thousands.xyz", "\n".join(rows), "write decimals with points")


@pytest.mark.parametrize("separator", [",", ", ", ",\t", "\t", "   "])
def test_other_separators(tmp_path, separator):
    path = tmp_path / "cloud.xyz"
    path.write_text("\ufeff# x, y z\n" + TEXT.replace(" ", separator), encoding="utf-8")
    cloud = load_points(path)
    assert np.allclose(cloud.similarity.apply(cloud.points), POINTS) and cloud.estimated


@pytest.mark.parametrize("count", [0, 49, 51, 10**17])
def test_a_count_that_differs(tmp_path, count):
    refused(tmp_path, "cloud.pts", f"{count}\n{TEXT}", f"says {count:,} points and holds 50")
    if count:
        refused(tmp_path, "text.ply", header(count) + TEXT, f"says {count:,} points and holds 50")
        content = header(count, "binary_little_endian").encode() + BINARY
        refused(tmp_path, "binary.ply", content, f"says {count:,} points and holds 50")


@pytest.mark.parametrize(
    "content",
    [
        header(10**30) + TEXT,
        header(-5) + TEXT,
        header("fifty") + TEXT,
        header(50, "binary_middle_endian") + TEXT,
        header(50, more="property list uchar int ring\n") + TEXT,
        header(50, more="property float x\n") + TEXT,
        header(50, more="property quaternion q\n") + TEXT,
        header(50).replace("property float x\n", "") + TEXT,
        header(50).replace("element", "element face 1\nelement") + TEXT,
        header(50) + TEXT.replace("0", "zero", 1),
        "ply\n" + "comment\n" * 100_000 + header(50)[4:] + TEXT,
        "ply\nend_header\n",
        "ply",
        "",
    ],
    ids=range(14),
)
def test_absurd_ply_headers(tmp_path, content):
    refused(tmp_path, "cloud.ply", content, "export")
    path = tmp_path / "cloud.ply"
    if not is_cloud(path):
        with pytest.raises(InputError):
            load_mesh(path)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_more_than_positions_and_what_follows(tmp_path, form):
    path, count = tmp_path / "cloud.ply", len(POINTS)
    more = "property uchar red\nproperty double nx\nproperty double ny\nproperty double nz\n"
    more += (
        "element face 0\nproperty list uchar int vertex_indices\nelement note 1\nproperty int a\n"
    )
    order = ">" if "big" in form else "<"
    row = [(name, order + "f4") for name in "xyz"] + [("red", "u1")]
    table = np.zeros(count, row + [(name, order + "f8") for name in ("nx", "ny", "nz")])
    for name, values in zip("xyz", POINTS.T, strict=True):
        table[name] = table[f"n{name}"] = values
    text = "\n".join(" ".join(map(str, values)) for values in table.tolist()) + "\n7\n"
    body = text.encode() if form == "ascii" else table.tobytes() + bytes(4)
    path.write_bytes(header(count, form, more).encode() + body)
    cloud = load_points(path)
    assert is_cloud(path) and not cloud.estimated
    rounded = POINTS.astype(np.float32)
    assert np.allclose(cloud.similarity.apply(cloud.points), rounded, rtol=0, atol=1e-13)
    assert np.allclose(cloud.normals, POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True))


@pytest.mark.parametrize("binary", [True, False])
def test_points_are_those_that_meshlab_reads(tmp_path, binary):
    path, meshes = tmp_path / "cloud.ply", pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(POINTS, v_normals_matrix=POINTS))
    meshes.save_current_mesh(str(path), binary=binary, save_vertex_normal=True)
    meshes.load_new_mesh(str(path))
    from dss.geometry.points import _read_ply

    points, normals = _read_ply(path, path.read_bytes())
    assert np.array_equal(points, meshes.current_mesh().vertex_matrix())
    assert np.array_equal(normals, meshes.current_mesh().vertex_normal_matrix())


@pytest.mark.parametrize("name", ["cloud.pts", "cloud.ply"])
def test_pipes_and_devices_are_not_opened(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    for _ in range(2):
        assert is_cloud(path) == (name == "cloud.pts")
        with pytest.raises(InputError, match="no such file"):
            load_points(path)
        path.unlink()
        path.symlink_to("/dev/zero")


def test_names_that_cannot_be():
    for name in ("x" * 300 + ".ply", "a\0b.ply"):
        assert not is_cloud(name)
        with pytest.raises(InputError, match="cannot be read"):
            load_points(name)


def test_a_name_that_is_no_unicode(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.ply")
    path.write_text(header(50) + TEXT)
    assert is_cloud(path) and len(load_points(path).points) == 50


@pytest.mark.filterwarnings("error")
def test_normals_beyond_doubles(tmp_path):
    rows = TEXT.replace("\n", " 1e200 1e200 1e200\n")
    refused(tmp_path, "cloud.xyz", rows, "normals are NaN or zero")
