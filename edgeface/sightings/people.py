"""Changes to who is who, in the gallery and in the past at once. Each can be taken back.

The gallery holds the truth about names; rows here refer to it by id, so a rename or a merge reaches
every past and running appearance without a row being written. Rows are written only where a face
gets another person (`given`), each with what it was before.

Gallery and sightings are two places, so a change is made thus: the rows here are taken for writing,
the gallery is changed and committed, then they are committed. What the gallery refuses leaves them
as they were, and where they cannot be written the gallery is changed back. A power cut between the
two commits leaves the gallery's change alone, which `edgeface gallery undo` takes back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery import Person
from edgeface.sightings.records import Appearance
from edgeface.sightings.rows import BLOCK, WHO, Execute
from edgeface.types import EVENT_VERSION, Status, new_run, timestamp

if TYPE_CHECKING:
    from edgeface.sightings.store import Sightings

SAMPLES = 16  # faces of appearances that a new person is made of at most, those of most weight
_FIELDS = ("person_id", "name", "kind", "group", "change", "merged")  # of every event
_CHANGE = "SELECT id, at, action, count, undone FROM change"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: `action`, when (Unix time, s), how many appearances it moved to another person,
    whether it was taken back."""

    id: int
    at: float
    action: str
    count: int
    undone: bool


