"""Events of several cameras for one loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from edgeface.types import Event, Frame, Sighting

LIMIT = 1000  # events that wait; then cameras wait too
ASKED = 0.1  # seconds between looks at whether anybody still takes them


class Merged:
    """Keeps events, as dictionaries, until a loop takes them; several cameras share it. Who puts
    events in waits while too many are there."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(limit)
        self._ended = threading.Event()

    def publish(self, event: Event) -> None:
        """See `Sink.publish`."""
        self.tell(event.to_dict())

    def tell(self, event: dict[str, Any]) -> None:
        """Put in an event that is a dictionary already."""
        while not self._ended.is_set():
            try:
                self._waiting.put(event, timeout=ASKED)
            except queue.Full:
                continue
            break

    def take(self, timeout: float) -> Iterator[dict[str, Any]]:
        """All that wait; the first is waited for at most `timeout` seconds."""
        try:
            yield self._waiting.get(timeout=timeout) if timeout else self._waiting.get_nowait()
            while True:
                yield self._waiting.get_nowait()
        except queue.Empty:
            return

    def end(self) -> None:
        """Nobody takes events any more: what comes is thrown away."""
        self._ended.set()

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        """See `Sink.show`: frames are not kept."""

    def close(self) -> None:
        """See `Sink.close`: the loop ends it."""
