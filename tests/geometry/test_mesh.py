import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.optimize import nnls

from dss.errors import InputError
from dss.geometry.mesh import enclosing_ball, load_mesh, surface_samples

BALL = trimesh.creation.icosphere(3, radius=2.0).apply_translation([1, 2, 3])  # 1,280 faces
FORMATS = ("obj", "stl", "ply", "off", "glb", "3mf")


def as_trimesh(mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def write_obj(path: Path, vertices, faces, header="") -> Path:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in np.asarray(vertices, float).tolist()]
    lines += ["f " + " ".join(str(index + 1) for index in face) for face in faces]
    path.write_text("\n".join([header, *lines, ""]), encoding="latin-1")
    return path


def encoded(extension: str) -> bytes:
    """The ball as a file; `ascii.` in front for the text flavour."""
    if extension == "ascii.stl":
        data = BALL.export(file_type="stl_ascii")
    elif extension == "ascii.ply":
        data = BALL.export(file_type="ply", encoding="ascii")
    else:
        data = BALL.export(file_type=extension)
    return data.encode() if isinstance(data, str) else data


def message(path: Path | str) -> str:
    """The error of a bad file: one line that names it."""
    with pytest.raises(InputError) as caught:
        load_mesh(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and "; " in text, text
    return text


@pytest.fixture(autouse=True)
def no_noise(capfd, caplog):
    """Neither loading nor refusing a mesh prints, logs or warns."""
    yield
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.filterwarnings("error")
class TestFormats:
    @pytest.mark.parametrize("extension", [*FORMATS, "ascii.stl", "ascii.ply"])
    def test_ball(self, tmp_path, extension):
        path = tmp_path / f"ball.{extension}"
        path.write_bytes(encoded(extension))
        mesh = load_mesh(path)
        report = mesh.report
        assert (
            report.faces,
            report.vertices,
            report.bodies,
            report.boundary_edges,
            report.nonmanifold_edges,
        ) == (1280, 642, 1, 0, 0)
        assert report.watertight and "1,280 faces, 642 vertices, 1 body, watertight" in str(report)
        assert mesh.vertices.dtype == np.float64 and mesh.faces.dtype == np.int64
        assert np.allclose(np.linalg.norm(mesh.vertices, axis=1), 0.9, atol=1e-6)
        assert np.allclose(
            mesh.similarity.center, [1, 2, 3], atol=1e-6
        ) and mesh.similarity.scale == pytest.approx(2 / 0.9, rel=1e-6)
        assert np.allclose(
            as_trimesh(mesh).volume * mesh.similarity.scale**3, BALL.volume, rtol=1e-6
        )
        assert mesh.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and mesh.path == str(
            path
        )

    def test_radius_and_inverse(self, tmp_path):
        path = tmp_path / "box.ply"
        box = trimesh.creation.box((1, 2, 3)).apply_translation([5, 6, 7])
        box.export(path)
        mesh = load_mesh(path, radius=0.5)
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.5, abs=1e-12)
        assert np.allclose(mesh.similarity.apply(mesh.vertices), box.vertices, atol=1e-12)
        for wrong in (0, 1.1, float("nan")):
            with pytest.raises(InputError, match="radius"):
                load_mesh(path, radius=wrong)

    def test_scene(self, tmp_path):
        """Instances are placed; a mirrored one keeps its outside out; what is not a mesh is
        dropped."""
        scene, box = trimesh.Scene(), trimesh.creation.box()
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix([3, 0, 0]))
        scene.add_geometry(box, transform=np.diag([-2.0, 1, 1, 1]))
        scene.add_geometry(trimesh.PointCloud(np.random.default_rng(0).random((10, 3)) + 9))
        scene.export(tmp_path / "scene.glb")
        mesh = load_mesh(tmp_path / "scene.glb")
        assert mesh.report.bodies == 2 and mesh.report.watertight
        assert as_trimesh(mesh).volume * mesh.similarity.scale**3 == pytest.approx(3.0)
        assert np.allclose(mesh.similarity.apply(mesh.vertices).min(0), [-1, -0.5, -0.5])

    def test_polygons(self, tmp_path):
        """An L-shaped prism of quads and concave hexagons, in a file that is not UTF-8."""
        outline = np.array([(1, 1), (1, 2), (0, 2), (0, 0), (2, 0), (2, 1)])
        vertices = [(x, y, z) for z in (0, 1) for x, y in outline]
        side = [[i, i + 6, (i + 1) % 6 + 6, (i + 1) % 6] for i in range(6)]
        path = write_obj(
            tmp_path / "prism.obj",
            vertices,
            [list(range(6)), list(range(11, 5, -1)), *side],
            "# d\xe9j\xe0 vu\nmtllib absent.mtl\nusemtl paint",
        )
        mesh = load_mesh(path)
        solid = as_trimesh(mesh)
        assert mesh.report.watertight
        assert solid.volume * mesh.similarity.scale**3 == pytest.approx(
            3
        ) and solid.area * mesh.similarity.scale**2 == pytest.approx(14)

    def test_demo(self, monkeypatch):
        """The word stands for the generated mesh, here a quicker one; its hash is that of its
        arrays."""
        monkeypatch.setattr("dss.geometry.demo_mesh.demo_mesh", lambda: BALL)
        mesh = load_mesh("demo")
        assert (
            mesh.report.watertight
            and mesh.path == "demo"
            and mesh.similarity.scale == pytest.approx(2 / 0.9)
        )
        assert (
            mesh.sha256
            == hashlib.sha256(
                np.asarray(BALL.vertices).tobytes() + np.asarray(BALL.faces).tobytes()
            ).hexdigest()
        )


