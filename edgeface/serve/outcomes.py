"""What became of strangers whom somebody has judged, kept for the promise of the threshold.

A stranger is one trial, whatever the number of visits: faces of one person are alike, and the
promise is about people. "Not this" says that a stranger was given a name; a stranger who is named
was given none; one who turns out to be somebody known was no stranger. What is taken back counts no
more, and who is forgotten leaves no trace. The file holds ids, no names.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeface.atomic import replacing
from edgeface.calibrate import Calibration
from edgeface.errors import OutputError
from edgeface.gallery import Kind
from edgeface.metrics import Interval
from edgeface.models import ModelCard
from edgeface.promise import Outcome, judge
from edgeface.sightings import Appearance, Change, Sightings
from edgeface.types import Status, Threshold

log = logging.getLogger(__name__)

ALL = 1 << 31


@dataclass(frozen=True, slots=True)
class Judged:
    """By the `change` of that id a `person` turned out to be a stranger whom the threshold of the
    kind `promise` had named (`wrong`) or not, or to be no stranger (None)."""

    change: int
    person: int
    wrong: bool | None
    promise: str


class Outcomes:
    """The judgements about the sightings of one store, in a file; for several threads."""

    def __init__(self, path: Path, store: Sightings) -> None:
        self._path, self._store = path, store
        self._lock = threading.Lock()
        self._rows = self._read()

    def not_this(self, row: Appearance, change: Change) -> None:
        """The face of `row` was not whom it was taken for; `row` is as it was before the change."""
        if row.status == Status.MATCH:  # else somebody, not the threshold, had given the name
            parted = self._store.row(row.id).person_id
            if parted is not None:
                self._add(Judged(change.id, parted, True, kind_of(row.origin)))

    def named(self, person: int, limit: Threshold, change: Change) -> None:
        """A stranger was given a name for the first time."""
        self._add(Judged(change.id, person, False, kind_of(limit.origin)))

    def was_known(self, person: int, change: Change) -> None:
        """A numbered stranger turned out to be somebody known."""
        self._add(Judged(change.id, person, None, ""))

    def judged(self, limit: Threshold, promised: Interval | None) -> Outcome:
        """What became of the promise of the threshold of the known that holds now."""
        standing = {c.id for c in self._store.people.history(ALL) if not c.undone}
        with self._lock:
            rows = [row for row in self._rows if row.change in standing]
        known = {row.person for row in rows if row.wrong is None}
        first: dict[int, Judged] = {}
        for row in rows:
            who = self._store.residents.of(row.person)
            if who is not None and row.wrong is not None and row.person not in known:
                first.setdefault(who.id, row)
        about = [row for row in first.values() if row.promise == kind_of(limit.origin)]
        gallery = self._store.gallery
        others = {p.id for p in gallery.people() if p.kind is Kind.STRANGER} - set(first)
        return judge(promised, sum(map(_wrong, about)), len(about), len(others))

    def _add(self, row: Judged) -> None:
        with self._lock:
            self._rows.append(row)
            try:
                with replacing(self._path) as file:
                    file.write(json.dumps([asdict(row) for row in self._rows]).encode())
            except OutputError as error:  # the change is made; it is not to look refused
                log.error("the outcomes cannot be kept in %s: %s", self._path, error)

    def _read(self) -> list[Judged]:
        try:
            return [Judged(**row) for row in json.loads(self._path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            log.error("the outcomes in %s cannot be read (%s); counting anew", self._path, error)
            return []


def promise_of(limit: Threshold, own: Calibration | None, card: ModelCard) -> Interval | None:
    """The share of strangers who get a name at the threshold `limit`, with its interval: by the
    gallery's calibration, or by the card of the embedder. None for one that somebody chose."""
    for start, found in (
        (("calibrated:", "model:"), own),
        (("card:fpir=",), Calibration.of_card(card)),
    ):
        if found is not None and limit.origin.startswith(start):
            return found.measured
    return None


def kind_of(origin: str) -> str:
    """What a threshold promises, whatever the size of the gallery: `calibrated:fpir=1e-2`."""
    return origin.partition("@")[0].partition(",")[0]


def _wrong(row: Judged) -> bool:
    return bool(row.wrong)
