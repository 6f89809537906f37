"""What a camera sees of a subject, with all that the viewer can switch on."""

import numpy as np
import pytest
import torch

from dss.errors import InputError
from dss.rendering.buffers import render
from dss.rendering.cameras import turntable
from dss.rendering.modes import IMAGES
from dss.rendering.slices import REACH, Plane
from dss.viewer.frames import (
    FIELD_MODES,
    MESH_MODES,
    Look,
    bands,
    draw,
    draw_beside,
    modes,
    resized,
)
from dss.viewer.subject import open_subject

SIZE = 64


@pytest.fixture
def subject(ball_run, ball):
    """A field that is the distance to a ball of 0.9, with its mesh."""
    return open_subject(ball_run, str(ball_run.parent / "ball.ply"))


@pytest.fixture
def camera():
    return turntable(1, SIZE)[0]


def test_the_field_is_that_of_render(subject, camera):
    seen = render(subject.field, camera)
    frame = draw(subject, camera, Look())
    assert np.array_equal(frame.image, IMAGES["shaded"](seen))
    assert np.array_equal(np.isfinite(frame.depth), seen.hit) and seen.hit.any()
    middle = frame.depth[SIZE // 2, SIZE // 2]
    assert middle == pytest.approx(camera.pose[:, 3].norm().item() - 0.9, abs=2e-3)


def test_each_mode_has_its_picture(subject, camera):
    assert modes(subject) == [*FIELD_MODES, *MESH_MODES, "error", "nothing"]
    seen = {mode: draw(subject, camera, Look(mode)).image for mode in modes(subject)}
    for switched in ({"inner": True}, {"outer": True}, {"plane": Plane(1, 0.0)}):
        seen[str(switched)] = draw(subject, camera, Look(**switched)).image
    look = Look(plane=Plane(1, 0.0), content="shell")
    seen["shell"] = draw(subject, camera, look).image
    # a ball and its mesh look alike, everything else differs
    same = {frozenset(pair) for pair in (("field", "mesh"), ("normals", "mesh normals"))}
    names = list(seen)
    for index, name in enumerate(names):
        for other in names[:index]:
            if {name, other} not in same:
                gap = np.abs(seen[name].astype(int) - seen[other]).mean()
                assert gap > 1, (name, other)
    assert (seen["nothing"] == 255).all()


def test_the_error_has_the_scale_of_the_look(subject, camera):
    fine, coarse = (draw(subject, camera, Look("error", error=top)).image for top in (1e-5, 1.0))
    center = SIZE // 2, SIZE // 2
    assert fine[center].tolist() == [253, 231, 37] and coarse[center].tolist() == [68, 1, 84]


def test_the_plane_cuts_what_is_before_it(subject, camera):
    whole = draw(subject, camera, Look()).depth
    for mode in ("field", "mesh"):
        cut = draw(subject, camera, Look(mode, plane=Plane(0, 0.0)))
        hit = np.isfinite(whole) & np.isfinite(cut.depth)
        assert (cut.depth[hit] >= whole[hit] - 2e-3).all()
        center = SIZE // 2
        # the camera looks at the origin, which lies on the plane
        distance = camera.pose[:, 3].norm().item()
        assert cut.depth[center, center] == pytest.approx(distance, abs=0.05)
    far = draw(subject, camera, Look(plane=Plane(0, -REACH - 1.0)))
    assert (far.image == 255).all()  # all lies on the camera's side


def test_two_are_seen_by_one_camera(subject, camera):
    image = draw_beside([subject, subject], camera, Look()).image
    assert image.shape == (SIZE, SIZE, 3)
    share = (SIZE - 2) // 2
    assert np.array_equal(image[:, :share], image[:, share + 2 : 2 * share + 2])
    assert np.array_equal(
        draw_beside([subject], camera, Look()).image, draw(subject, camera, Look()).image
    )


def test_what_a_subject_lacks_is_shown_by_what_it_has(subject, ball_run, camera):
    mesh = open_subject(ball_run.parent / "ball.ply")
    assert modes(mesh) == [*MESH_MODES, "nothing"] and mesh.shell is None
    look = Look("field", inner=True, plane=Plane(2, 0.0), content="shell")
    assert np.array_equal(
        draw(mesh, camera, look).image, draw(mesh, camera, Look("mesh", plane=look.plane)).image
    )
    lost = open_subject(ball_run)
    assert lost.truth is None and "--data" in lost.about and "error" not in modes(lost)


def test_bands_make_the_picture(subject, camera):
    parts = bands(camera, 10 * SIZE)
    assert [part.height for part in parts] == [10] * 6 + [4]
    image = np.concatenate([draw(subject, part, Look("normals")).image for part in parts])
    gap = np.abs(image.astype(int) - draw(subject, camera, Look("normals")).image)
    assert gap.max() <= 1


def test_a_smaller_picture_shows_the_same(camera):
    small = resized(camera, 100)
    assert (small.width, small.height) == (10, 10)
    point = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    pixels = [view.project(point)[0] / view.width for view in (small, camera)]
    assert torch.allclose(*pixels)
    assert resized(camera, 10**6).width == SIZE


def test_nothing_of_the_kind(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        open_subject(tmp_path)
    (tmp_path / "bad.ply").write_text("ply\nnothing")
    with pytest.raises(InputError, match="bad.ply"):
        open_subject(tmp_path / "bad.ply")
