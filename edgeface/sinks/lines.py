"""Events as JSON lines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TextIO

from edgeface.types import Event, Frame, Sighting


class Lines:
    """Writes each event as a JSON line, at once; several cameras may share it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def publish(self, event: Event) -> None:
        """See `Sink.publish`."""
        with self._lock:
            self._stream.write(event.to_json() + "\n")
            self._stream.flush()

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        """See `Sink.show`: frames are not written."""

    def close(self) -> None:
        """See `Sink.close`: the stream is its owner's."""
