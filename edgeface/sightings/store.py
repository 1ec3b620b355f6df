"""The store of sightings: what cameras saw, written before anybody is told."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeface.closing import Closing
from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind
from edgeface.gallery.storage.postgres import PostgresDatabase
from edgeface.sightings.binding import agree, bind, owner
from edgeface.sightings.events import EventLog
from edgeface.sightings.expiry import expire
from edgeface.sightings.file import File
from edgeface.sightings.pages import newest, place_of
from edgeface.sightings.people import People
from edgeface.sightings.recall import Recall
from edgeface.sightings.records import Appearance, Expiry, Page
from edgeface.sightings.residents import Moment, Residents
from edgeface.sightings.rows import Execute, Rows
from edgeface.sightings.server import Server
from edgeface.types import Array, Event, EventKind, Template

SUFFIX = ".sightings"
_AGAIN = ", ".join(
    f"{column} = excluded.{column}"
    for column in (
        "person", "status", "similarity", "threshold", "origin", "weight", "faces", "ended"
    )
)  # fmt: skip
_ROW = """
    SELECT a.id, a.run, a.track, a.camera, a.first, a.last, coalesce(a.given, a.person), a.status,
           a.similarity, a.threshold, a.origin, a.template, a.weight, a.faces, c.quality
    FROM appearance a LEFT JOIN crop c ON c.appearance = a.id"""


class Sightings(Closing):
    """Appearances, their crops and the log of events of one gallery. For many threads; several
    processes may share one. Made with `Sightings.open`."""

    def __init__(self, gallery: Gallery, file: Rows) -> None:
        bind(file, gallery)
        self.gallery, self.file = gallery, file
        self.residents = Residents(gallery, file)
        self.people = People(self)
        self.event_log = EventLog(file, gallery.cipher)
        self.listeners = self.event_log.listeners
        self._recall = Recall(self)
        self.residents.reconcile()

    @classmethod
    def open(cls, gallery: Gallery, path: str | Path | None = None) -> Self:
        """The sightings of `gallery`: in the file `path`, by default that beside it with
        `.sightings` behind its name, or in the tables of its server; made when missing. Sealed with
        the gallery's key if that is encrypted.

        Raises:
            GalleryError: the file is another program's or another gallery's, newer or damaged.
        """
        file: Rows
        if path is None and isinstance(gallery.database, PostgresDatabase):
            file = Server(gallery.database)
        else:
            file = File(Path(path or gallery.place + SUFFIX))
        try:
            return cls(gallery, file)
        except BaseException:
            file.close()
            raise

    @staticmethod
    def kept(gallery: Gallery) -> bool:
        """Whether sightings of a gallery are kept where `open` looks by default."""
        if isinstance(gallery.database, PostgresDatabase):
            return Server.there(gallery.database)
        return Path(gallery.place + SUFFIX).exists()

    def close(self) -> None:
        """Let go of the file; the gallery stays open."""
        self.file.close()

    # Writing -------------------------------------------------------------------------------------

    @contextmanager
    def change(self) -> Iterator[Execute]:
        """One change of the rows, which are sealed as they were when they were opened."""
        with self.file.write() as execute:
            agree(execute, self.gallery, self.file.place)
            yield execute

    def record(self, event: Event) -> tuple[int, dict[str, Any]]:
        """Write an event of a track and the appearance it is about, in one change; then the
        listeners are told. Returns the appearance's id, and the event as it is in the log."""
        decision, template = event.decision, event.template
        at, ended = event.at.timestamp(), event.kind is EventKind.LOST
        with self.change() as execute:
            ((appearance,),) = execute(
                "INSERT INTO appearance (run, track, camera, first, last, person, status, "
                "similarity, threshold, origin, template, weight, faces, ended) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run, track) "
                "DO UPDATE SET last = {later}(appearance.last, excluded.last), "
                "template = coalesce(excluded.template, appearance.template), "
                f"{_AGAIN} RETURNING id",
                (
                    event.run, event.track, event.source, at, at, decision.person_id,
                    str(decision.status), _finite(decision.similarity), decision.threshold.value,
                    decision.threshold.origin, self._sealed(event.run, event.track, template),
                    0.0 if template is None else template.weight,
                    0 if template is None else template.n_faces, int(ended),
                ),
            )  # fmt: skip
            told = event.to_dict() | {"sighting": appearance}
            self.event_log.write(execute, told, at, appearance, decision.person_id)
        self.event_log.tell(told)
        return int(appearance), told

    def log(self, event: dict[str, Any]) -> None:
        """Write any other event, a dictionary with `id` and `ts`; then the listeners are told."""
        at = datetime.fromisoformat(event["ts"]).timestamp()
        with self.change() as execute:
            # Without a name it is to stay when the person is forgotten.
            person = None if event.get("name") is None else event.get("person_id")
            self.event_log.write(execute, event, at, None, person)
        self.event_log.tell(event)

    def refresh(self, run: str, track: int, at: datetime, template: Template | None) -> None:
        """Note that a track is still there, and what its faces say by now."""
        with self.change() as execute:
            execute(
                "UPDATE appearance SET last = {later}(last, ?), template = coalesce(?, template), "
                "weight = ?, faces = ? WHERE run = ? AND track = ?",
                (
                    at.timestamp(), self._sealed(run, track, template),
                    0.0 if template is None else template.weight,
                    0 if template is None else template.n_faces, run, track,
                ),
            )  # fmt: skip

    def keep_crop(self, appearance: int, jpeg: bytes, quality: float, at: datetime) -> None:
        """Keep a picture of an appearance in place of the one there was."""
        sealed = self.gallery.cipher.seal(jpeg, "crop.jpeg", str(appearance))
        with self.change() as execute:
            execute(
                "INSERT INTO crop (appearance, jpeg, quality, at) "
                "SELECT id, ?, ?, ? FROM appearance WHERE id = ? ON CONFLICT (appearance) "
                "DO UPDATE SET jpeg = excluded.jpeg, quality = excluded.quality, at = excluded.at",
                (sealed, quality, at.timestamp(), appearance),
            )

    def expire(self, now: float, rules: Expiry) -> dict[str, int]:
        """Erase what is older than `rules` allow at the Unix time `now` (s); how many crops,
        appearances, events and strangers that were."""
        return expire(self, now, rules)

    # Reading -------------------------------------------------------------------------------------

    def events(self, after: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Up to `limit` events in the order in which they were written: those after the one with
        the id `after`, or from the oldest on.

        Raises:
            GalleryError: no event has that id (any more).
        """
        return self.event_log.after(after, limit)

    def newest(self) -> str | None:
        """The id of the newest event, None where there is none."""
        return self.event_log.newest()

    def rows(
        self,
        *,
        person: int | None = None,
        camera: str | None = None,
        kind: Kind | str | None = None,
        since: float | None = None,
        until: float | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Appearances, newest first: of a person, a camera, a `kind` (`unknown`: of nobody), last
        seen between two Unix times (s). `cursor` is that of the page before."""
        within = {"camera = ?": camera, "last >= ?": since, "last < ?": until}
        given = {condition: [value] for condition, value in within.items() if value is not None}
        if cursor is not None:
            given["(last, id) < (?, ?)"] = list(place_of(cursor))
        people = None
        if person is not None or kind is not None:
            people = [*self.residents.ids(person=person, kind=kind)]
        statement, values = newest(given, people, kind == "unknown", limit + 1)
        with self.file.read() as execute:
            found = execute(
                f"{_ROW} WHERE a.id IN ({statement}) ORDER BY a.last DESC, a.id DESC", values
            )
        now = self.residents.now()
        rows = [self._appearance(row, now) for row in found[:limit]]
        more = len(found) > limit and rows
        return Page(rows, f"{found[limit - 1][5]!r}~{rows[-1].id}" if more else None)

    def row(self, appearance: int) -> Appearance:
        """One appearance; GalleryError if there is none of that id."""
        return self.some([appearance])[0]

    def some(self, appearances: Sequence[int]) -> list[Appearance]:
        """Appearances by id, in that order; GalleryError if one is missing."""
        rows = self._found(appearances)
        if missing := [i for i in appearances if i not in rows]:
            raise GalleryError(f"no sighting has the id {missing[0]}: it expired, or never was")
        return [rows[i] for i in appearances]

    def _found(self, appearances: Sequence[int]) -> dict[int, Appearance]:
        with self.file.read() as execute:
            found = execute(f"{_ROW} WHERE a.id IN ({{among}})", (json.dumps(list(appearances)),))
        now = self.residents.now()
        return {row[0]: self._appearance(row, now) for row in found}

    def crop(self, appearance: int) -> bytes | None:
        """The JPEG kept of an appearance, None if none is."""
        with self.file.read() as execute:
            rows = execute("SELECT jpeg FROM crop WHERE appearance = ?", (appearance,))
        if not rows:
            return None
        return self.gallery.cipher.unseal(rows[0][0], "crop.jpeg", str(appearance))

    def ever_here(
        self, embedding: Array, threshold: float, k: int = 10
    ) -> list[tuple[Appearance, float]]:
        """The `k` past appearances most similar to `embedding` (d,) unit, from the cosine
        `threshold` on, best first, each with its cosine."""
        found = self._recall.search(embedding, threshold, k)
        rows = self._found([i for i, _ in found])
        return [(rows[i], similarity) for i, similarity in found if i in rows]

    # Underneath ----------------------------------------------------------------------------------

    def templates(self, rows: Iterable[tuple[Any, ...]]) -> tuple[list[int], Array]:
        """Of (id, run, track, sealed template): the ids of those that have one and the templates
        (n, d)."""
        ids, raw = list[int](), list[bytes]()
        for appearance, run, track, sealed in rows:
            if sealed is not None:
                ids.append(int(appearance))
                raw.append(self._unsealed(run, track, sealed))
        return ids, np.frombuffer(b"".join(raw), np.float32).reshape(len(ids), self.gallery.size)

    def _unsealed(self, run: str, track: int, sealed: Any) -> bytes:
        return self.gallery.cipher.unseal(sealed, "appearance.template", owner(run, track))

    def _template(self, run: str, track: int, sealed: Any) -> Array:
        return np.frombuffer(self._unsealed(run, track, sealed), np.float32)

    def _sealed(self, run: str, track: int, template: Template | None) -> bytes | str | None:
        if template is None:
            return None
        raw = np.ascontiguousarray(template.embedding, np.float32).tobytes()
        return self.gallery.cipher.seal(raw, "appearance.template", owner(run, track))

    def _appearance(self, row: tuple[Any, ...], now: Moment) -> Appearance:
        (number, run, track, camera, first, last, person, status, similarity, threshold, origin,
         sealed, weight, faces, quality) = row  # fmt: skip
        who = now.of(person)
        return Appearance(
            number, run, track, camera,
            datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC),
            None if who is None else who.id,
            None if who is None else who.name,
            None if who is None else who.kind,
            status, similarity, threshold, origin,
            None if sealed is None else self._template(run, track, sealed),
            weight, faces, math.nan if quality is None else quality, quality is not None,
        )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
