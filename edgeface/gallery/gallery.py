"""The gallery: people, their samples, and the nearest person to a probe."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from edgeface.errors import GalleryError
from edgeface.gallery import exchange, journal
from edgeface.gallery.base import Finder
from edgeface.gallery.editing import Editing
from edgeface.gallery.index.cache import SETTING as INDEX
from edgeface.gallery.index.cache import IndexFile
from edgeface.gallery.index.mirror import Mirror
from edgeface.gallery.records import Person, Provenance, Sample, check_name, unit_rows
from edgeface.gallery.storage.address import is_postgres
from edgeface.gallery.storage.cipher import read_key
from edgeface.gallery.storage.contract import agree, encrypt
from edgeface.gallery.storage.postgres import PostgresDatabase, ServerFinder
from edgeface.gallery.storage.sqlite import SqliteDatabase
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Array, Kind, Match, Threshold


class Gallery(Editing):
    """People and their face embeddings in one crash-safe file, searchable.

    A change has been committed to the disk when its method returns. Every method may be called
    from any thread, and several processes may share a gallery: each sees the others' changes at
    its next search. Made with `Gallery.open`.
    """

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: str | None = None,
        size: int | None = None,
        create: bool = True,
        key: bytes | None = None,
    ) -> Self:
        """Open the gallery at `path`, a file or `postgresql://…`, making it if `create` is set.

        `model` is the digest of the embedder and `size` its embedding size; they are stored with a
        new gallery and must be those of an existing one. None accepts whatever the gallery has and
        cannot make a new one. `key` (32 bytes; by default `EDGEFACE_GALLERY_KEY` or the file
        `EDGEFACE_GALLERY_KEY_FILE`) makes a new gallery encrypted and opens an encrypted one.
        GalleryError when it is not a gallery, damaged, newer, of another model or another key.
        """
        make = create and model is not None and size is not None
        database: SqliteDatabase | PostgresDatabase = (
            PostgresDatabase(str(path), size=size if make else None)
            if is_postgres(path)
            else SqliteDatabase(Path(path), create=make)
        )
        finder: Finder | None = None
        try:
            cipher, model, size = agree(database, model, size, key)
            database.watch(partial(agree, database, model, size, key))
            if isinstance(database, SqliteDatabase):
                finder = Mirror(database, cipher, size, IndexFile(database.path))
            else:
                finder = ServerFinder(database, size)
            gallery = cls(database, cipher, finder, model=model, size=size)
            if gallery._summary().settings.get("scrub") == "due":
                gallery._scrub()
            return gallery
        except BaseException:
            if finder is not None:
                finder.close()
            database.close()
            raise

    @classmethod
    def encrypt(cls, path: str | Path, *, key: bytes | None = None) -> None:
        """Encrypt the gallery file at `path` in place with `key` (see `open`), which alone opens it
        from then on. GalleryError when it is encrypted already, or there is no key. Copies and
        exports that were made of it before stay readable."""
        key = read_key() if key is None else key
        if key is None:
            raise GalleryError(
                f"no key to encrypt {path} with: set EDGEFACE_GALLERY_KEY or "
                "EDGEFACE_GALLERY_KEY_FILE"
            )
        if is_postgres(path):
            raise GalleryError("a gallery on a server cannot be encrypted: encrypt its disk")
        database = SqliteDatabase(Path(path), create=False)
        try:
            encrypt(database, key)
        finally:
            database.close()
        cls.open(path, key=key).close()  # which erases what was readable

    def close(self) -> None:
        """Close the file; the gallery cannot be used afterwards."""
        try:
            self._finder.close()
        finally:
            self._db.close()

    def __len__(self) -> int:
        """How many samples the gallery holds."""
        return len(self._finder)

    # People

    def count(self, kind: Kind | str | None = None) -> int:
        """How many people there are, all of them or only those of one `kind`.

        Cheap enough to be asked for every frame (some microseconds while nothing changes), and
        right whoever changed the gallery, another process included.
        """
        people = self._summary().people
        return sum(people.values()) if kind is None else people.get(Kind(kind), 0)

    def enroll(
        self,
        name: str,
        embeddings: ArrayLike,
        *,
        qualities: Sequence[float | None] | None = None,
        provenance: Provenance | str = Provenance.USER,
        sources: Sequence[str | None] | None = None,
        crops: Sequence[bytes | None] | None = None,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Person:
        """Add `embeddings` (n, d) to the person called `name`, made if there is none.

        All or nothing, on the disk when it returns. `qualities` in [0, 1], `sources` (where each
        face came from) and `crops` (encoded pictures) have one entry per embedding.
        """
        name, rows = check_name(name), unit_rows(embeddings, self.size)
        nothing: list[None] = [None] * len(rows)
        with self._change() as (tables, revision):
            person = tables.find(name)
            created = person is None
            if person is None:
                who = tables.add_person(
                    name, Kind.KNOWN, revision, external_id=external_id, metadata=metadata
                )
            else:
                who = person.id
                if external_id is not None or metadata is not None:
                    tables.set_details(
                        who,
                        person.external_id if external_id is None else external_id,
                        person.metadata | (metadata or {}),
                        revision,
                    )
            samples = tables.add_samples(
                who,
                rows,
                revision,
                provenance=Provenance(provenance),
                qualities=qualities or nothing,
                sources=sources or nothing,
                crops=crops or nothing,
            )
            payload = {"person": who, "samples": samples, "created": created}
            journal.record(tables, "enroll", payload, [who])
            return tables.person(who)

    def people(self) -> list[Person]:
        """Everybody, in the order of their ids."""
        with self._read() as tables:
            return tables.people()

    def stamp(self) -> object:
        """A value that differs once anybody has changed the gallery, in this process or another;
        microseconds for a file, a round trip for a server."""
        return self._db.stamp()

    def person(self, name: str) -> Person:
        """The person called `name`; GalleryError with the closest names if there is none."""
        with self._read() as tables:
            return tables.named(check_name(name, reserved=False))

    def merges(self) -> journal.Merges:
        """Whom the people that were merged into others (and not parted again) became."""
        with self._read() as tables:
            return journal.merges(tables)

    def kind(self, person_id: int) -> Kind:
        """Whether a person (by id) is known or a stranger."""
        with self._read() as tables:
            return tables.person(person_id).kind

    def samples(self, name: str) -> list[Sample]:
        """The samples of the person called `name`, oldest first."""
        with self._read() as tables:
            return tables.samples(tables.named(check_name(name, reserved=False)).id)

    def forget(self, name: str) -> None:
        """Erase a person: rows, samples, crops, journal entries, index entries, and the traces
        they left in the file, which is rewritten. Nothing brings them back. Where the file cannot
        be rewritten (a full disk, a folder that may not be written to), a warning says that traces
        may stay until the next opening that can."""
        with self._change() as (tables, revision):
            _erase(tables, [tables.named(check_name(name, reserved=False)).id], revision)
        self._scrub()

    def forget_strangers(
        self, seen_before: float | None = None, *, spared: Collection[int] = ()
    ) -> int:
        """Erase the numbered strangers whose newest sample is from before a Unix time (s), all of
        them by default, as `forget` does for one, except the `spared` (ids); how many they were."""
        with self._change() as (tables, revision):
            gone = [who for who in tables.strangers(seen_before) if who not in spared]
            _erase(tables, gone, revision)
        if gone:
            self._scrub()
        return len(gone)

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk; may take seconds for large galleries."""
        with self._change() as (tables, revision):
            tables.prune(revision)
        self._db.compact()

    def damaged(self) -> list[tuple[str, int]]:
        """The person and id of every sample that is damaged, and so left out of everything."""
        with self._read() as tables:
            people = tables.identities(-1)
            return [(people[p][0], i) for i, p in tables.damaged_samples() if p in people]

    def settle(self) -> None:
        """Wait until the index of a large gallery, built in the background, is complete."""
        self._finder.settle()

    # Exchange

    def export_npz(self, path: str | Path) -> int:
        """Write everything to an `.npz`; the number of samples. The export is not encrypted."""
        data = self._table()
        exchange.write_npz(data, Path(path))
        return len(data.embedding)

    def export_parquet(self, path: str | Path) -> int:
        """`export_npz` as Parquet; needs the extra `edgeface[parquet]`."""
        data = self._table()
        exchange.write_parquet(data, Path(path))
        return len(data.embedding)

    def import_npz(self, path: str | Path) -> int:
        """Add what `export_npz` wrote, all or nothing; the number of samples added.

        People of one name become one, samples they already have are left out, strangers get new
        numbers. GalleryError when the file is not an export or of another model.
        """
        return self.insert(exchange.read_npz(Path(path)), str(path))

    def import_parquet(self, path: str | Path) -> int:
        """`import_npz` for what `export_parquet` wrote."""
        return self.insert(exchange.read_parquet(Path(path)), str(path))

    def _table(self) -> exchange.Table:
        with self._read() as tables:
            rows = [(p, s) for p in tables.people() for s in tables.samples(p.id)]
        return exchange.table(self.model, self.size, rows)

    def insert(self, data: exchange.Table, origin: str = "the table") -> int:
        """Add a table of samples as `import_npz` does; `origin` names it in errors."""
        if data.model != self.model:
            raise GalleryError(
                f"{origin} was made with model {data.model}, {self._db.place} with {self.model}: "
                "their embeddings cannot be compared"
            )
        with self._change() as (tables, revision):
            return exchange.insert(tables, data, unit_rows(data.embedding, self.size), revision)

    # Searching

    def search(self, embedding: ArrayLike, k: int = 5, *, kind: Kind | None = None) -> list[Match]:
        """The `k` people (of one `kind`) most similar to `embedding` (d,), best first, each by
        their most similar sample. Similarities are exact cosines. Fewer, or none, when there are
        fewer people."""
        return self._search(unit_rows(embedding, self.size), k, kind)[0]

    def search_many(
        self, embeddings: ArrayLike, k: int = 5, *, kind: Kind | None = None
    ) -> list[list[Match]]:
        """`search` for each of `embeddings` (n, d)."""
        if not np.size(embeddings):
            return []
        return self._search(unit_rows(embeddings, self.size), k, kind)

    def _search(self, probes: Array, k: int, kind: Kind | None) -> list[list[Match]]:
        if k < 1:
            raise GalleryError(f"k is {k}: ask for at least one person")
        return self._finder.search(probes, k, kind)

    # The threshold

    def note(self, key: str) -> str | None:
        """The text stored under `key` by `write_note`, None if there is none."""
        return self._summary().settings.get(f"note.{key}")

    def write_note(self, key: str, text: str) -> None:
        """Store a text with the gallery, such as its calibration. Not encrypted."""
        with self._change() as (tables, _):
            tables.set(f"note.{key}", text)

    @property
    def threshold(self) -> Threshold | None:
        """The threshold stored with the gallery, None while there is none."""
        settings = self._summary().settings
        value, origin = settings.get("threshold"), settings.get("threshold_origin")
        if value is None or origin is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not -1.0 <= number <= 1.0:
            raise GalleryError(
                f"the threshold stored in {self._db.place} is damaged, {value!r}: calibrate again"
            )
        return Threshold(number, origin)

    @threshold.setter
    def threshold(self, threshold: Threshold) -> None:
        with self._change() as (tables, _):
            tables.set("threshold", repr(float(threshold.value)))
            tables.set("threshold_origin", threshold.origin)


def _erase(tables: Tables, people: Sequence[int], revision: int) -> None:
    """Delete people in the open transaction. Should the process die before what they left is erased
    too, the next opening does it."""
    for person_id in people:
        journal.erase(tables, person_id)
        tables.drop_person(person_id, revision)
    if people:
        tables.set(INDEX, "")
        tables.set("scrub", "due")
