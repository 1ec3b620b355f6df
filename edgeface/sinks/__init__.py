"""Where events go: anything with `publish`, `show` and `close`. A kind of sink is one file here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from edgeface.closing import Closing
from edgeface.types import Event, Frame, Sighting

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes what a watch has to tell. Who makes a sink closes it; several watches may share one."""

    def publish(self, event: Event) -> None:
        """Take one event."""
        ...

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        """Take a processed frame and who is in it."""
        ...

    def close(self) -> None:
        """Finish what was begun. Nothing comes after it."""
        ...


class Sinks(Closing):
    """Several sinks as one. What one of them raises is logged and kept in `failures`, and the
    others and the watch go on."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)
        self.failures: list[Exception] = []

    def publish(self, event: Event) -> None:
        """See `Sink.publish`."""
        for sink in self._sinks:
            self._guarded(sink, lambda s=sink: s.publish(event))  # type: ignore[misc]

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        """See `Sink.show`."""
        for sink in self._sinks:
            self._guarded(sink, lambda s=sink: s.show(frame, sightings))  # type: ignore[misc]

    def close(self) -> None:
        """See `Sink.close`."""
        for sink in self._sinks:
            self._guarded(sink, sink.close)

    def _guarded(self, sink: Sink, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if str(error) in map(str, self.failures):
                return  # one that fails at every frame is told of once
            log.error("%s failed: %s", type(sink).__name__, error)
            self.failures.append(error)
