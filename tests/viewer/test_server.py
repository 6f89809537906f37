"""The viewer in a headless Chromium: what the page shows follows the controls and the camera."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from dss.viewer.subject import open_subject

pytest.importorskip("viser", reason="viser is not installed: pip install -e '.[view]'")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.action_chains import ActionChains

from dss.errors import InputError
from dss.viewer.server import Viewer
from tests.helpers import write_photo_run, write_synthetic

PORT = 18080
WAIT = 90.0  # seconds, for machines that do much else
LABEL = "//label[normalize-space()='{}']"
OPTION = "//div[@role='option'][normalize-space()='{}']"


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether more than a few pixels of two pictures (h, w, 3) differ."""
    return (np.abs(one - other).max(2) > 16).sum() > 100


class Page:
    """A viewer's page in the browser."""

    def __init__(self, browser, viewer: Viewer):
        self.browser, self.viewer = browser, viewer
        browser.get(viewer.url)
        self.settled()

    def canvas(self) -> np.ndarray:
        """What the page shows where it has no panel: (h, w, 3) int."""
        shot = Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")
        return np.asarray(shot, int)[190:, :550]

    def settled(self) -> np.ndarray:
        """The page when its full picture is there: when it stays the same for a while."""
        end, last, since = time.monotonic() + WAIT, None, time.monotonic()
        while time.monotonic() < end:
            image = self.canvas()
            if last is None or not np.array_equal(image, last):
                last, since = image, time.monotonic()
            drawn = "when still" in self.viewer.rate.content and len(np.unique(image)) > 20
            if drawn and time.monotonic() - since > 1.5:
                return image
            time.sleep(0.2)
        raise AssertionError("the page never came to rest")

    def changed(self, before: np.ndarray) -> np.ndarray:
        """The page at rest, once it shows something else than before."""
        end = time.monotonic() + WAIT
        while not differ(self.canvas(), before):
            assert time.monotonic() < end, "the page shows the same as before"
            time.sleep(0.2)
        after = self.settled()
        assert differ(after, before)
        return after

    def control(self, label: str):
        """The control beside a label."""
        name = self.browser.find_element("xpath", LABEL.format(label)).get_attribute("for")
        return self.browser.find_element("id", name)

    def choose(self, label: str, option: str) -> None:
        self.control(label).click()
        end = time.monotonic() + WAIT
        while not (found := self.shown(option)):
            assert time.monotonic() < end, f"no option {option}"
            time.sleep(0.1)
        found[0].click()

    def shown(self, option: str) -> list:
        found = self.browser.find_elements("xpath", OPTION.format(option))
        return [element for element in found if element.is_displayed()]


@pytest.fixture(scope="module")
def pages(browser):
    """Opens viewers' pages, one after the other."""
    open_viewers = []

    def visit(subjects, **options) -> Page:
        viewer = Viewer(subjects, port=PORT, size=128, **options)
        open_viewers.append(viewer)
        return Page(browser, viewer.__enter__())

    yield visit
    browser.get("about:blank")
    for viewer in open_viewers:
        viewer.__exit__(None, None, None)


def test_the_picture_follows_the_controls_and_the_camera(ball_run, pages, browser):
    page = pages([open_subject(ball_run, str(ball_run.parent / "ball.ply"))])
    seen = [page.settled()]
    assert "frames/s" in browser.find_element("tag name", "body").text
    for mode in ("normals", "error", "steps", "mesh normals"):
        page.choose("show", mode)
        seen.append(page.changed(seen[-1]))
    page.control("outer spheres").click()
    seen.append(page.changed(seen[-1]))
    page.control("cutting plane").click()
    seen.append(page.changed(seen[-1]))
    page.choose("axis", "x")
    seen.append(page.changed(seen[-1]))

    before = page.viewer.server.get_clients().popitem()[1].camera.position.copy()
    canvas = browser.find_element("tag name", "canvas")
    ActionChains(browser).drag_and_drop_by_offset(canvas, -60, 20).perform()
    page.changed(seen[-1])
    after = page.viewer.server.get_clients().popitem()[1].camera.position
    assert np.linalg.norm(after - before) > 0.1


def test_two_runs_beside_each_other(ball_run, pages):
    subject = open_subject(ball_run, str(ball_run.parent / "ball.ply"))
    one = pages([subject]).settled()
    two = pages([subject, open_subject(ball_run.parent / "ball.ply")]).settled()
    assert differ(one, two)


def test_photos_stand_at_their_cameras(tmp_path, pages):
    run = write_photo_run(tmp_path / "run", write_synthetic(tmp_path, 20))
    page = pages([open_subject(run)])
    with_cameras = page.settled()
    page.control("cameras").click()
    without = page.changed(with_cameras)
    page.choose("show", "colours")
    page.changed(without)


def test_a_port_that_is_none(ball_run):
    with pytest.raises(InputError, match="--port 70000"):
        Viewer([open_subject(ball_run)], port=70000)