@pytest.mark.filterwarnings("error")
class TestCleaning:
    def test_repairs(self, tmp_path):
        """Unreferenced and duplicate vertices, repeated and zero-area faces go; nothing else
        moves."""
        vertices = np.concatenate(
            [BALL.vertices, BALL.vertices[:1], [[9, 9, 9]], BALL.vertices[:1] + 1e-9]
        )
        faces = np.concatenate(
            [BALL.faces, BALL.faces[:5], np.roll(BALL.faces[:1], 1, 1), [[0, 642, 7]], [[0, 3, 3]]]
        )
        faces[0] = np.where(faces[0] == 0, 642, faces[0])
        mesh = load_mesh(write_obj(tmp_path / "a.obj", vertices, faces))
        assert mesh.report.watertight and mesh.report.faces == 1280 and mesh.report.vertices == 642
        assert np.allclose(mesh.similarity.apply(mesh.vertices), BALL.vertices, atol=1e-14)
        assert any("coincident faces" in repair for repair in mesh.report.repairs)

    def test_close_vertices_stay_apart(self, tmp_path):
        vertices = np.concatenate([BALL.vertices, BALL.vertices + [0, 0, 1e-12]])
        mesh = load_mesh(
            write_obj(tmp_path / "a.obj", vertices, np.concatenate([BALL.faces, BALL.faces + 642]))
        )
        assert mesh.report.vertices == 1284 and mesh.report.bodies == 2

    def test_zero_area_face_does_not_count_as_a_hole(self, tmp_path):
        """A T-junction stitched by a face of three collinear corners: closed, though the stitch is
        removed."""
        box = trimesh.creation.box()
        a, b, c = box.faces[0]
        owner = next(face for face in box.faces[1:] if {a, b} <= set(face))
        other = next(iter(set(owner) - {a, b}))
        middle = len(box.vertices)
        faces = [face for face in box.faces.tolist() if face != list(owner)]
        faces += [[b, a, middle][::1], [a, other, middle], [other, b, middle]]
        vertices = np.vstack([box.vertices, box.vertices[[a, b]].mean(0)])
        mesh = load_mesh(write_obj(tmp_path / "a.obj", vertices, faces))
        assert (
            mesh.report.watertight
            and mesh.report.faces == 13
            and mesh.report.repairs == ("zero-area faces removed: 1",)
        )

    def test_membrane_between_touching_bodies(self, tmp_path):
        """Two boxes that share a side, twice: both copies go, and one solid remains."""
        box = trimesh.creation.box()
        mirror = box.vertices * [-1, 1, 1] + [1, 0, 0]
        faces = np.concatenate([box.faces, box.faces[:, ::-1] + 8])
        mesh = load_mesh(
            write_obj(tmp_path / "a.obj", np.concatenate([box.vertices, mirror]), faces)
        )
        assert mesh.report.watertight and mesh.report.faces == 20 and mesh.report.bodies == 1
        assert as_trimesh(mesh).volume * mesh.similarity.scale**3 == pytest.approx(2)

    def test_inside_out(self, tmp_path):
        mesh = load_mesh(write_obj(tmp_path / "a.obj", BALL.vertices, BALL.faces[:, ::-1]))
        assert as_trimesh(mesh).volume > 0 and mesh.report.repairs == ("inside out, so turned",)

    def test_turned_faces(self, tmp_path):
        """A hollow ball with a hole and turned faces: the outer surface looks out again, the cavity
        stays a cavity."""
        faces = np.concatenate([BALL.faces, BALL.faces[:, ::-1] + 642])
        wrong = np.random.default_rng(0).choice(len(faces), 300, replace=False)
        broken = faces.copy()
        broken[wrong] = broken[wrong, ::-1]
        vertices = np.concatenate([BALL.vertices, 0.5 * (BALL.vertices - [1, 2, 3]) + [1, 2, 3]])
        mesh = load_mesh(write_obj(tmp_path / "a.obj", vertices, broken[1:]))
        normals = trimesh.Trimesh(vertices, faces[1:], process=False).face_normals
        assert np.allclose((as_trimesh(mesh).face_normals * normals).sum(1), 1)
        assert not mesh.report.watertight and mesh.report.boundary_edges == 3
        count = 300 - (0 in wrong)
        edges = "not watertight (3 boundary and 0 non-manifold edges)"
        assert f"{edges}; faces turned to agree with their neighbours: {count}" in str(mesh.report)

    def test_nonmanifold_edges_are_counted(self, tmp_path):
        """Two tetrahedra that share an edge: no volume is lost, and the report says what is odd."""
        vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [-1, 0, 0], [-1, -1, 0]]
        tetrahedron = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
        mesh = load_mesh(
            write_obj(
                tmp_path / "a.obj", vertices, [*tetrahedron, *np.array([0, 1, 4, 5])[tetrahedron]]
            )
        )
        assert (mesh.report.nonmanifold_edges, mesh.report.boundary_edges, mesh.report.bodies) == (
            1,
            0,
            1,
        )
        assert as_trimesh(mesh).volume * mesh.similarity.scale**3 == pytest.approx(1 / 3)

    @pytest.mark.parametrize("size", [1e-100, 1e-12, 1e-6, 1e6, 1e12, 1e100])
    def test_any_unit(self, tmp_path, size):
        mesh = load_mesh(write_obj(tmp_path / "a.obj", BALL.vertices * size, BALL.faces))
        assert mesh.report.watertight and mesh.report.repairs == ()
        assert np.allclose(mesh.vertices * 2 / 0.9, BALL.vertices - [1, 2, 3], atol=1e-12)
        assert np.allclose(mesh.similarity.apply(mesh.vertices) / size, BALL.vertices, atol=1e-12)

    def test_far_from_the_origin(self, tmp_path):
        """At 1e12 float64 keeps 1e-4 of a unit: a coarser ball, but a ball."""
        mesh = load_mesh(write_obj(tmp_path / "a.obj", BALL.vertices + 1e12, BALL.faces))
        assert mesh.report.watertight and mesh.similarity.scale == pytest.approx(2 / 0.9, rel=1e-3)


