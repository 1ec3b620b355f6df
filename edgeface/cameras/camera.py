"""One camera and the thread that watches it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from edgeface import video
from edgeface.cameras.records import CameraSpec, CameraState, Snapshot, State
from edgeface.errors import EdgefaceError
from edgeface.identify import Identifier
from edgeface.sinks import Sink, Sinks
from edgeface.stages import StageTime
from edgeface.stopping import Stop
from edgeface.types import EVENT_VERSION, Event, Frame, Sighting, new_run, timestamp

log = logging.getLogger(__name__)

RATE_OVER = 5.0  # seconds over which frames per second are averaged

Tell = Callable[[dict[str, Any]], None]


def news(link: video.Link, camera: str) -> dict[str, Any] | None:
    """What a change of a link is as an event (docs/events.md): `camera_lost` or `camera_back`; None
    when the camera came for the first time."""
    if link.up and not link.reconnects:
        return None
    return {
        "version": EVENT_VERSION,
        "id": f"{new_run()}-00000000",
        "event": "camera_back" if link.up else "camera_lost",
        "camera": camera,
        "ts": timestamp(datetime.now(UTC)),
        "reason": link.reason or None,
    }


class Camera:
    """One camera and the thread that watches it. Made by `Cameras.add`. `failure` is what made it
    give up, None while it goes on."""

    failure: Exception | None

    def __init__(
        self,
        spec: CameraSpec,
        identifier: Identifier,
        sinks: Iterable[Sink],
        tell: Tell,
        again: float | None,
        address: Callable[[str], str] = str,
    ) -> None:
        self.spec, self.failure = spec, None
        self._identifier, self._sinks, self._tell = identifier, tuple(sinks), tell
        self._again, self._address = again, address
        self._stop = Stop()
        self._news = threading.Condition()
        self._state, self._since, self._error = State.CONNECTING, datetime.now(UTC), ""
        self._links = video.Link(self._on_link)
        self._snapshot: Snapshot | None = None
        self._frames, self._gap, self._last, self._began = 0, 0.0, 0.0, 0.0
        self._thread = threading.Thread(
            target=self._run, name=f"edgeface-camera-{spec.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def state(self) -> CameraState:
        """How it stands with the camera."""
        with self._news:
            shot = self._snapshot
            silent = time.monotonic() - self._last > RATE_OVER
            error = self._error or (self._links.reason if not self._links.up else "")
            return CameraState(
                name=self.spec.name,
                source=video.redact(self.spec.source),
                state=self._state,
                since=self._since,
                error=error or None,
                fps=0.0 if silent or not self._gap else 1.0 / self._gap,
                frames=self._frames,
                dropped=self._links.dropped,
                reconnects=self._links.reconnects,
                size=None if shot is None else (shot.image.shape[1], shot.image.shape[0]),
                last_frame=None if shot is None else shot.at,
            )

    def times(self) -> list[StageTime]:
        """How long the stages of its frames took."""
        return self._identifier.times.read()

    @property
    def has_ended(self) -> bool:
        """Whether no frame will come any more."""
        return self._state in {State.ENDED, State.STOPPED}

    def snapshot(self, after: int = 0, timeout: float = 0.0) -> Snapshot | None:
        """The newest frame whose number is above `after`, waited for at most `timeout` seconds."""
        with self._news:
            self._news.wait_for(lambda: self._newer(after) or self._stop(), timeout)
            return self._snapshot if self._newer(after) else None

    def _newer(self, after: int) -> bool:
        return self._snapshot is not None and self._snapshot.number > after

    def stop(self) -> None:
        """Ask the thread to end; `join` waits for it."""
        self._stop.set()
        with self._news:
            self._news.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait for the thread, at most `timeout` seconds; whether it has ended."""
        self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    # In the camera's own thread

    def _run(self) -> None:
        try:
            while not self._stop():
                try:
                    for _ in self._watch():
                        pass
                    if not self.spec.repeat:
                        self._become(State.ENDED)
                        break
                except EdgefaceError as error:
                    self._failed(error, str(error))
                except Exception as error:  # a defect: the other cameras go on, and so may this
                    log.exception("camera %s failed", self.spec.name)
                    self._failed(error, f"{type(error).__name__}: {error}")
                if self.failure is not None:
                    break
        finally:
            Sinks(self._sinks).close()
            if self._stop() and self.failure is None:
                self._become(State.STOPPED)

    def _watch(self) -> Iterable[Event]:
        self._began = time.monotonic()
        return self._identifier.watch(
            self._address(self.spec.source),
            name=self.spec.name,
            every=self.spec.every,
            on_frame=self._on_frame,
            sinks=self._sinks,
            should_stop=self._stop,
            link=self._links,
        )

    def _failed(self, error: Exception, reason: str) -> None:
        self._become(State.FAILED, reason)
        if self._again is None:
            log.error("camera %s: %s", self.spec.name, reason)
            self.failure = error
            return
        log.warning("camera %s: %s; trying again in %.0f s", self.spec.name, reason, self._again)
        with self._news:
            self._news.wait_for(self._stop, self._again)

    def _become(self, state: State, error: str = "") -> None:
        with self._news:
            if state != self._state:
                self._since = datetime.now(UTC)
            self._state, self._error = state, error
            self._news.notify_all()

    def _on_link(self, link: video.Link) -> None:
        self._become(State.RUNNING if link.up else State.LOST)
        told = news(link, self.spec.name)
        if told is None:
            return
        try:
            self._tell(told)
        except Exception as error:
            log.error("%s of %s is not recorded: %s", told["event"], self.spec.name, error)

    def _on_frame(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        now = time.monotonic()
        with self._news:
            gap = now - self._last
            share = min(gap / RATE_OVER, 1.0)
            if self._frames:
                self._gap = gap if self._frames == 1 else self._gap + share * (gap - self._gap)
            self._last = now
            self._frames += 1
            self._snapshot = Snapshot(frame.image, frame.at, tuple(sightings), self._frames)
            self._news.notify_all()
        if self._state is not State.RUNNING:
            self._become(State.RUNNING)
        if self.spec.repeat:
            with self._news:
                left = self._began + frame.time - time.monotonic()
                self._news.wait_for(self._stop, max(left, 0.0))
