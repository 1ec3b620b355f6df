"""A thread that hands on the events of a log: each at least once, in order, after restarts too."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeface.atomic import replacing
from edgeface.errors import EdgefaceError, GalleryError
from edgeface.sightings import Sightings

log = logging.getLogger(__name__)

AT_ONCE = 100  # events read from the log at a time
TRAIL = 1000  # places kept to go back to
LOOK = 1.0  # seconds between looks at the log without news: another process may have written
PAUSE, PAUSE_MAX = 1.0, 60.0  # seconds after a failure, doubled with each one, up to

Event = dict[str, Any]


class Undelivered(Exception):  # noqa: N818 - not a defect: it is tried again
    """An event was not taken; says why."""


class NotYet(Undelivered):
    """What an event is about is not there yet; nothing is wrong, so nobody is warned."""


class Reader:
    """Calls `deliver` with every event of the log from where it was, tries again with growing
    pauses while that raises `Undelivered`, and passes over what is older than `max_age` seconds by
    then. `settle`, if given, is called after some events and waits until they have arrived; where
    it raises `Undelivered`, they are delivered once more. How far it came is kept in the file
    `place`; without one, it begins with what is new. `idle` is called about once a second and
    before events."""

    def __init__(
        self,
        store: Sightings,
        name: str,
        deliver: Callable[[Event], None],
        *,
        max_age: float,
        place: Path | None = None,
        settle: Callable[[], None] | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._name, self._place = store, name, place
        self._deliver, self._settle, self._idle = deliver, settle, idle
        self._max_age = max_age
        self._news, self._done = threading.Event(), threading.Event()
        self._again = threading.Event()  # ends a pause
        self.delivered, self.expired = 0, 0
        self._turned = False  # asked to go back
        self._after = self._read()
        self._trail: deque[tuple[float, str | None]] = deque(maxlen=TRAIL)
        self._thread = threading.Thread(target=self._run, name=f"edgeface-{name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._keep()
        self._store.listeners.append(self._on_event)
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """End; whether the thread did within `timeout` seconds. What was not taken yet is read
        after the next start."""
        if self._on_event in self._store.listeners:
            self._store.listeners.remove(self._on_event)
        self._done.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def closing(self) -> bool:
        """Whether to end."""
        return self._done.is_set()

    def wake(self) -> None:
        """Look at once, and try again at once what was not taken."""
        self._news.set()
        self._again.set()

    def _on_event(self, event: Event) -> None:
        self._news.set()

    # In the thread

    def _run(self) -> None:
        while not self._done.is_set():
            self._news.clear()
            try:
                self._idle()
                if not self._batch():
                    self._news.wait(LOOK)
            except Undelivered as error:
                level = logging.DEBUG if isinstance(error, NotYet) else logging.WARNING
                log.log(level, "%s: %s", self._name, error)
                self._done.wait(LOOK)
            except EdgefaceError as error:
                log.error("%s: the log cannot be read: %s", self._name, error)
                self._done.wait(PAUSE)
            except Exception:  # a defect: the next event may fare better
                log.exception("%s failed", self._name)
                self._done.wait(PAUSE)

    def _batch(self) -> int:
        try:
            events = self._store.events(self._after, AT_ONCE)
        except GalleryError as error:
            if not str(error).startswith("no event"):
                raise
            # The event where it was has expired: all that are left came later.
            events = self._store.events(None, AT_ONCE)
        for event in events:
            if not self._insist(event):
                return 0
            if self._settle is None:
                self._came_to(event)
        if self._settle is not None and events:
            self._settle()
            self._came_to(events[-1])
        return len(events)

    def go_back(self, since: float) -> None:
        """Deliver once more what was delivered after the monotonic time `since` (s), before
        anything else; to be called by `idle`, or by `deliver`, which raises `Undelivered` then."""
        while self._trail and self._trail[-1][0] >= since:
            _, self._after = self._trail.pop()
        self._turned = True
        self.wake()

    def _came_to(self, event: Event) -> None:
        self._trail.append((time.monotonic(), self._after))
        self._after = event["id"]
        self._keep()

    def _insist(self, event: Event) -> bool:
        """Deliver an event or see it expire; False when asked to end or to go back before."""
        failures = 0
        while not self._done.is_set():
            if age(event) > self._max_age:
                self.expired += 1
                log.warning("%s: event %s was not taken in time", self._name, event["id"])
                return True
            self._again.clear()
            try:
                self._deliver(event)
            except Undelivered as error:
                if self._turned:
                    return False
                pause = min(PAUSE * 2**failures, PAUSE_MAX) * random.uniform(0.8, 1.2)
                failures += 1
                log.warning("%s: %s; trying again in %.1f s", self._name, error, pause)
                self._again.wait(pause)
            else:
                self.delivered += 1
                return True
        return False

    def _read(self) -> str | None:
        if self._place is not None:
            try:
                return self._place.read_text(encoding="ascii").strip() or None
            except FileNotFoundError:
                pass
            except (OSError, UnicodeDecodeError) as error:
                log.error("%s: %s cannot be read: %s", self._name, self._place, error)
        return self._store.newest()

    def _keep(self) -> None:
        if self._place is None:
            return
        try:
            with replacing(self._place) as file:
                file.write((self._after or "").encode())
        except (OSError, EdgefaceError) as error:
            log.error("%s: how far it came cannot be kept: %s", self._name, error)


def age(event: Event) -> float:
    """Seconds since an event."""
    at = datetime.fromisoformat(event["ts"])
    return time.time() - at.astimezone(UTC).timestamp()