@pytest.mark.filterwarnings("error")
class TestBadFiles:
    def test_missing(self, tmp_path):
        assert "no such file" in message(tmp_path / "absent.ply")
        (tmp_path / "folder.ply").mkdir()
        assert "no such file" in message(tmp_path / "folder.ply")

    @pytest.mark.parametrize("extension", FORMATS)
    @pytest.mark.parametrize(
        "content",
        [b"", b"hello\nthis is no mesh\n", np.random.default_rng(0).bytes(5000)],
        ids=["empty", "text", "garbage"],
    )
    def test_not_a_mesh(self, tmp_path, extension, content):
        path = tmp_path / f"bad.{extension}"
        path.write_bytes(content)
        message(path)

    @pytest.mark.parametrize("extension", [*FORMATS, "ascii.stl", "ascii.ply"])
    @pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
    def test_truncated(self, tmp_path, extension, share):
        path = tmp_path / f"cut.{extension}"
        data = encoded(extension)
        path.write_bytes(data[: int(share * len(data))])
        # The format has no count of faces and no end: what is left is a mesh with a hole
        if (extension, share) == ("obj", 0.99):
            assert not load_mesh(path).report.watertight
        else:
            message(path)

    @pytest.mark.parametrize("suffix", ["", ".foo"])
    def test_unknown_format(self, tmp_path, suffix):
        path = tmp_path / f"ball{suffix}"
        path.write_bytes(encoded("ply"))
        assert "suffix" in message(path)

    @pytest.mark.parametrize("extension", ["obj", "stl", "ply"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, extension, value):
        vertices = BALL.vertices.copy()
        vertices[5, 1] = value
        path = tmp_path / f"a.{extension}"
        if extension == "obj":
            write_obj(path, vertices, BALL.faces)
        elif extension == "ply":
            path.write_bytes(
                encoded("ply").replace(
                    np.float32(BALL.vertices[5, 1]).tobytes(), np.float32(value).tobytes()
                )
            )
        else:
            triangles = b"".join(
                struct.pack("<12fH", 0, 0, 1, *corners.ravel(), 0)
                for corners in vertices[BALL.faces]
            )
            path.write_bytes(bytes(80) + struct.pack("<I", len(BALL.faces)) + triangles)
        assert "NaN or infinite" in message(path)

    def test_not_finite_among_polygons(self, tmp_path):
        vertices = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, float("nan")]]
        assert "1 of 5 vertices are NaN" in message(
            write_obj(tmp_path / "a.obj", vertices, [[0, 1, 2, 3], [0, 1, 4]])
        )

    def test_no_faces(self, tmp_path):
        assert "no faces" in message(write_obj(tmp_path / "a.obj", BALL.vertices, []))
        trimesh.PointCloud(BALL.vertices).export(tmp_path / "cloud.ply")
        assert "point cloud" in message(tmp_path / "cloud.ply")

    def test_face_without_vertex(self, tmp_path):
        message(write_obj(tmp_path / "a.obj", np.eye(3), [[0, 1, 7]]))

    def test_no_volume(self, tmp_path):
        grid = np.array([(x, y, 0.1 * x + 0.3 * y + 7) for x in range(5) for y in range(5)])
        squares = [
            [5 * i + j, 5 * i + j + 1, 5 * i + j + 6, 5 * i + j + 5]
            for i in range(4)
            for j in range(4)
        ]
        box = trimesh.creation.box()
        for name, vertices, faces in (
            ("one triangle", np.eye(3), [[0, 1, 2]]),
            ("a sheet", grid, squares),
            ("a sheet with a back", grid, [*squares, *(square[::-1] for square in squares)]),
            ("a flattened box", box.vertices * [1, 1, 0], box.faces),
            ("a line", [[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]]),
        ):
            assert "no volume" in message(write_obj(tmp_path / f"{name}.obj", vertices, faces)), (
                name
            )

    def test_no_extent(self, tmp_path):
        for size in (0, 1e-200, 1e300):
            assert "span" in message(
                write_obj(tmp_path / "a.obj", BALL.vertices * size, BALL.faces)
            )


