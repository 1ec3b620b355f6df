"""Changes to who is who. Each is one entry of the journal and can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgeface.errors import GalleryError
from edgeface.gallery import journal
from edgeface.gallery.base import Base
from edgeface.gallery.journal import Entry
from edgeface.gallery.records import Faces, Person, Provenance, check_name, is_numbered, unit_rows
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Array, Kind


class Editing(Base):
    """The part of a gallery that renames, merges and parts people."""

    def enroll_clusters(self, groups: Sequence[Faces]) -> list[Person]:
        """Add the faces of several people that a clustering found, as one change: people of these
        names gain samples or are made. All or nothing; the samples' provenance is `cluster` until
        the person is renamed. Returns the people in the order of `groups`."""
        rows_of = [unit_rows(group.embeddings, self.size) for group in groups]
        if not groups:
            return []
        with self._change() as (tables, revision):
            done: list[dict[str, Any]] = []
            for group, rows in zip(groups, rows_of, strict=True):
                person = tables.find(check_name(group.name, reserved=False))
                who = (
                    tables.add_person(check_name(group.name), Kind.KNOWN, revision)
                    if person is None
                    else person.id
                )
                samples = tables.add_samples(
                    who,
                    rows,
                    revision,
                    provenance=Provenance.CLUSTER,
                    qualities=group.qualities,
                    sources=group.sources,
                    crops=[None] * len(rows),
                )
                done.append({"person": who, "samples": samples, "created": person is None})
            ids = [entry["person"] for entry in done]
            journal.record(tables, "cluster", {"people": done}, ids)
            return [tables.person(i) for i in ids]

    def rename(self, name: str, new: str) -> Person:
        """Give a person another name; naming a stranger makes them known and vouches for their
        samples. GalleryError if somebody else has the name: that would be a merge."""
        name, new = check_name(name, reserved=False), check_name(new)
        with self._change() as (tables, revision):
            person, holder = tables.named(name), tables.find(new)
            if holder is not None and holder.id != person.id:
                raise GalleryError(
                    f"somebody is already called {new!r}: if they are one person, merge "
                    f"{name!r} into {new!r}"
                )
            # A known person's automatic samples stay what they are: the name was never in doubt.
            doubtful = [Provenance.CLUSTER]
            if person.kind is Kind.STRANGER:
                doubtful.append(Provenance.AUTOMATIC)
            vouched: dict[str, list[int]] = {str(provenance): [] for provenance in doubtful}
            for sample in tables.samples(person.id):
                if sample.provenance in doubtful:
                    vouched[str(sample.provenance)].append(sample.id)
            tables.set_name(person.id, new, Kind.KNOWN, revision)
            tables.set_provenance([i for ids in vouched.values() for i in ids], Provenance.USER)
            payload = {
                "person": person.id,
                "old": person.name,
                "kind": str(person.kind),
                "provenance": vouched,
            }
            journal.record(tables, "rename", payload, [person.id])
            return tables.person(person.id)

    def undone(self, entry: int) -> bool:
        """Whether the journal's entry `entry` has been taken back."""
        with self._read() as tables:
            rows = tables.execute("SELECT undone FROM journal WHERE id = ?", (entry,))
        return bool(rows and rows[0][0])

    def ignore(self, name: str, on: bool = True) -> Person:
        """Recognise a person without a match ever, and without an alert; `on` False ends that: who
        was a stranger is one again, anybody else is known."""
        with self._change() as (tables, revision):
            person = tables.named(check_name(name, reserved=False))
            kind = Kind.IGNORED
            if not on:
                kind = Kind.STRANGER if is_numbered(person.name) else Kind.KNOWN
            if (person.kind is Kind.IGNORED) == on:
                return person
            tables.set_name(person.id, person.name, kind, revision)
            payload = {"person": person.id, "kind": str(person.kind)}
            journal.record(tables, "ignore", payload, [person.id])
            return tables.person(person.id)

    def set_group(self, name: str, group: str | None) -> Person:
        """Put a person into a group, such as family or courier, or into none."""
        group = None if group is None else check_name(group)
        with self._change() as (tables, revision):
            person = tables.named(check_name(name, reserved=False))
            tables.set_group(person, group, revision)
            payload = {"person": person.id, "group": person.group}
            journal.record(tables, "group", payload, [person.id])
            return tables.person(person.id)

    def merge(self, into: str, other: str, *, force: bool = False) -> Person:
        """Make `other` the same person as `into`, who keeps id and name. Two people known to differ
        (seen in one picture, or parted before) are merged only with `force`."""
        into, other = check_name(into, reserved=False), check_name(other, reserved=False)
        with self._change() as (tables, revision):
            kept, gone = tables.named(into), tables.named(other)
            if kept.id == gone.id:
                raise GalleryError(f"{into!r} cannot be merged into themselves: name two people")
            samples, links = tables.sample_ids(gone.id), tables.links(gone.id)
            if not force and tuple(sorted((kept.id, gone.id))) in links:
                raise GalleryError(
                    f"{into!r} and {other!r} are known to be different people: force the merge if "
                    "that is wrong"
                )
            payload = {
                "into": kept.id,
                "other": journal.details(gone),
                "samples": samples,
                "links": links,
            }
            tables.move_samples(samples, kept.id, revision)
            tables.drop_person(gone.id, revision)
            for a, b in links:
                third = b if a == gone.id else a
                if third != kept.id:
                    tables.link_never(kept.id, third)
            journal.inherit(tables, kept.id, gone.id)
            journal.record(tables, "merge", payload, [kept.id, gone.id])
            return tables.person(kept.id)

    def split(self, name: str, samples: Sequence[int], new: str | None = None) -> Person:
        """Make some samples of a person another person, called `new` or the next stranger; the two
        are remembered as different. Returns the new person."""
        name = check_name(name, reserved=False)
        new = None if new is None else check_name(new)
        with self._change() as (tables, revision):
            person = tables.named(name)
            theirs, wanted = set(tables.sample_ids(person.id)), set(samples)
            if not wanted or not wanted <= theirs:
                raise GalleryError(
                    f"samples {sorted(wanted - theirs)} are not of {name!r}: choose among "
                    f"{sorted(theirs)}"
                )
            if wanted == theirs:
                raise GalleryError(f"these are all samples of {name!r}: rename them instead")
            if new is not None and tables.find(new) is not None:
                raise GalleryError(f"somebody is already called {new!r}: choose another name")
            who = (
                tables.add_stranger(revision)
                if new is None
                else tables.add_person(new, Kind.KNOWN, revision)
            )
            tables.move_samples(sorted(wanted), who, revision)
            tables.link_never(person.id, who)
            payload = {"person": person.id, "new": who, "samples": sorted(wanted)}
            journal.record(tables, "split", payload, [person.id, who])
            return tables.person(who)

    def not_this_person(
        self, name: str, *, sample: int | None = None, embedding: ArrayLike | None = None
    ) -> Person:
        """Say that a face was wrongly taken for `name`: one of their samples, or a probe's
        `embedding` (d,). The face becomes a stranger who is never joined with them, and who answers
        when it comes again. Returns that stranger."""
        if (sample is None) == (embedding is None):
            raise GalleryError("say which face it was: a sample of theirs or an embedding")
        if sample is not None:
            return self.split(name, [sample])
        rows = unit_rows(np.asarray(embedding), self.size)
        with self._change() as (tables, revision):
            person = tables.named(check_name(name, reserved=False))
            stranger = _open_stranger(tables, rows, revision, None, "correction")
            tables.link_never(person.id, stranger)
            return tables.person(stranger)

    def never_same(self, one: int, other: int) -> None:
        """Remember that two people (ids) are different, as when seen in one picture together."""
        if one == other:
            raise GalleryError(f"person {one} cannot differ from themselves: give two ids")
        with self._read() as tables:
            if (min(one, other), max(one, other)) in tables.links(one):
                return
        with self._change() as (tables, _):
            tables.person(one), tables.person(other)
            tables.link_never(one, other)

    def set_different(self, one: int, other: int) -> Person:
        """Say, as somebody who knows them, that two people (ids) are different: like `never_same`,
        and it can be undone. Returns the first; GalleryError if that is known already."""
        if one == other:
            raise GalleryError(f"person {one} cannot differ from themselves: give two ids")
        with self._change() as (tables, _):
            person, second = tables.person(one), tables.person(other)
            if (min(one, other), max(one, other)) in tables.links(one):
                raise GalleryError(
                    f"{person.name!r} and {second.name!r} are known to be different already"
                )
            tables.link_never(one, other)
            journal.record(tables, "different", {"people": [one, other]}, [one, other])
            return person

    def different_from(self, person_id: int) -> set[int]:
        """The ids of the people who are known to be different from this one."""
        with self._read() as tables:
            return {i for pair in tables.links(person_id) for i in pair} - {person_id}

    def add_stranger(
        self, embedding: ArrayLike, *, quality: float | None = None, source: str | None = None
    ) -> Person:
        """Open the next `stranger-N` with one automatic sample."""
        rows = unit_rows(embedding, self.size)
        with self._change() as (tables, revision):
            return tables.person(_open_stranger(tables, rows, revision, quality, source))

    def grow(
        self,
        person_id: int,
        embedding: ArrayLike,
        *,
        quality: float | None = None,
        source: str | None = None,
    ) -> Person:
        """Add an automatic sample to a person. Whether it should be is for `Growth` to say."""
        rows = unit_rows(embedding, self.size)
        with self._change() as (tables, revision):
            tables.person(person_id)
            payload = {
                "person": person_id,
                "samples": _add_automatic(
                    tables, person_id, rows, revision, quality=quality, source=source
                ),
                "created": False,
            }
            journal.record(tables, "grow", payload, [person_id])
            return tables.person(person_id)

    def history(self, limit: int = 20) -> list[Entry]:
        """The newest changes, newest first."""
        with self._read() as tables:
            return journal.entries(tables, limit)

    def undo(self, entry: int | None = None) -> Entry:
        """Take back one change, by default the newest that stands; GalleryError if it cannot."""
        with self._change() as (tables, revision):
            return journal.undo(tables, revision, entry)


def _open_stranger(
    tables: Tables, rows: Array, revision: int, quality: float | None, source: str | None
) -> int:
    """A new stranger with one automatic sample, in the journal; their id."""
    who = tables.add_stranger(revision)
    samples = _add_automatic(tables, who, rows, revision, quality=quality, source=source)
    payload = {"person": who, "samples": samples, "created": True}
    journal.record(tables, "stranger", payload, [who])
    return who


def _add_automatic(
    tables: Tables,
    person_id: int,
    rows: Array,
    revision: int,
    *,
    quality: float | None,
    source: str | None,
) -> list[int]:
    return tables.add_samples(
        person_id,
        rows,
        revision,
        provenance=Provenance.AUTOMATIC,
        qualities=[quality],
        sources=[source],
        crops=[None],
    )
