"""Who a stored person is now: people are renamed, merged, parted and forgotten in the gallery, here
or by another process, and the past follows."""

from __future__ import annotations

import json
import threading

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind, Person
from edgeface.sightings.file import File

_HELD = "SELECT DISTINCT coalesce(given, person) FROM appearance WHERE coalesce(given, person) > 0"


class Residents:
    """The people of the gallery as they are at this moment, and whom merged ones became.

    Merges are remembered in the file (`alias`), because the gallery's journal is not endless. One
    counts only while the merged person is not in the gallery: taking the merge back ends it.
    """

    def __init__(self, gallery: Gallery, file: File) -> None:
        self._gallery, self._file = gallery, file
        self._lock = threading.Lock()
        self._stamp: object = None
        self._people: dict[int, Person] = {}
        self._heirs: dict[int, int] = {}

    def of(self, person: int | None) -> Person | None:
        """The person whom a stored id stands for, None if there is nobody (any more)."""
        self._follow()
        for _ in range(len(self._heirs) + 1):
            if person is None or person in self._people:
                break
            person = self._heirs.get(person)
        return None if person is None else self._people.get(person)

    def ids(self, *, person: int | None = None, kind: Kind | str | None = None) -> list[int]:
        """The stored ids that stand for a person, for people of a kind, or (`unknown`) for nobody
        any more.

        Raises:
            GalleryError: there is no such kind.
        """
        self._follow()
        if kind is not None and kind != "unknown" and kind not in set(Kind):
            raise GalleryError(f"there is no kind {kind!r}: use {', '.join(Kind)} or unknown")
        found = []
        for held in {*self._people, *self._heirs, *self._held()}:
            who = self.of(held)
            if kind == "unknown":
                fits = who is None
            else:
                fits = who is not None and (kind is None or who.kind == kind)
            if fits and (person is None or (who is not None and who.id == person)):
                found.append(held)
        return sorted(found)

    def get(self, person: int) -> Person:
        """The person with an id of the gallery; GalleryError if there is none."""
        self._follow()
        if person not in self._people:
            raise GalleryError(f"nobody in {self._gallery.place} has the id {person}")
        return self._people[person]

    def reconcile(self) -> int:
        """Erase the appearances, crops and events of people whom the gallery has forgotten; how
        many appearances that were."""
        self._follow()
        gone = [held for held in self._held() if self.of(held) is None]
        return self.erase(gone) if gone else 0

    def erase(self, ids: list[int]) -> int:
        """Erase everything about stored ids; how many appearances that were."""
        where = "SELECT value FROM json_each(?)"
        which = f"SELECT id FROM appearance WHERE coalesce(given, person) IN ({where})"
        text = json.dumps(ids)
        with self._file.write() as execute:
            ((count,),) = execute(f"SELECT count(*) FROM ({which})", (text,))
            execute(
                f"DELETE FROM event WHERE person IN ({where}) OR appearance IN ({which})",
                (text, text),
            )
            execute(
                f"DELETE FROM change WHERE id IN "
                f"(SELECT change FROM moved WHERE appearance IN ({which}))",
                (text,),
            )
            execute(f"DELETE FROM appearance WHERE id IN ({which})", (text,))
            execute(f"DELETE FROM alias WHERE gone IN ({where}) OR heir IN ({where})", (text, text))
        self._file.erase()
        with self._lock:
            self._stamp = None
        return int(count)

    def _held(self) -> list[int]:
        with self._file.read() as execute:
            return [int(person) for (person,) in execute(_HELD)]

    def _follow(self) -> None:
        """Read the gallery again if anybody has changed it."""
        stamp = self._gallery.stamp()
        with self._lock:
            if stamp == self._stamp:
                return
            people = {person.id: person for person in self._gallery.people()}
            merged = self._gallery.merged()
            with self._file.write() as execute:
                for gone, heir in merged.items():
                    execute("INSERT OR REPLACE INTO alias VALUES (?, ?)", (gone, heir))
                heirs = {int(gone): int(heir) for gone, heir in execute("SELECT * FROM alias")}
            self._people, self._heirs, self._stamp = people, heirs, stamp