class People:
    """People over the gallery and the sightings; made by `Sightings`."""

    def __init__(self, store: Sightings) -> None:
        self._store = store

    def name(self, person: int | None, name: str, sightings: Sequence[int] = ()) -> Change:
        """Give a person, or the faces of some appearances of nobody, a name. Somebody of that name
        takes them in. Past appearances of nobody that reach their own threshold for the named
        person get the name, too.

        Raises:
            GalleryError: unknown ids, a name that cannot be, faces without a template, or two
                people who are known to differ.
        """
        gallery = self._store.gallery
        rows = self._store.some(sightings)
        who = None if person is None else self._store.residents.get(person)
        best = _best(rows) if who is None else []
        crops = [self._store.crop(row.id) for row in best]

        def named() -> Person:
            if who is None:
                return gallery.enroll(
                    name,
                    np.stack([row.template for row in best if row.template is not None]),
                    qualities=[min(1.0, row.weight / max(1, row.n_faces)) for row in best],
                    sources=[f"{row.camera} {timestamp(row.last)}" for row in best],
                    crops=crops,
                )
            holder = next((p for p in gallery.people() if p.name == name.strip()), who)
            if holder.id != who.id:
                return gallery.merge(holder.name, who.name)
            return gallery.rename(who.name, name)

        def moved(execute: Execute, new: Person) -> list[int]:
            return [*sightings, *self._resembling(execute, new)]

        return self._make("name", "person_renamed", named, moved)

    def merge(self, into: int, others: Sequence[int]) -> list[Change]:
        """Make people one, who keeps the id and name of `into`; a change for each. All of them or,
        if one cannot be, none."""
        gallery, kept = self._store.gallery, self._store.residents.get(into)
        gone = [self._store.residents.get(other) for other in others]
        changes = list[Change]()
        try:
            for other in gone:
                changes.append(
                    self._make(
                        "merge",
                        "person_merged",
                        lambda other=other: gallery.merge(kept.name, other.name),  # type: ignore[misc]
                        merged=other.id,
                    )
                )
        except GalleryError:
            for change in reversed(changes):
                self.undo(change.id)
            raise
        return changes

    def split(
        self, person: int, sightings: Sequence[int] = (), samples: Sequence[int] = ()
    ) -> Change:
        """Make some appearances, or some of the gallery's samples, of a person somebody else, who
        gets a number."""
        who, rows = self._store.residents.get(person), self._store.some(sightings)
        if strange := [row.id for row in rows if row.person_id != who.id]:
            raise GalleryError(f"sightings {strange} are not of {who.name!r}: choose among theirs")
        apart: Callable[[], Person]
        if samples:
            apart = lambda: self._store.gallery.split(who.name, samples)  # noqa: E731
        else:
            apart = self._parting(who, rows)
        return self._make("split", "person_split", apart, lambda *_: list(sightings))

    def not_this(self, person: int, sightings: Sequence[int]) -> Change:
        """Say that the face of some appearances, taken for a person or for nobody, is not that
        person's. It becomes a stranger, who is never joined with them.

        Raises:
            GalleryError: unknown ids, or an appearance of somebody else.
        """
        who, rows = self._store.residents.get(person), self._store.some(sightings)
        if strange := [row.id for row in rows if row.person_id not in (who.id, None)]:
            raise GalleryError(
                f"sightings {strange} are of somebody else than {who.name!r}: say that they differ"
            )
        apart = self._parting(who, rows)
        return self._make("not_this", "person_split", apart, lambda *_: list(sightings))

    def different(self, person: int, other: int) -> Change:
        """Say that two people, who may look alike, are different: they are never joined, nor is
        one offered as the other's name. The change moves no appearance."""
        one, other = (self._store.residents.get(number).id for number in (person, other))
        apart = lambda: self._store.gallery.set_different(one, other)  # noqa: E731
        return self._make("different", "person_split", apart)

    def ignore(self, person: int, on: bool = True) -> Change:
        """Recognise a person without telling of them, or tell of them again."""
        name = self._store.residents.get(person).name
        return self._make(
            "ignore" if on else "heed",
            "person_renamed",
            lambda: self._store.gallery.ignore(name, on),
        )

    def group(self, person: int, group: str | None) -> Change:
        """Put a person into a group, or into none."""
        name = self._store.residents.get(person).name
        return self._make(
            "group", "person_renamed", lambda: self._store.gallery.set_group(name, group)
        )

    def forget(self, person: int) -> int:
        """Erase a person from the gallery and from the past: rows, crops, events. Nothing brings
        them back. How many appearances that were."""
        store = self._store
        who, ids = store.residents.get(person), store.residents.ids(person=person)
        store.gallery.forget(who.name)
        erased = store.residents.erase(ids)
        self._tell("person_forgotten", {"person_id": person})
        return erased

    def undo(self, change: int) -> Change:
        """Take back one change, in the gallery and here.

        Raises:
            GalleryError: there is no such change, it was taken back, or the gallery has gone on so
                that it cannot be.
        """
        gallery = self._store.gallery
        with self._store.change() as execute:
            rows = execute("SELECT entry, undone FROM change WHERE id = ?", (change,))
            if not rows or rows[0][1]:
                raise GalleryError(f"there is no change {change} that stands: see the history")
            if rows[0][0] is not None and not gallery.undone(rows[0][0]):
                gallery.undo(rows[0][0])
            # What it was before: of the rows, and of what later changes would bring back.
            for table, row in (("appearance", "id"), ("moved", "appearance")):
                execute(
                    f"UPDATE {table} SET (given, given_by) = (SELECT m.given, m.given_by "
                    f"FROM moved m WHERE m.change = ? AND m.appearance = {table}.{row}) "
                    "WHERE given_by = ?",
                    (change, change),
                )
            execute("DELETE FROM moved WHERE change = ?", (change,))
            execute("UPDATE change SET undone = 1 WHERE id = ?", (change,))
        self._tell("change_undone", {"change": change})
        return self._change(change)

    def history(self, limit: int = 20) -> list[Change]:
        """The newest changes, newest first."""
        with self._store.file.read() as execute:
            rows = execute(f"{_CHANGE} ORDER BY id DESC LIMIT ?", (limit,))
        return [Change(i, at, what, n, bool(undone)) for i, at, what, n, undone in rows]

    def _change(self, number: int) -> Change:
        with self._store.file.read() as execute:
            ((i, at, action, count, undone),) = execute(f"{_CHANGE} WHERE id = ?", (number,))
        return Change(i, at, action, count, bool(undone))

    def _parting(self, who: Person, rows: Sequence[Appearance]) -> Callable[[], Person]:
        """Makes a stranger of the best of some rows, whom `who` is never joined with."""
        best, gallery = _best(rows)[0], self._store.gallery
        return lambda: gallery.not_this_person(who.name, embedding=best.template)

    def _resembling(self, execute: Execute, named: Person) -> list[int]:
        """The past appearances of nobody that reach the threshold of their time for `named`. One
        that was between two people, or not good enough to be decided, is nobody's still."""
        store = self._store
        theirs = np.stack([s.embedding for s in store.gallery.samples(named.name)])
        nobodies = sorted(i for (i,) in execute(f"SELECT id FROM appearance WHERE {WHO} IS NULL"))
        found = list[int]()
        for begin in range(0, len(nobodies), BLOCK):
            rows = execute(
                "SELECT id, run, track, template, threshold FROM appearance WHERE id IN ({among}) "
                "AND template IS NOT NULL AND status = ? ORDER BY id",
                (json.dumps(nobodies[begin : begin + BLOCK]), str(Status.UNKNOWN)),
            )
            ids, templates = store.templates(row[:4] for row in rows)
            best = (templates @ theirs.T).max(1)
            found += [i for i, s, row in zip(ids, best.tolist(), rows, strict=True) if s >= row[4]]
        return found

    def _make(
        self,
        action: str,
        event: str,
        change: Callable[[], Person],
        moved: Callable[[Execute, Person], list[int]] = lambda *_: [],
        **more: Any,
    ) -> Change:
        """Change the gallery and write what follows; `moved` appearances become the person's whom
        `change` returns. Then tell of it."""
        gallery, entry = self._store.gallery, None
        try:
            with self._store.change() as execute:
                who = change()
                entry = gallery.last_entry
                number = _write(execute, action, entry, who, moved(execute, who))
                about = {"person_id": who.id, "name": who.name, "kind": str(who.kind)}
                told = _event(event, about | {"change": number, "group": who.group} | more)
                self._store.event_log.write(execute, told, time.time(), None, who.id)
        except BaseException:
            if entry is not None:  # the rows could not be written, as on a full disk
                gallery.undo(entry)
            raise
        self._store.event_log.tell(told)
        return self._change(number)

    def _tell(self, event: str, about: dict[str, Any]) -> None:
        self._store.log(_event(event, about))


