"""Several cameras in one process: a thread each, over one describer and one gallery."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from edgeface.cameras.camera import Camera, Tell, news
from edgeface.cameras.records import CameraSpec, CameraState, Snapshot, State, label, named
from edgeface.describe import Describer
from edgeface.errors import ArgumentError, CameraError, SourceError
from edgeface.gallery import Gallery
from edgeface.identify import Identifier
from edgeface.settings import Settings
from edgeface.sightings.company import Company
from edgeface.sinks import Sink
from edgeface.sinks.merged import Merged
from edgeface.submodels import SubmodelBank
from edgeface.types import Threshold

__all__ = [
    "Camera",
    "CameraSpec",
    "CameraState",
    "Cameras",
    "Snapshot",
    "State",
    "label",
    "named",
    "news",
    "watch",
]

AGAIN = 30.0  # seconds until a camera that gave up is tried again
ASKED = 0.1  # seconds between looks at whether to stop
SinksOf = Callable[[str], Iterable[Sink]]


def _no_sinks(name: str) -> Iterable[Sink]:
    return ()


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
        bank: SubmodelBank | None = None,
        sinks: SinksOf | None = None,
        tell: Tell | None = None,
        again: float | None = AGAIN,
        address: Callable[[str], str] = str,
        together: bool = False,
    ) -> None:
        """Put them together; `add` starts one.

        Args:
            describer, gallery, settings, threshold, bank: see `Identifier`.
            sinks: called with a camera's name, makes the sinks that its events and frames go to;
                they are closed when it ends.
            tell: takes `camera_lost` and `camera_back` (see docs/events.md) of a live source that
                was there once.
            again: seconds until a camera that gave up is tried again; None: never.
            address: what is opened for the source of a camera, where that names something else.
            together: tracks of one visit, before several cameras of one place, are named by what
                they say together where none of them can be named alone (`sightings.company`).
        """
        self._make = partial(
            Identifier,
            describer,
            gallery,
            settings,
            threshold=threshold,
            bank=bank,
            company=Company(gallery) if together else None,
        )
        self._again, self._address = again, address
        self._sinks_of, self._tell = sinks or _no_sinks, tell or (lambda event: None)
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
            sinks = self._sinks_of(spec.name)
            camera = Camera(spec, self._make(), sinks, self._tell, self._again, self._address)
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


def watch(
    identifier: Identifier,
    specs: Sequence[CameraSpec],
    *,
    sinks: SinksOf | None = None,
    tell: Tell | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Generator[dict[str, Any]]:
    """Iterate what several sources tell until all have ended, as the dictionaries of
    docs/events.md: what happens to faces, and `camera_lost` and `camera_back`. Those of one source
    come in order.

    A source that fails is logged and leaves the others alone. After `should_stop` the `lost` events
    still come; after a `break` out of the loop they do not. Files are not read faster than their
    events are taken.

    Args:
        identifier: its describer, gallery, settings, threshold and submodel bank serve them all.
        specs: the sources, each with a name of its own.
        sinks, tell: get everything before the loop does, see `Cameras`.
        should_stop: asked ten times a second.

    Raises:
        ArgumentError: two have one name.
        CameraError: at the end, cameras and nothing else gave up.
        SourceError: at the end, files or both did.
    """
    stop, merged = should_stop or (lambda: False), Merged()

    def announce(event: dict[str, Any]) -> None:
        if tell is not None:
            tell(event)
        merged.tell(event)

    cameras = Cameras(
        identifier.describer, identifier.gallery, identifier.settings,
        threshold=identifier.fixed, bank=identifier.bank,
        sinks=lambda name: [*(sinks or _no_sinks)(name), merged], tell=announce, again=None,
    )  # fmt: skip
    try:
        for spec in specs:
            cameras.add(spec)
        asked = False
        while any(not c.join(0) for c in cameras):
            yield from merged.take(ASKED)
            if not asked and stop():
                asked = True
                for camera in cameras:
                    camera.stop()
        yield from merged.take(0)
    finally:
        merged.end()
        cameras.close()
    failed = [c for c in cameras if c.failure is not None]
    if failed:
        kind = SourceError
        if all(isinstance(c.failure, CameraError) for c in failed):
            kind = CameraError
        names = ", ".join(c.spec.name for c in failed)
        raise kind(f"{len(failed)} of {len(specs)} sources failed: {names}")
