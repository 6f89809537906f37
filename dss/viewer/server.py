"""The viewer in the browser: page, camera and controls are viser's, the pictures are ours.

For each browser, a thread draws what its camera sees and sends it as the picture behind viser's
scene. It draws few pixels, as many as its time allows, while the camera moves, and all of them when
it stands still.
"""

import math
import time
from threading import Event, Thread

import numpy as np
import torch
import viser
from scipy.spatial.transform import Rotation

from dss.errors import InputError
from dss.reconstruction.scene import Photo
from dss.rendering.cameras import FOV, Camera, turntable
from dss.rendering.slices import REACH, Plane
from dss.viewer.frames import Frame, Look, bands, draw_beside, labelled, modes, resized
from dss.viewer.subject import Subject

PERIOD = 1 / 20  # seconds that a frame should take while the camera moves
PAUSE = 0.2  # seconds without a movement, after which the full picture is drawn
MIN_PIXELS = 64 * 64  # of a frame
BAND = 1 << 15  # pixels drawn between two looks at whether the camera has moved again
THUMBNAIL = 160  # pixels, the width of the photos at their cameras
AWAY = 3.0  # how many times farther than the cameras of photos the browser's begins
MAX_DEPTH = 100.0  # that viser can say
SCALE = 0.1  # of the cameras of photos, per distance from the origin


