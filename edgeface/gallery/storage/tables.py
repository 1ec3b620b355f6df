"""The rows of a gallery, read and written inside one transaction of its database."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import GalleryError
from edgeface.gallery.records import Person, Provenance, Sample, unknown
from edgeface.gallery.storage.values import UNREADABLE, Values, moment, warn, whole
from edgeface.types import Array, Kind

_PERSON = """
    SELECT p.id, p.name, p.kind, p.created, p.external_id, p.metadata,
           (SELECT count(*) FROM sample s WHERE s.person_id = p.id) FROM person p"""
_SAMPLE = """
    SELECT id, person_id, embedding, quality, provenance, source, crop, created FROM sample"""
_MARKS = 500  # values of one IN (...), well below what any SQLite allows


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """Samples that changed: `ids` (n,), `owners` (n,), `embeddings` (n, d); the (revision, id) of
    the `last` one that was read, None if there was none; whether there may be `more`."""

    ids: NDArray[np.int64]
    owners: NDArray[np.int64]
    embeddings: Array
    last: tuple[int, int] | None
    more: bool


class Tables(Values):
    """Typed access to the rows."""

    # Settings and the change counter

    def setting(self, key: str) -> str | None:
        rows = self.execute("SELECT value FROM setting WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set(self, key: str, value: str) -> None:
        self.execute(
            "INSERT INTO setting (key, value) VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def settings(self) -> dict[str, str]:
        return {str(k): str(v) for k, v in self.execute("SELECT key, value FROM setting")}

    def revision(self) -> int:
        return self._state("revision")

    def advance(self) -> int:
        """The revision of this transaction's changes; writers take turns from here on."""
        self._state("revision")
        self.execute("UPDATE state SET revision = revision + 1")
        return self._state("revision")

    def _state(self, column: str) -> int:
        rows = self.execute(f"SELECT {column} FROM state")
        if len(rows) != 1 or not isinstance(rows[0][0], int):
            raise GalleryError(f"{self._place} is damaged, its state is {rows}: restore a backup")
        return rows[0][0]

    # People

    def people(self) -> list[Person]:
        found = map(self._person, self.execute(f"{_PERSON} ORDER BY p.id"))
        return [person for person in found if person is not None]

    def strangers(self, seen_before: float | None) -> list[int]:
        """The ids of the strangers whose newest sample is from before a Unix time, or of all."""
        rows = self.execute(
            "SELECT p.id, p.created, max(s.created) FROM person p "
            "LEFT JOIN sample s ON s.person_id = p.id WHERE p.kind = ? GROUP BY p.id, p.created",
            (str(Kind.STRANGER),),
        )
        seen = {int(i): moment(created if last is None else last) for i, created, last in rows}
        return sorted(i for i, last in seen.items() if seen_before is None or last < seen_before)

    def person(self, person_id: int) -> Person:
        rows = self.execute(f"{_PERSON} WHERE p.id = ?", (person_id,))
        if not rows:
            raise GalleryError(f"nobody in {self._place} has the id {person_id}")
        return self._whole(rows[0])

    def _whole(self, row: Sequence[Any]) -> Person:
        person = self._person(row)
        if person is None:
            raise GalleryError(
                f"the row of person {row[0]} in {self._place} is damaged: restore a backup"
            )
        return person

    def find(self, name: str) -> Person | None:
        rows = self.execute(f"{_PERSON} WHERE p.name_key = ?", (self._cipher.digest(name),))
        return self._whole(rows[0]) if rows else None

    def named(self, name: str) -> Person:
        """The person called `name`; GalleryError with the closest names if there is none."""
        person = self.find(name)
        if person is None:
            people = self.identities(-1)
            shown = [i for i, (other, _) in people.items() if other == name]
            if not shown:
                raise unknown(name, (other for other, _ in people.values()), self._place)
            person = self.person(shown[0])  # whose row holds what cannot be shown
        return person

    def identities(self, since: int) -> dict[int, tuple[str, Kind]]:
        """Name and kind by id of the people added or renamed after revision `since`."""
        rows = self.execute("SELECT id, name, kind FROM person WHERE revision > ?", (since,))
        found: dict[int, tuple[str, Kind]] = {}
        kinds = {str(kind): kind for kind in Kind}  # to look one up takes a tenth of making it
        for i, name, kind in rows:
            try:
                found[int(i)] = self._name(name, str(i)), kinds.get(kind) or Kind(kind)
            except UNREADABLE:
                warn(self._place, f"person {i}")
        return found

    def count_people(self) -> dict[Kind, int]:
        """How many people there are of each kind."""
        rows = self.execute("SELECT kind, count(*) FROM person GROUP BY kind")
        kinds = set(Kind)
        return {Kind(kind): int(count) for kind, count in rows if kind in kinds}

    def add_person(
        self,
        name: str,
        kind: Kind,
        revision: int,
        *,
        person_id: int | None = None,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        created: float | None = None,
    ) -> int:
        columns = "name, name_key, kind, external_id, metadata, created, revision"
        person_id = self.next_id("person") if person_id is None else person_id
        owner = str(person_id)
        values: list[Any] = [
            self.seal_text(name, "person.name", owner),
            self._cipher.digest(name),
            str(kind),
            self._maybe(external_id, "person.external_id", owner),
            self._maybe(json.dumps(metadata) if metadata else None, "person.metadata", owner),
            time.time() if created is None else created,
            revision,
        ]
        if person_id is not None:
            columns, values = columns + ", id", [*values, person_id]
        marks = ", ".join("?" * len(values))
        ((new,),) = self.execute(
            f"INSERT INTO person ({columns}) VALUES ({marks}) RETURNING id", values
        )
        return int(new)

    def add_stranger(self, revision: int) -> int:
        """A new person of the next free number; numbers are never given twice."""
        self.execute("UPDATE state SET strangers = strangers + 1")
        number = self._state("strangers")
        return self.add_person(f"stranger-{number}", Kind.STRANGER, revision)

    def set_name(self, person_id: int, name: str, kind: Kind, revision: int) -> None:
        self.execute(
            "UPDATE person SET name = ?, name_key = ?, kind = ?, revision = ? WHERE id = ?",
            (
                self.seal_text(name, "person.name", str(person_id)),
                self._cipher.digest(name),
                str(kind),
                revision,
                person_id,
            ),
        )

    def set_group(self, person: Person, group: str | None, revision: int) -> None:
        """Put a person into a group, or into none."""
        metadata = {k: v for k, v in person.metadata.items() if k != "group"}
        metadata |= {} if group is None else {"group": group}
        self.set_details(person.id, person.external_id, metadata, revision)

    def set_details(
        self, person_id: int, external_id: str | None, metadata: dict[str, Any], revision: int
    ) -> None:
        owner = str(person_id)
        self.execute(
            "UPDATE person SET external_id = ?, metadata = ?, revision = ? WHERE id = ?",
            (
                self._maybe(external_id, "person.external_id", owner),
                self._maybe(json.dumps(metadata) if metadata else None, "person.metadata", owner),
                revision,
                person_id,
            ),
        )

    def drop_person(self, person_id: int, revision: int) -> None:
        """Delete a person with everything that is theirs."""
        self.drop_samples(self.sample_ids(person_id), revision)
        self.execute("DELETE FROM person WHERE id = ?", (person_id,))

    # Samples

    def add_samples(
        self,
        person_id: int,
        rows: Array,
        revision: int,
        *,
        provenance: Provenance,
        qualities: Sequence[float | None],
        sources: Sequence[str | None],
        crops: Sequence[bytes | None],
        created: Sequence[float] | None = None,
    ) -> list[int]:
        times = [time.time()] * len(rows) if created is None else created
        ids = []
        for row, quality, source, crop, when in zip(
            rows, qualities, sources, crops, times, strict=True
        ):
            sample = self.next_id("sample")
            owner = f"{sample}/{person_id}"
            values: list[Any] = [
                person_id,
                self._cipher.seal(row.astype("<f4").tobytes(), "sample.embedding", owner),
                None if quality is None or np.isnan(quality) else float(quality),
                str(provenance),
                self._maybe(source, "sample.source", owner),
                None if crop is None else self._cipher.seal(crop, "sample.crop", owner),
                when,
                revision,
            ]
            columns = ""
            if sample is not None:
                columns, values = ", id", [*values, sample]
            ((new,),) = self.execute(
                "INSERT INTO sample (person_id, embedding, quality, provenance, source, crop, "
                f"created, revision{columns}) VALUES ({', '.join('?' * len(values))}) RETURNING id",
                values,
            )
            ids.append(int(new))
        return ids

    def samples(self, person_id: int) -> list[Sample]:
        rows = self.execute(f"{_SAMPLE} WHERE person_id = ? ORDER BY id", (person_id,))
        return self._samples(rows)

    def damaged_samples(self) -> list[tuple[int, int]]:
        """(id, person id) of the samples whose row is damaged."""
        bad: list[tuple[int, int]] = []
        people = self.execute("SELECT DISTINCT person_id FROM sample ORDER BY person_id")
        for (person_id,) in people:
            rows = self.execute(f"{_SAMPLE} WHERE person_id = ? ORDER BY id", (person_id,))
            sound = {sample.id for sample in self._samples(rows)}
            bad += [(int(r[0]), whole(r[1])) for r in rows if r[0] not in sound]
        return bad

    def sample_ids(self, person_id: int) -> list[int]:
        rows = self.execute("SELECT id FROM sample WHERE person_id = ? ORDER BY id", (person_id,))
        return [int(i) for (i,) in rows]

    def changed_samples(self, after: tuple[int, int], until: int, limit: int) -> Changed:
        """At most `limit` samples by (revision, id) > `after`; those that are damaged left out."""
        columns = "SELECT revision, id, person_id, embedding FROM sample"
        # Two statements, as one over (revision, id) would step over the whole revision each time.
        rows = self.execute(
            f"{columns} WHERE revision = ? AND id > ? ORDER BY id LIMIT ?", (*after, limit)
        )
        rows += self.execute(
            f"{columns} WHERE revision > ? AND revision <= ? ORDER BY revision, id LIMIT ?",
            (after[0], until, limit - len(rows)),
        )
        places, embeddings, _ = self._embeddings([(i, p, e) for _, i, p, e in rows])
        return Changed(
            ids=np.array([rows[i][1] for i in places], np.int64),
            owners=np.array([whole(rows[i][2]) for i in places], np.int64),
            embeddings=embeddings,
            last=(whole(rows[-1][0]), int(rows[-1][1])) if rows else None,
            more=len(rows) == limit,
        )

    def embeddings(self, ids: Sequence[int]) -> tuple[NDArray[np.int64], Array]:
        """Ids (n,) and embeddings (n, d) of those of `ids` that there are and are sound."""
        found: list[int] = []
        parts: list[Array] = [np.empty((0, self._size), np.float32)]
        for start in range(0, len(ids), _MARKS):
            some = ids[start : start + _MARKS]
            marks = ", ".join("?" * len(some))
            rows = self.execute(
                f"SELECT id, person_id, embedding FROM sample WHERE id IN ({marks})", some
            )
            places, embeddings, _ = self._embeddings([(i, p, e) for i, p, e in rows])
            found += [int(rows[i][0]) for i in places]
            parts.append(embeddings)
        return np.array(found, np.int64), np.concatenate(parts)

    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every sample and its person, (n,) each, samples ascending. Most people were enrolled at
        once, so that their ids follow one another: a row for each of them is read in a fifth of
        the time that a row for each sample takes, of a million half a second."""
        runs = self.execute(
            "SELECT person_id, min(id), max(id), count(*) FROM sample GROUP BY person_id"
        )
        scattered = [p for p, first, last, count in runs if last - first + 1 != count]
        if len(scattered) > len(runs) // 4:
            rows = self.execute("SELECT id, person_id FROM sample")
            ids = np.array([i for i, _ in rows], np.int64)
            people = np.array([whole(person) for _, person in rows], np.int64)
        else:
            parts = [run for run in runs if run[2] - run[1] + 1 == run[3]]
            for person in scattered:
                rows = self.execute("SELECT id FROM sample WHERE person_id = ?", (person,))
                parts += [(person, i, i, 1) for (i,) in rows]
            firsts = np.array([first for _, first, _, _ in parts], np.int64)
            counts = np.array([count for _, _, _, count in parts], np.int64)
            people = np.repeat(np.array([whole(p) for p, *_ in parts], np.int64), counts)
            begins = np.cumsum(counts) - counts
            ids = np.arange(len(people)) + np.repeat(firsts - begins, counts)
        order = np.argsort(ids, kind="stable")
        return ids[order], people[order]

    def count_samples(self) -> int:
        return int(self.execute("SELECT count(*) FROM sample")[0][0])

    def dropped(self, since: int, held: NDArray[np.int64]) -> list[int]:
        """The samples deleted after revision `since`, of which `held` are of interest."""
        if since < self._state("floor"):  # the list no longer reaches back so far
            gone: list[int] = np.setdiff1d(held, self.owners()[0]).tolist()
            return gone
        rows = self.execute("SELECT sample_id FROM dropped WHERE revision > ?", (since,))
        return [int(i) for (i,) in rows]

    def prune(self, revision: int) -> None:
        """Empty the list of deleted samples up to now."""
        self.execute("DELETE FROM dropped")
        self.execute("UPDATE state SET floor = ?", (revision,))

    def move_samples(self, ids: Iterable[int], person_id: int, revision: int) -> None:
        ids = list(ids)
        if self._cipher.secret:
            self._rebind(ids, person_id)
        self.execute(
            "UPDATE sample SET person_id = ?, revision = ? WHERE id = ?",
            [(person_id, revision, i) for i in ids],
            many=True,
        )

    def _rebind(self, ids: Sequence[int], person_id: int) -> None:
        """Seal samples anew for the person whose they become."""
        for i in ids:
            rows = self.execute(f"{_SAMPLE} WHERE id = ?", (i,))
            for _, owner, embedding, _, _, source, crop, _ in rows:
                old, new = f"{i}/{owner}", f"{i}/{person_id}"
                try:
                    values = self.recode(self, (embedding, source, crop), old, new)
                except GalleryError:  # damaged already, and so it stays
                    continue
                self.execute(
                    "UPDATE sample SET embedding = ?, source = ?, crop = ? WHERE id = ?",
                    (*values, i),
                )

    def recode(
        self, old: Values, values: tuple[Any, str | None, Any], was: str, becomes: str
    ) -> tuple[Any, str | None, Any]:
        """Embedding, source and crop as `old` sealed them for `was`, sealed for `becomes`."""
        embedding, source, crop = values
        cipher = old._cipher

        def blob(value: Any, column: str) -> Any:
            return self._cipher.seal(cipher.unseal(value, column, was), column, becomes)

        text = None if source is None else old.open_text(source, "sample.source", was)
        return (
            blob(embedding, "sample.embedding"),
            self._maybe(text, "sample.source", becomes),
            None if crop is None else blob(crop, "sample.crop"),
        )

    def drop_samples(self, ids: Sequence[int], revision: int) -> None:
        self.execute("INSERT INTO dropped VALUES (?, ?)", [(i, revision) for i in ids], many=True)
        self.execute("DELETE FROM sample WHERE id = ?", [(i,) for i in ids], many=True)

    def set_provenance(self, ids: Iterable[int], provenance: Provenance) -> None:
        self.execute(
            "UPDATE sample SET provenance = ? WHERE id = ?",
            [(str(provenance), i) for i in ids],
            many=True,
        )

    # People who are not the same

    def links(self, person_id: int) -> list[tuple[int, int]]:
        rows = self.execute(
            "SELECT a, b FROM cannot_link WHERE a = ? OR b = ?", (person_id, person_id)
        )
        return [(int(a), int(b)) for a, b in rows]

    def unlink(self, one: int, other: int) -> bool:
        """Whether they were known to differ; they are not any more."""
        pair = (min(one, other), max(one, other))
        return bool(self.execute("DELETE FROM cannot_link WHERE a = ? AND b = ? RETURNING a", pair))

    def link_never(self, one: int, other: int) -> None:
        self.execute(
            "INSERT INTO cannot_link VALUES (?, ?) ON CONFLICT DO NOTHING",
            (min(one, other), max(one, other)),
        )
