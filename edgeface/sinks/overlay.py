"""A video with boxes and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeface.draw import overlay
from edgeface.movie import OverlayWriter
from edgeface.types import Event, Frame, Sighting


class Overlay:
    """Draws who is in each frame into a video file, which appears under its name once closed."""

    def __init__(self, path: str | Path, fps: float) -> None:
        self._writer: OverlayWriter | None = OverlayWriter(path, fps)

    def publish(self, event: Event) -> None:
        """See `Sink.publish`: the names are drawn from the sightings."""

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        """See `Sink.show`.

        Raises:
            OutputError: the file cannot be written; nothing more is drawn from then on.
        """
        if self._writer is None:
            return
        try:
            self._writer.write(overlay(frame.image, sightings), frame.time)
        except BaseException:
            self._writer.discard()
            self._writer = None
            raise

    def close(self) -> None:
        """See `Sink.close`: the file is finished, whatever ended the watch."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
