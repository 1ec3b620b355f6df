"""Who a stored person is now: people are renamed, merged, parted and forgotten in the gallery, here
or by another process, and the past follows."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind, Person
from edgeface.sightings.binding import scrub
from edgeface.sightings.rows import WHO, Rows, count_erased, erase_by_steps

# The different values of an indexed column, without reading all rows.
_DIFFERENT = (
    "WITH RECURSIVE found (value) AS (SELECT min({what}) FROM {table} UNION ALL SELECT "
    "(SELECT min({what}) FROM {table} WHERE {what} > value) FROM found WHERE value IS NOT NULL) "
    "SELECT value FROM found WHERE value IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """The people of the gallery at one moment, and whom merged ones became."""

    stamp: object
    people: dict[int, Person]
    heirs: dict[int, int]

    def of(self, person: int | None) -> Person | None:
        """The person whom a stored id stands for, None if there is nobody (any more)."""
        for _ in range(len(self.heirs) + 1):
            if person is None or person in self.people:
                break
            person = self.heirs.get(person)
        return None if person is None else self.people.get(person)


class Residents:
    """The people of the gallery as they are at this moment, and whom merged ones became.

    Merges are remembered beside the rows (`alias`), because the gallery's journal is not endless.
    As far back as that goes, it alone says which merges stand.
    """

    def __init__(self, gallery: Gallery, file: Rows) -> None:
        self._gallery, self._file = gallery, file
        self._lock = threading.Lock()
        self._moment: Moment | None = None

    def now(self) -> Moment:
        """The newest state, read again only if anybody has changed the gallery."""
        stamp = self._gallery.stamp()
        with self._lock:
            if self._moment is None or self._moment.stamp != stamp:
                people = {person.id: person for person in self._gallery.people()}
                self._moment = Moment(stamp, people, self._heirs())
            return self._moment

    def of(self, person: int | None) -> Person | None:
        """The person whom a stored id stands for, None if there is nobody (any more)."""
        return self.now().of(person)

    def ids(self, *, person: int | None = None, kind: Kind | str | None = None) -> list[int]:
        """The stored ids that stand for a person, for people of a kind, or (`unknown`) for nobody
        any more.

        Raises:
            GalleryError: there is no such kind.
        """
        if kind is not None and kind != "unknown" and kind not in set(Kind):
            raise GalleryError(f"there is no kind {kind!r}: use {', '.join(Kind)} or unknown")
        now = self.now()
        if kind == "unknown":
            held = self._held()
            return [i for i in held if now.of(i) is None] if person is None else []
        pairs = ((held, now.of(held)) for held in {*now.people, *now.heirs})
        return sorted(
            held
            for held, who in pairs
            if who is not None
            and (kind is None or who.kind == kind)
            and (person is None or who.id == person)
        )

    def get(self, person: int) -> Person:
        """The person with an id of the gallery; GalleryError if there is none."""
        people = self.now().people
        if person not in people:
            raise GalleryError(f"nobody in {self._gallery.place} has the id {person}")
        return people[person]

    def reconcile(self) -> int:
        """Erase the appearances, crops and events of people whom the gallery has forgotten; how
        many appearances that were."""
        now = self.now()
        gone = [held for held in self._held() if now.of(held) is None]
        return self.erase(gone) if gone else 0

    def erase(self, ids: list[int]) -> int:
        """Erase everything about stored ids; how many appearances that were. Who is cut off in the
        middle goes on with `reconcile`, as they are forgotten in the gallery."""
        text = json.dumps(ids)
        which = f"SELECT id FROM appearance WHERE {WHO} IN ({{among}})"
        with self._file.read() as execute:
            rows = [i for (i,) in execute(which, (text,))]
            events = [
                i
                for (i,) in execute(
                    f"SELECT seq FROM event WHERE person IN ({{among}}) OR appearance IN ({which})",
                    (text, text),
                )
            ]
            changes = execute(
                "SELECT DISTINCT change FROM moved WHERE appearance IN ({among})",
                (json.dumps(rows),),
            )
        erase_by_steps(self._file, events, "DELETE FROM event WHERE seq IN ({among})")
        (count,) = erase_by_steps(self._file, rows, "DELETE FROM appearance WHERE id IN ({among})")
        with self._file.write() as execute:
            execute(
                "DELETE FROM change WHERE id IN ({among})", (json.dumps([i for (i,) in changes]),)
            )
            # Of what came meanwhile.
            execute(
                f"DELETE FROM event WHERE person IN ({{among}}) OR appearance IN ({which})",
                (text, text),
            )
            count += len(
                execute(f"DELETE FROM appearance WHERE id IN ({which}) RETURNING 1", (text,))
            )
            execute("UPDATE appearance SET person = NULL WHERE person IN ({among})", (text,))
            execute(
                "UPDATE moved SET given = NULL, given_by = NULL WHERE given IN ({among})", (text,)
            )
            execute("DELETE FROM alias WHERE gone IN ({among}) OR heir IN ({among})", (text, text))
            count_erased(execute)
        scrub(self._file)
        with self._lock:
            self._moment = None
        return count

    def _held(self) -> list[int]:
        """The ids that appearances and events refer to."""
        with self._file.read() as execute:
            found = execute(_DIFFERENT.format(what=WHO, table="appearance"))
            found += execute(_DIFFERENT.format(what="person", table="event"))
        return sorted({int(person) for (person,) in found})

    def _heirs(self) -> dict[int, int]:
        merges = self._gallery.merges()
        stand = {(gone, heir, entry) for gone, (heir, entry) in merges.heirs.items()}
        with self._file.read() as execute:
            kept = {(int(g), int(h), int(e)) for g, h, e in execute("SELECT * FROM alias")}
        stand |= {(g, h, e) for g, h, e in kept if e < merges.oldest and g not in merges.heirs}
        if stand != kept:
            with self._file.write() as execute:
                execute("DELETE FROM alias")
                for row in sorted(stand):
                    execute("INSERT INTO alias VALUES (?, ?, ?)", row)
        return {gone: heir for gone, heir, _ in stand}