class Viewer:
    """Subjects beside each other in the browser, at http://host:port.

    A full picture has at most `size` x `size` pixels. Raises InputError where the port is none.
    """

    def __init__(
        self, subjects: list[Subject], host: str = "localhost", port: int = 8080, size: int = 1024
    ):
        if not 0 < port < 1 << 16:
            raise InputError(f"--port {port}: ports are 1 to 65535; 8080 is usual")
        self.subjects, self.size = subjects, size
        self.moved: dict[int, Event] = {}  # by client
        self.threads: list[Thread] = []
        self.server = viser.ViserServer(host, port, label="dss", verbose=False)
        self.server.scene.set_up_direction("+z")
        self.server.initial_camera.position = _start(subjects)
        self.server.initial_camera.look_at = np.zeros(3)
        self.server.initial_camera.fov = math.radians(FOV)
        self.server.gui.configure_theme(control_layout="floating", show_share_button=False)
        self._add_controls()
        self._add_photos()
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(self._disconnect)

    @property
    def url(self) -> str:
        """Where the browser finds it; the port is the next free one."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def look(self) -> Look:
        """What the controls say."""
        plane = None
        if self.cut.value:
            plane = Plane("xyz".index(self.axis.value), self.offset.value)
        return Look(
            self.mode.value, self.inner.value, self.outer.value, plane, self.content.value,
            10**self.error.value,
        )  # fmt: skip

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        for client in list(self.moved):
            self._forget(client)
        for thread in self.threads:
            thread.join()
        self.server.stop()

    def _add_controls(self) -> None:
        gui, known = self.server.gui, [modes(subject) for subject in self.subjects]
        gui.add_markdown(
            "\n\n".join(f"**{subject.name}**: {subject.about}" for subject in self.subjects)
        )
        self.rate = gui.add_markdown("")
        options = list(dict.fromkeys(mode for each in known for mode in each))
        self.mode = gui.add_dropdown("show", options)
        top = "logarithm of the distance that has the top colour"
        self.error = gui.add_slider("error, log10", -5, -1, 0.1, -3, hint=top)
        shells = any(subject.shell is not None for subject in self.subjects)
        self.outer = gui.add_checkbox("outer spheres", False, visible=shells)
        self.inner = gui.add_checkbox("inner spheres", False, visible=shells)
        self.cut = gui.add_checkbox("cutting plane", False)
        self.axis = gui.add_dropdown("axis", ("x", "y", "z"), initial_value="y")
        self.offset = gui.add_slider("place", -REACH, REACH, 0.01, 0.0)
        self.content = gui.add_dropdown("on the plane", ("distance", "shell"), visible=shells)
        self.cameras = gui.add_checkbox(
            "cameras", True, visible=any(subject.photos for subject in self.subjects)
        )
        controls = (
            self.mode, self.error, self.outer, self.inner, self.cut, self.axis, self.offset,
            self.content,
        )  # fmt: skip
        for control in controls:
            control.on_update(lambda _: [moved.set() for moved in self.moved.values()])

    def _add_photos(self) -> None:
        """The cameras of the photos, with their pictures. A click on one takes the browser there,
        and shows the whole picture in the panel."""
        photos = {photo.name: photo for subject in self.subjects for photo in subject.photos}
        root = self.server.scene.add_frame("/cameras", show_axes=False)
        self.cameras.on_update(lambda _: setattr(root, "visible", self.cameras.value))
        if not photos:
            return
        shown = self.server.gui.add_image(np.zeros((1, 1, 3), np.uint8), visible=False)
        for name, photo in photos.items():
            camera = photo.camera
            image = _picture(photo)
            step = max(1, image.shape[1] // THUMBNAIL)
            x, y, z, w = Rotation.from_matrix(camera.pose[:, :3].numpy()).as_quat()
            frustum = self.server.scene.add_camera_frustum(
                f"/cameras/{name}",
                2 * math.atan(camera.height / 2 / float(camera.intrinsics[1, 1])),
                camera.width / camera.height,
                scale=SCALE * float(camera.pose[:, 3].norm()),
                image=image[::step, ::step],
                wxyz=(w, x, y, z),
                position=camera.pose[:, 3].numpy(),
            )

            def go(event, camera=camera, image=image, name=name) -> None:
                shown.image, shown.label, shown.visible = image, name, True
                eye = camera.pose[:, 3].numpy()
                event.client.camera.position = eye
                event.client.camera.look_at = eye + camera.pose[:, 2].numpy() * np.linalg.norm(eye)

            frustum.on_click(go)

    def _connect(self, client: viser.ClientHandle) -> None:
        moved = self.moved[client.client_id] = Event()
        moved.set()

        @client.camera.on_update
        async def _(_: viser.CameraHandle) -> None:
            moved.set()

        thread = Thread(target=self._serve, args=(client, moved), daemon=True)
        self.threads = [other for other in self.threads if other.is_alive()] + [thread]
        thread.start()

    def _disconnect(self, client: viser.ClientHandle) -> None:
        self._forget(client.client_id)

    def _forget(self, client: int) -> None:
        moved = self.moved.pop(client, None)
        if moved:
            moved.set()  # so that its thread ends

    def _serve(self, client: viser.ClientHandle, moved: Event) -> None:
        """Draw for one browser until it is gone."""
        pixels, speed, told = float(MIN_PIXELS), 0.0, ""
        while client.client_id in self.moved:
            if not moved.wait(PAUSE):
                continue
            moved.clear()
            began = time.perf_counter()
            camera = resized(seen_by(client.camera), self.size**2)
            small = resized(camera, max(MIN_PIXELS, int(pixels)))
            self._send(client, draw_beside(self.subjects, small, self.look()), 80)
            seconds = time.perf_counter() - began
            pixels = 0.5 * pixels + 0.5 * small.width * small.height * PERIOD / seconds
            speed = 1 / seconds if not speed else 0.8 * speed + 0.2 / seconds
            told = f"{speed:.0f} frames/s at {small.width} x {small.height}"
            self.rate.content = f"{told} while moving"
            if moved.wait(PAUSE):
                continue
            began = time.perf_counter()
            frame = self._full(camera, moved)
            if frame:
                self._send(client, frame, 92)
                seconds = time.perf_counter() - began
                full = f"{seconds:.2f} s at {camera.width} x {camera.height}"
                self.rate.content = f"{told} while moving; {full} when still"

    def _full(self, camera: Camera, moved: Event) -> Frame | None:
        """The whole picture; None where the camera moves before it is done."""
        look, parts = self.look(), []
        for part in bands(camera, BAND):
            parts.append(draw_beside(self.subjects, part, look))
            if moved.is_set():
                return None
        images, depths = ([part.image for part in parts], [part.depth for part in parts])
        return Frame(np.concatenate(images), np.concatenate(depths))

    def _send(self, client: viser.ClientHandle, frame: Frame, quality: int) -> None:
        if client.client_id not in self.moved:  # it has gone meanwhile
            return
        image = frame.image
        if len(self.subjects) > 1:
            image = labelled(image, [subject.name for subject in self.subjects])
        scene = any(subject.photos for subject in self.subjects) and self.cameras.value
        depth = (
            frame.depth.clip(0, MAX_DEPTH) if scene else None
        )  # what is nearer hides cameras behind it
        client.scene.set_background_image(image, format="jpeg", jpeg_quality=quality, depth=depth)


def seen_by(handle: viser.CameraHandle) -> Camera:
    """The camera of a browser, with the pixels of its canvas."""
    w, x, y, z = handle.wxyz
    rotation = torch.from_numpy(Rotation.from_quat([x, y, z, w]).as_matrix())
    pose = torch.cat([rotation, torch.tensor(handle.position, dtype=torch.float64)[:, None]], 1)
    width, height = max(1, handle.image_width), max(1, handle.image_height)
    fov = 2 * math.degrees(math.atan(math.tan(handle.fov / 2) * width / height))
    return Camera.from_fov(pose, fov, width, height)


def _start(subjects: list[Subject]) -> np.ndarray:
    """Where the browser's camera is at first (3,): the object fills the view, unless there are
    cameras to be seen, too."""
    eye = turntable(1, 1)[0].pose[:, 3]
    cameras = [photo.camera for subject in subjects for photo in subject.photos]
    farthest = max((float(camera.pose[:, 3].norm()) for camera in cameras), default=0.0)
    return (eye * max(1.0, AWAY * farthest / float(eye.norm()))).numpy()


def _picture(photo: Photo) -> np.ndarray:
    """The photo on white, (h, w, 3) uint8."""
    pixels = photo.pixels()
    colour = pixels[..., :3] + 1 - pixels[..., 3:]
    return (colour.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