def _write(
    execute: Execute, action: str, entry: int | None, who: Person, moved: Sequence[int]
) -> int:
    """Write a change of the gallery, by which appearances became `who`'s; its number."""
    rows = list(dict.fromkeys(moved))
    ((number,),) = execute(
        "INSERT INTO change (at, action, entry, count) VALUES (?, ?, ?, ?) RETURNING id",
        (time.time(), action, entry, len(rows)),
    )
    if rows:
        these = json.dumps(rows)
        execute(
            "INSERT INTO moved (change, appearance, given, given_by) "
            "SELECT ?, id, given, given_by FROM appearance WHERE id IN ({among})",
            (number, these),
        )
        execute(
            "UPDATE appearance SET given = ?, given_by = ? WHERE id IN ({among})",
            (who.id, number, these),
        )
    return int(number)


def _event(event: str, about: dict[str, Any]) -> dict[str, Any]:
    """What is told of a change."""
    number = f"{new_run()}-00000001"
    told = {"version": EVENT_VERSION, "id": number, "event": event}
    return told | {"ts": timestamp(datetime.now(UTC))} | dict.fromkeys(_FIELDS) | about


def _best(rows: Sequence[Appearance]) -> list[Appearance]:
    """The rows of most weight; GalleryError if none has a template."""
    fit = [row for row in rows if row.template is not None]
    if not fit:
        raise GalleryError("none of these faces was good enough to be kept: choose others")
    return sorted(fit, key=lambda row: (-row.weight, row.id))[:SAMPLES]
