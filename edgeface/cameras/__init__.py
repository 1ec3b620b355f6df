"""Several cameras in one process: a thread each, over one describer and one gallery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from edgeface.cameras.camera import Camera, Tell
from edgeface.cameras.records import CameraSpec, CameraState, Snapshot, State
from edgeface.describe import Describer
from edgeface.errors import ArgumentError
from edgeface.gallery import Gallery
from edgeface.identify import Identifier
from edgeface.settings import Settings
from edgeface.sinks import Sink
from edgeface.types import Threshold

__all__ = ["Camera", "CameraSpec", "CameraState", "Cameras", "Snapshot", "State"]

SinksOf = Callable[[str], Iterable[Sink]]


class Cameras:
    """The cameras of a process. They share a describer, which keeps nothing between calls, and a
    gallery, which any thread may use; each follows faces by itself. For several threads."""

    def __init__(
        self,
        describer: Describer,
        gallery: Gallery,
        settings: Settings | None = None,
        *,
        threshold: Threshold | None = None,
        sinks: SinksOf | None = None,
        tell: Tell | None = None,
    ) -> None:
        """Put them together; `add` starts one.

        Args:
            describer, gallery, settings, threshold: see `Identifier`.
            sinks: called with a camera's name, makes the sinks that its events and frames go to;
                they are closed when it ends.
            tell: takes `camera_lost` and `camera_back` (see docs/events.md) of a live source that
                was there once.
        """
        self._make = partial(Identifier, describer, gallery, settings, threshold=threshold)
        self._sinks_of, self._tell = sinks or (lambda name: ()), tell or (lambda event: None)
        self._lock = threading.Lock()
        self._cameras: dict[str, Camera] = {}

    def add(self, spec: CameraSpec) -> Camera:
        """Begin to watch a camera. Whether it answers, its state says: this does not wait.

        Raises:
            ArgumentError: there is one of this name.
        """
        with self._lock:
            if spec.name in self._cameras:
                raise ArgumentError(f"there is a camera {spec.name!r} already: choose another name")
            camera = Camera(spec, self._make(), self._sinks_of(spec.name), self._tell)
            self._cameras[spec.name] = camera
        camera.start()
        return camera

    def remove(self, name: str, timeout: float = 15.0) -> bool:
        """Stop a camera and leave it out; whether its thread ended within `timeout` seconds.

        Raises:
            ArgumentError: there is none of this name.
        """
        with self._lock:
            camera = self._cameras.pop(name, None)
        if camera is None:
            raise self._unknown(name)
        camera.stop()
        return camera.join(timeout)

    def __getitem__(self, name: str) -> Camera:
        """The camera of this name; ArgumentError if there is none."""
        with self._lock:
            camera = self._cameras.get(name)
        if camera is None:
            raise self._unknown(name)
        return camera

    def __iter__(self) -> Iterator[Camera]:
        with self._lock:
            return iter(list(self._cameras.values()))

    def __len__(self) -> int:
        return len(self._cameras)

    def close(self, timeout: float = 15.0) -> list[str]:
        """Stop all cameras at once: tracks end with `lost`, sinks are closed. Returns the names of
        those whose driver hung, so that they had not ended within `timeout` seconds."""
        cameras = list(self)
        for camera in cameras:
            camera.stop()
        end = time.monotonic() + timeout
        return [c.spec.name for c in cameras if not c.join(end - time.monotonic())]

    def _unknown(self, name: str) -> ArgumentError:
        known = ", ".join(sorted(self._cameras)) or "none yet"
        return ArgumentError(f"there is no camera {name[:80]!r}; there are: {known}")
