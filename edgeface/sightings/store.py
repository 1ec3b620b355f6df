"""The store of sightings: what cameras saw, written before anybody is told."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind
from edgeface.sightings.expiry import expire
from edgeface.sightings.file import Execute, File
from edgeface.sightings.people import People
from edgeface.sightings.recall import Recall
from edgeface.sightings.records import Appearance, Expiry, Page
from edgeface.sightings.residents import Residents
from edgeface.types import Array, Event, EventKind, Template

log = logging.getLogger(__name__)

SUFFIX = ".sightings"
_ROW = """
    SELECT a.id, a.run, a.track, a.camera, a.first, a.last, coalesce(a.given, a.person), a.status,
           a.similarity, a.threshold, a.origin, a.template, a.weight, a.faces, c.quality
    FROM appearance a LEFT JOIN crop c ON c.appearance = a.id"""


class Sightings:
    """Appearances, their crops and the log of events of one gallery. For many threads; several
    processes may share one. Made with `Sightings.open`."""

    def __init__(self, gallery: Gallery, file: File) -> None:
        self.gallery, self.file = gallery, file
        self.residents = Residents(gallery, file)
        self.people = People(self)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._recall = Recall(self)
        self.residents.reconcile()

    @classmethod
    def open(cls, gallery: Gallery, path: str | Path | None = None) -> Self:
        """The sightings of `gallery`, by default in the file beside it with `.sightings` behind its
        name; made when missing. Sealed with the gallery's key if that is encrypted.

        Raises:
            GalleryError: the file is another program's, newer or damaged; or the gallery is on a
                server and no path is given.
        """
        if path is None and "://" in gallery.place:
            raise GalleryError(
                f"{gallery.place} is no file: say where its sightings are kept (path=…)"
            )
        return cls(gallery, File(Path(path or gallery.place + SUFFIX)))

    def close(self) -> None:
        """Let go of the file; the gallery stays open."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Writing -------------------------------------------------------------------------------------

    def record(self, event: Event) -> tuple[int, dict[str, Any]]:
        """Write an event of a track and the appearance it is about, in one change; then the
        listeners are told. Returns the appearance's id, and the event as it is in the log."""
        decision, template = event.decision, event.template
        at, ended = event.at.timestamp(), event.kind is EventKind.LOST
        with self.file.write() as execute:
            ((appearance,),) = execute(
                "INSERT INTO appearance (run, track, camera, first, last, person, status, "
                "similarity, threshold, origin, template, weight, faces, ended) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run, track) "
                "DO UPDATE SET last = max(last, excluded.last), person = excluded.person, "
                "status = excluded.status, similarity = excluded.similarity, "
                "threshold = excluded.threshold, origin = excluded.origin, "
                "template = coalesce(excluded.template, template), weight = excluded.weight, "
                "faces = excluded.faces, ended = excluded.ended RETURNING id",
                (
                    event.run, event.track, event.source, at, at, decision.person_id,
                    str(decision.status), _finite(decision.similarity), decision.threshold.value,
                    decision.threshold.origin, self._sealed(event.run, event.track, template),
                    0.0 if template is None else template.weight,
                    0 if template is None else template.n_faces, int(ended),
                ),
            )  # fmt: skip
            told = event.to_dict() | {"sighting": appearance}
            self._write(execute, told, at, appearance, decision.person_id)
        self._tell(told)
        return int(appearance), told

    def log(self, event: dict[str, Any]) -> None:
        """Write any other event, a dictionary with `id` and `ts`; then the listeners are told."""
        at = datetime.fromisoformat(event["ts"]).timestamp()
        with self.file.write() as execute:
            self._write(execute, event, at, None, event.get("person_id"))
        self._tell(event)

    def refresh(self, run: str, track: int, at: datetime, template: Template | None) -> None:
        """Note that a track is still there, and what its faces say by now."""
        with self.file.write() as execute:
            execute(
                "UPDATE appearance SET last = max(last, ?), template = coalesce(?, template), "
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
        with self.file.write() as execute:
            execute(
                "INSERT OR REPLACE INTO crop SELECT id, ?, ?, ? FROM appearance WHERE id = ?",
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
        with self.file.read() as execute:
            start = 0
            if after is not None:
                found = execute("SELECT seq FROM event WHERE id = ?", (after,))
                if not found:
                    raise GalleryError(f"no event {after!r} in the log: it expired, or never was")
                start = found[0][0]
            rows = execute(
                "SELECT id, body FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (start, limit)
            )
        return [self._opened(i, body) for i, body in rows]

    def newest(self) -> str | None:
        """The id of the newest event, None where there is none."""
        with self.file.read() as execute:
            rows = execute("SELECT id FROM event ORDER BY seq DESC LIMIT 1")
        return rows[0][0] if rows else None

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
        where, values = ["1"], list[Any]()
        if person is not None or kind is not None:
            ids = self.residents.ids(person=person, kind=kind)
            where.append("coalesce(a.given, a.person) IN (SELECT value FROM json_each(?))")
            if kind == "unknown":
                where[-1] = f"(coalesce(a.given, a.person) IS NULL OR {where[-1]})"
            values.append(json.dumps(ids))
        given = {"a.camera = ?": camera, "a.last >= ?": since, "a.last < ?": until}
        for condition, value in given.items():
            if value is not None:
                where.append(condition)
                values.append(value)
        if cursor is not None:
            where.append("(a.last, a.id) < (?, ?)")
            values += _place(cursor)
        statement = f"{_ROW} WHERE {' AND '.join(where)} ORDER BY a.last DESC, a.id DESC LIMIT ?"
        with self.file.read() as execute:
            found = execute(statement, [*values, limit + 1])
        rows = [self._appearance(row) for row in found[:limit]]
        more = len(found) > limit and rows
        return Page(rows, f"{found[limit - 1][5]!r}~{rows[-1].id}" if more else None)

    def row(self, appearance: int) -> Appearance:
        """One appearance; GalleryError if there is none of that id."""
        return self.some([appearance])[0]

    def some(self, appearances: Sequence[int]) -> list[Appearance]:
        """Appearances by id, in that order; GalleryError if one is missing."""
        with self.file.read() as execute:
            found = execute(
                f"{_ROW} WHERE a.id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(appearances)),),
            )
        rows = {row[0]: self._appearance(row) for row in found}
        if missing := [i for i in appearances if i not in rows]:
            raise GalleryError(f"no sighting has the id {missing[0]}: it expired, or never was")
        return [rows[i] for i in appearances]

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
        return list(zip(self.some([i for i, _ in found]), [s for _, s in found], strict=True))

    # Underneath ----------------------------------------------------------------------------------

    def templates(self, rows: Iterable[tuple[Any, ...]]) -> tuple[list[int], Array]:
        """Of (id, run, track, sealed template): the ids of those that have one and the templates
        (n, d)."""
        ids, values = [], []
        for appearance, run, track, sealed in rows:
            if sealed is not None:
                ids.append(int(appearance))
                values.append(self._template(run, track, sealed))
        return ids, np.array(values, np.float32).reshape(len(ids), self.gallery.size)

    def _template(self, run: str, track: int, sealed: Any) -> Array:
        raw = self.gallery.cipher.unseal(sealed, "appearance.template", f"{run}/{track}")
        return np.frombuffer(raw, np.float32)

    def _sealed(self, run: str, track: int, template: Template | None) -> bytes | str | None:
        if template is None:
            return None
        raw = np.ascontiguousarray(template.embedding, np.float32).tobytes()
        return self.gallery.cipher.seal(raw, "appearance.template", f"{run}/{track}")

    def _write(
        self,
        execute: Execute,
        event: dict[str, Any],
        at: float,
        appearance: int | None,
        person: int | None,
    ) -> None:
        text = json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")
        body = self.gallery.cipher.seal(text, "event.body", event["id"])
        execute(
            "INSERT INTO event (id, at, appearance, person, body) VALUES (?, ?, ?, ?, ?)",
            (event["id"], at, appearance, person, body),
        )

    def _opened(self, number: str, body: Any) -> dict[str, Any]:
        raw = self.gallery.cipher.unseal(body, "event.body", number)
        event: dict[str, Any] = json.loads(raw)
        return event

    def _tell(self, event: dict[str, Any]) -> None:
        for listener in tuple(self.listeners):
            try:
                listener(event)
            except Exception as error:  # who listens is not to stop a camera
                log.error("a listener failed: %s", error)

    def _appearance(self, row: tuple[Any, ...]) -> Appearance:
        (number, run, track, camera, first, last, person, status, similarity, threshold, origin,
         sealed, weight, faces, quality) = row  # fmt: skip
        who = self.residents.of(person)
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


def _place(cursor: str) -> tuple[float, int]:
    last, _, number = cursor.partition("~")
    try:
        return float(last), int(number)
    except ValueError:
        raise GalleryError(f"{cursor!r} is no cursor: give that of the page before") from None
