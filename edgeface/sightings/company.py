"""Names for tracks that no camera can name alone: what the tracks of one visit say together, while
they are there.

Only tracks that their own faces give no name take part. Whoever resembles a person with a name as
strangers must resemble each other would else get that name by that alone. So all tracks of a visit
without a name say the same, and get the same name.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgeface.gallery import Gallery, Kind
from edgeface.sightings.joined import Visit, near, visits_of
from edgeface.thresholds import Thresholds
from edgeface.types import Array, Match

KEPT = timedelta(hours=1)  # that a track is remembered after it was seen last
MOST = 64  # tracks remembered, the newest: 3 ms a time; 200 took 8


@dataclass(frozen=True, slots=True, eq=False)
class Stay:
    """A track of a `camera` from `first` to `last` (UTC): `id` is its run and number, `template`
    (d,) unit what its faces say, with a `weight`."""

    id: tuple[str, int]
    camera: str
    first: datetime
    last: datetime
    template: Array
    weight: float
    person_id: None = None


class Company:
    """The tracks of the cameras of one process; for several threads."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery, self._lock = gallery, threading.Lock()
        self._stays: dict[tuple[str, int], Stay] = {}

    def hear(self, stay: Stay, matches: Sequence[Match], limits: Thresholds) -> list[Match] | None:
        """Note what a track says by now, whose most similar people are `matches`, by falling
        similarity. Returns those of all tracks of its visit together, where these reach a name and
        the track alone does not; else None."""
        known = limits.known.value
        alone = any(m.kind is not Kind.STRANGER and m.similarity >= known for m in matches)
        with self._lock:
            visit = None if alone else self._visit(stay, limits.stranger.value)
            if alone:
                self._stays.pop(stay.id, None)
        if visit is None or len(visit.rows) < 2 or visit.template is None:
            return None
        together = near(self._gallery, visit.template, visit.templates)
        if not together or together[0].similarity < known:
            return None
        strangers = [m for m in matches if m.kind is Kind.STRANGER]
        apart = self._gallery.different_from(together[0].person_id)
        if strangers and strangers[0].person_id in apart:  # somebody said that it is not them
            return None
        return together

    def _visit(self, stay: Stay, same: float) -> Visit[Stay]:
        self._stays[stay.id] = stay
        newest = sorted(self._stays.values(), key=lambda s: s.last)[-MOST:]
        self._stays = {s.id: s for s in newest if stay.last - s.last <= KEPT}
        self._stays[stay.id] = stay
        found = visits_of(self._stays.values(), same)
        return next(v for v in found if any(row.id == stay.id for row in v.rows))