class TestEnclosingBall:
    """The optimum is unique, and known by its certificate: the centre lies in the hull of the
    points on the boundary."""

    @pytest.mark.parametrize("kind", ["cloud", "sphere", "lattice", "flat"])
    def test_certificate(self, kind):
        generator = np.random.default_rng(1)
        for _ in range(50):
            points = generator.normal(size=(generator.integers(4, 300), 3))
            if kind == "sphere":
                points /= np.linalg.norm(points, axis=1, keepdims=True)
            elif kind == "lattice":
                points = points.round(1)
            elif kind == "flat":
                points *= [1, 1, 1e-4]
            center, radius = enclosing_ball(points)
            offset = points - center
            distance = np.linalg.norm(offset, axis=1)
            boundary = offset[distance > radius * (1 - 1e-9)]
            assert distance.max() <= radius * (1 + 1e-12)
            assert nnls(np.vstack([boundary.T, np.ones(len(boundary))]), [0, 0, 0, 1])[1] < 1e-6

    def test_many_points_on_a_sphere(self):
        points = trimesh.creation.icosphere(6).vertices  # 40,962, all of them on the hull
        noise = 1 + 1e-9 * np.random.default_rng(0).normal(size=(len(points), 1))
        center, radius = enclosing_ball(points * noise)
        assert np.abs(center).max() < 1e-8 and radius == pytest.approx(1, abs=1e-8)


