"""From a watch into the store: events first, then how the track goes on, and its best crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from edgeface.describe import measure
from edgeface.images import jpeg
from edgeface.sightings.store import Sightings
from edgeface.types import Event, EventKind, Face, Frame, Image, Sighting

LOOK = timedelta(seconds=0.4)  # between looks at whether a track has a better crop
NOTE = timedelta(seconds=2)  # between notes that it is still there
BETTER = 1.15  # times the quality of the crop kept, from which it is replaced
SIDE, MARGIN, JPEG = 160, 0.35, 85  # px of a crop's longer side, share of the box around it, %


@dataclass(slots=True)
class _Kept:
    """What is kept of a track that is there: its row, and when it was looked at and noted."""

    appearance: int
    run: str
    looked: datetime
    noted: datetime
    quality: float = -math.inf


class Recorder:
    """A sink that writes the events of one camera into the store, one per watch. Give it before
    other sinks: what they get is then in the log. `crops` False keeps no pictures."""

    def __init__(self, store: Sightings, *, crops: bool = True) -> None:
        self._store, self._crops = store, crops
        self._tracks: dict[int, _Kept] = {}

    def publish(self, event: Event) -> None:
        """See `Sink.publish`. The event is in the log when it returns."""
        appearance, _ = self._store.record(event)
        if event.kind is EventKind.LOST:
            self._tracks.pop(event.track, None)
        elif event.track not in self._tracks:
            early = datetime.min.replace(tzinfo=event.at.tzinfo)
            self._tracks[event.track] = _Kept(appearance, event.run, early, event.at)

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        """See `Sink.show`."""
        for sighting in sightings:
            kept = None if sighting.track is None else self._tracks.get(sighting.track)
            if kept is None or sighting.track is None:
                continue
            if self._crops and frame.at - kept.looked >= LOOK:
                kept.looked = frame.at
                self._look(frame, sighting.face, kept)
            if frame.at - kept.noted >= NOTE:
                kept.noted = frame.at
                self._store.refresh(kept.run, sighting.track, frame.at, sighting.template)

    def close(self) -> None:
        """See `Sink.close`."""
        self._tracks.clear()

    def _look(self, frame: Frame, face: Face, kept: _Kept) -> None:
        quality = measure(frame.image, [face])[1][0].quality
        if kept.quality < 0 or quality > BETTER * kept.quality:
            kept.quality = quality
            self._store.keep_crop(kept.appearance, encode(frame.image, face), quality, frame.at)


def encode(image: Image, face: Face) -> bytes:
    """A face with some margin as JPEG, at most `SIDE` px long."""
    margin = MARGIN * (face.box[2:] - face.box[:2])
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(face.box[:2] - margin), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(face.box[2:] + margin), low + 1, limit).astype(int)
    return jpeg(image[low[1] : high[1], low[0] : high[0]], SIDE, JPEG)
