"""Changes to who is who, in the gallery and in the past at once. Each can be taken back.

The gallery is changed first and holds the truth about names; rows here refer to it by id, so a
rename or a merge reaches every past and running appearance without a row being written. Rows are
written only where a face gets another person (`given`), each with what it was before.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery import Person
from edgeface.types import timestamp

if TYPE_CHECKING:
    from edgeface.sightings.store import Sightings

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
        store, gallery, before = self._store, self._store.gallery, self._entry()
        holder = next((p for p in gallery.people() if p.name == name.strip()), None)
        if person is not None:
            who = store.residents.get(person)
            if holder is not None and holder.id != who.id:
                named = gallery.merge(holder.name, who.name)
            else:
                named = gallery.rename(who.name, name)
        else:
            rows = [row for row in store.some(sightings) if row.template is not None]
            if not rows:
                raise GalleryError("none of these faces was good enough to be kept: choose others")
            named = gallery.enroll(
                name,
                np.stack([row.template for row in rows if row.template is not None]),
                qualities=[min(1.0, row.weight / max(1, row.n_faces)) for row in rows],
                sources=[f"{row.camera} {timestamp(row.last)}" for row in rows],
                crops=[store.crop(row.id) for row in rows],
            )
        moved = dict.fromkeys([*sightings, *self._resembling(named)], named.id)
        return self._done("name", moved, "person_renamed", named, before)

    def merge(self, into: int, others: Sequence[int]) -> list[Change]:
        """Make people one, who keeps the id and name of `into`; a change for each."""
        changes, kept = [], self._store.residents.get(into)
        for other in others:
            gone = self._store.residents.get(other)
            before = self._entry()
            self._store.gallery.merge(kept.name, gone.name)
            changes.append(self._done("merge", {}, "person_merged", kept, before, merged=other))
        return changes

    def split(
        self, person: int, sightings: Sequence[int] = (), samples: Sequence[int] = ()
    ) -> Change:
        """Make some appearances, or some of the gallery's samples, of a person somebody else, who
        gets a number."""
        who = self._store.residents.get(person)
        rows, before = self._theirs(who, sightings), self._entry()
        new = self._store.gallery.split(who.name, samples) if samples else self._apart(who, rows)
        return self._done("split", dict.fromkeys(sightings, new.id), "person_split", new, before)

    def not_this(self, sighting: int) -> Change:
        """Say that an appearance is not the person it was taken for. The face becomes a stranger,
        who is never joined with them."""
        row = self._store.row(sighting)
        if row.person_id is None:
            raise GalleryError(f"sighting {sighting} is nobody's: name it instead")
        before = self._entry()
        new = self._apart(self._store.residents.get(row.person_id), [row])
        return self._done("not_this", {sighting: new.id}, "person_split", new, before)

    def ignore(self, person: int, on: bool = True) -> Change:
        """Recognise a person without telling of them, or tell of them again."""
        before = self._entry()
        who = self._store.gallery.ignore(self._store.residents.get(person).name, on)
        return self._done("ignore" if on else "heed", {}, "person_renamed", who, before)

    def group(self, person: int, group: str | None) -> Change:
        """Put a person into a group, or into none."""
        before = self._entry()
        who = self._store.gallery.set_group(self._store.residents.get(person).name, group)
        return self._done("group", {}, "person_renamed", who, before)

    def forget(self, person: int) -> int:
        """Erase a person from the gallery and from the past: rows, crops, events. Nothing brings
        them back. How many appearances that were."""
        store = self._store
        who, ids = store.residents.get(person), store.residents.ids(person=person)
        erased = store.residents.erase(ids)
        store.gallery.forget(who.name)
        self._tell("person_forgotten", {"person_id": person, "name": None})
        return erased

    def undo(self, change: int) -> Change:
        """Take back one change, in the gallery and here.

        Raises:
            GalleryError: there is no such change, it was taken back, or the gallery has gone on so
                that it cannot be.
        """
        store = self._store
        with store.file.read() as execute:
            rows = execute("SELECT entry, undone FROM change WHERE id = ?", (change,))
        if not rows or rows[0][1]:
            raise GalleryError(f"there is no change {change} that stands: see the history")
        if rows[0][0] is not None:
            store.gallery.undo(rows[0][0])
        with store.file.write() as execute:
            execute(
                "UPDATE appearance SET (given, given_by) = (SELECT m.given, m.given_by "
                "FROM moved m WHERE m.change = ?1 AND m.appearance = appearance.id) "
                "WHERE given_by = ?1",
                (change,),
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

    def _theirs(self, who: Person, sightings: Sequence[int]) -> list[Any]:
        rows = self._store.some(sightings)
        if strange := [row.id for row in rows if row.person_id != who.id]:
            raise GalleryError(f"sightings {strange} are not of {who.name!r}: choose among theirs")
        return rows

    def _apart(self, who: Person, rows: Sequence[Any]) -> Person:
        """A stranger made of the best of some rows, whom `who` is never joined with."""
        fit = [row for row in rows if row.template is not None]
        if not fit:
            raise GalleryError("none of these faces was good enough to be kept: choose others")
        best = max(fit, key=lambda row: row.weight)
        return self._store.gallery.not_this_person(who.name, embedding=best.template)

    def _resembling(self, named: Person) -> list[int]:
        """The past appearances of nobody that reach the threshold of their time for `named`."""
        store = self._store
        with store.file.read() as execute:
            rows = execute(
                "SELECT id, run, track, template, threshold FROM appearance "
                "WHERE coalesce(given, person) IS NULL AND template IS NOT NULL"
            )
        if not rows:
            return []
        ids, templates = store.templates(row[:4] for row in rows)
        theirs = np.stack([s.embedding for s in store.gallery.samples(named.name)])
        best = np.concatenate([(block @ theirs.T).max(1) for block in _blocks(templates)])
        return [i for i, s, row in zip(ids, best.tolist(), rows, strict=True) if s >= row[4]]

    def _entry(self) -> int | None:
        """The newest entry of the gallery's journal."""
        entries = self._store.gallery.history(1)
        return entries[0].id if entries else None

    def _done(
        self,
        action: str,
        moved: dict[int, int],
        event: str,
        who: Person,
        before: int | None,
        **more: Any,
    ) -> Change:
        """Write a change that the gallery has made since its entry `before`, and tell of it."""
        entry = self._entry()
        entry = None if entry == before else entry
        with self._store.file.write() as execute:
            ((number,),) = execute(
                "INSERT INTO change (at, action, entry, count) VALUES (?, ?, ?, ?) RETURNING id",
                (time.time(), action, entry, len(moved)),
            )
            if moved:
                pairs = json.dumps(list(moved.items()))
                these = "SELECT value ->> 0 AS id, value ->> 1 AS person FROM json_each(?)"
                execute(
                    f"INSERT INTO moved SELECT ?, a.id, a.given, a.given_by FROM ({these}) m "
                    "JOIN appearance a ON a.id = m.id",
                    (number, pairs),
                )
                execute(
                    f"UPDATE appearance SET given = m.person, given_by = ? FROM ({these}) m "
                    "WHERE appearance.id = m.id",
                    (number, pairs),
                )
        about = {"person_id": who.id, "name": who.name, "kind": str(who.kind), "change": number}
        self._tell(event, about | {"group": who.group} | more)
        return self._change(number)

    def _tell(self, event: str, about: dict[str, Any]) -> None:
        number = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}-00000001"
        self._store.log(
            {"version": 1, "id": number, "event": event, "ts": timestamp(datetime.now(UTC))} | about
        )


def _blocks(rows: Any, size: int = 65_536) -> list[Any]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