class TestSurfaceSamples:
    def test_uniform(self):
        """Counts per face follow the areas, and points the faces: chi-square and moments of a
        stretched box."""
        box = trimesh.creation.box((1, 2, 3))
        points, face = surface_samples(
            np.asarray(box.vertices), np.asarray(box.faces), 200_000, seed=3
        )
        expected = box.area_faces / box.area * len(points)
        # 11 degrees of freedom
        assert ((np.bincount(face, minlength=12) - expected) ** 2 / expected).sum() < 40
        assert np.allclose(
            trimesh.triangles.closest_point(box.triangles[face], points), points, atol=1e-12
        )
        for index in range(12):
            inside = points[face == index]
            assert np.allclose(inside.mean(0), box.triangles_center[index], atol=0.03)

    def test_seed(self):
        vertices, faces = np.asarray(BALL.vertices), np.asarray(BALL.faces)
        first, again, other = (surface_samples(vertices, faces, 100, seed) for seed in (1, 1, 2))
        assert (
            (first[0] == again[0]).all()
            and (first[1] == again[1]).all()
            and (first[0] != other[0]).any()
        )


def test_thingi32_is_already_normalised(data):
    for path in sorted((data / "thingi32").glob("*.ply")):
        mesh, raw = load_mesh(path), trimesh.load(path, process=False)
        assert np.abs(mesh.similarity.center).max() < 1e-6 and abs(mesh.similarity.scale - 1) < 1e-6
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.9, abs=1e-6)
        assert (mesh.faces == raw.faces).all() and np.allclose(
            mesh.similarity.apply(mesh.vertices), raw.vertices, atol=1e-14
        )
        assert mesh.report.repairs == () and mesh.report.watertight == (path.stem != "96481")


def test_more_points_on_a_circle_than_define_the_ball():
    """miniball meets singular matrices in about one of a hundred rods, moved and rounded."""
    generator = np.random.default_rng(0)
    rod = np.asarray(trimesh.creation.cylinder(0.05, 2, sections=16).vertices)
    for _ in range(400):
        size = 10 ** generator.uniform(-4, 4)
        points = (size * (rod + generator.uniform(-3, 3, 3))).astype(np.float32).astype(float)
        low, high = points.min(0), points.max(0)
        _, radius = enclosing_ball(
            generator.permutation((2 * points - low - high) / (high - low).max())
        )
        assert radius * (high - low).max() / 2 == pytest.approx(size * (1 + 0.05**2) ** 0.5, 1e-6)
