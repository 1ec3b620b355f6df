"""The gallery: people, their samples, and the nearest person to a probe."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from edgeface.errors import GalleryError
from edgeface.gallery import exchange, journal
from edgeface.gallery.cipher import AesGcm, Cipher, Plain, read_key
from edgeface.gallery.database import Database, SqliteDatabase
from edgeface.gallery.index import Index
from edgeface.gallery.journal import Entry
from edgeface.gallery.records import Kind, Person, Provenance, Sample, check_name, unit_rows
from edgeface.gallery.tables import Tables
from edgeface.types import Match, Threshold

CHUNK = 20_000  # samples read at once while the index catches up


class Gallery:
    """People and their face embeddings in one crash-safe file, searchable.

    A change has been committed to the disk when its method returns. Every method may be called
    from any thread, and several processes may share a gallery: each sees the others' changes at
    its next search. Made with `Gallery.open`.
    """

    def __init__(self, database: Database, cipher: Cipher, *, model: str, size: int) -> None:
        self.model, self.size = model, size
        self._db, self._cipher = database, cipher
        self._index = Index(size)
        self._seen: object = None
        self._revision = -1
        self._refreshing = threading.Lock()
        with self._read() as tables:
            due = tables.setting("scrub") == "due"
        if due:
            self._scrub()
        self._refresh()

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
        """Open the gallery at `path`, making it if `create` and there is none.

        `model` is the digest of the embedder and `size` its embedding size; they are stored with a
        new gallery and must be those of an existing one. None accepts whatever the gallery has and
        cannot make a new one. `key` (32 bytes; by default `EDGEFACE_GALLERY_KEY` or the file
        `EDGEFACE_GALLERY_KEY_FILE`) makes a new gallery encrypted and opens an encrypted one.
        GalleryError when it is not a gallery, damaged, newer, of another model or another key.
        """
        make = create and model is not None and size is not None
        database = SqliteDatabase(Path(path), create=make)
        try:
            cipher, model, size = _contract(database, model, size, key)
            return cls(database, cipher, model=model, size=size)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the file; the gallery cannot be used afterwards."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many samples the gallery holds."""
        self._catch_up()
        return len(self._index)

    # People

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

    def person(self, name: str) -> Person:
        """The person called `name`; GalleryError with the closest names if there is none."""
        with self._read() as tables:
            return tables.named(check_name(name, reserved=False))

    def samples(self, name: str) -> list[Sample]:
        """The samples of the person called `name`, oldest first."""
        with self._read() as tables:
            return tables.samples(tables.named(check_name(name, reserved=False)).id)

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
            automatic = [
                s.id for s in tables.samples(person.id) if s.provenance is Provenance.AUTOMATIC
            ]
            vouched = automatic if person.kind is Kind.STRANGER else []
            tables.set_name(person.id, new, Kind.KNOWN, revision)
            tables.set_provenance(vouched, Provenance.USER)
            payload = {
                "person": person.id,
                "old": person.name,
                "kind": str(person.kind),
                "provenance": {str(Provenance.AUTOMATIC): vouched},
            }
            journal.record(tables, "rename", payload, [person.id])
            return tables.person(person.id)

    def merge(self, into: str, other: str) -> Person:
        """Make `other` the same person as `into`, who keeps id and name."""
        into, other = check_name(into, reserved=False), check_name(other, reserved=False)
        with self._change() as (tables, revision):
            kept, gone = tables.named(into), tables.named(other)
            if kept.id == gone.id:
                raise GalleryError(f"{into!r} cannot be merged into themselves: name two people")
            samples, links = tables.sample_ids(gone.id), tables.links(gone.id)
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

    def forget(self, name: str) -> None:
        """Erase a person: rows, samples, crops, journal entries, index entries, and the traces
        they left in the file, which is rewritten. Nothing brings them back."""
        with self._change() as (tables, revision):
            person = tables.named(check_name(name, reserved=False))
            journal.erase(tables, person.id)
            tables.drop_person(person.id, revision)
            # Should the process die before the rewrite, the next opening does it.
            tables.set("scrub", "due")
        try:
            self._scrub()
        except GalleryError as error:
            raise GalleryError(
                f"{person.name!r} is forgotten, but traces stay in the file until it can be "
                f"rewritten, at the latest when it is opened again: {error}"
            ) from error

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk; may take seconds for large galleries."""
        self._scrub()

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
        return self._insert(exchange.read_npz(Path(path)), path)

    def import_parquet(self, path: str | Path) -> int:
        """`import_npz` for what `export_parquet` wrote."""
        return self._insert(exchange.read_parquet(Path(path)), path)

    def _table(self) -> exchange.Table:
        with self._read() as tables:
            rows = [(p, s) for p in tables.people() for s in tables.samples(p.id)]
        return exchange.table(self.model, self.size, rows)

    def _insert(self, data: exchange.Table, path: str | Path) -> int:
        if data.model != self.model:
            raise GalleryError(
                f"{path} was made with model {data.model}, {self._db.place} with {self.model}: "
                "their embeddings cannot be compared"
            )
        with self._change() as (tables, revision):
            return exchange.insert(tables, data, unit_rows(data.embedding, self.size), revision)

    # The past

    def history(self, limit: int = 20) -> list[Entry]:
        """The newest changes, newest first."""
        with self._read() as tables:
            return journal.entries(tables, limit)

    def undo(self, entry: int | None = None) -> Entry:
        """Take back one change, by default the newest that stands; GalleryError if it cannot."""
        with self._change() as (tables, revision):
            return journal.undo(tables, revision, entry)

    # Searching

    def search(self, embedding: ArrayLike, k: int = 5) -> list[Match]:
        """The `k` people most similar to `embedding` (d,), best first, each by their most similar
        sample. Similarities are exact cosines. Fewer, or none, when there are fewer people."""
        return self.search_many(unit_rows(embedding, self.size), k)[0]

    def search_many(self, embeddings: ArrayLike, k: int = 5) -> list[list[Match]]:
        """`search` for each of `embeddings` (n, d)."""
        if k < 1:
            raise GalleryError(f"k is {k}: ask for at least one person")
        if not np.size(embeddings):
            return []
        self._catch_up()
        return self._index.search(unit_rows(embeddings, self.size), k)

    # The threshold

    @property
    def threshold(self) -> Threshold | None:
        """The threshold stored with the gallery, None while there is none."""
        with self._read() as tables:
            value, origin = tables.setting("threshold"), tables.setting("threshold_origin")
        return None if value is None or origin is None else Threshold(float(value), origin)

    @threshold.setter
    def threshold(self, threshold: Threshold) -> None:
        with self._change() as (tables, _):
            tables.set("threshold", repr(float(threshold.value)))
            tables.set("threshold_origin", threshold.origin)

    # Keeping the index with the rows

    @contextmanager
    def _change(self) -> Iterator[tuple[Tables, int]]:
        """One atomic change with its revision, in the index as soon as it is committed."""
        with self._db.transaction() as execute:
            tables = Tables(execute, self._cipher, self._db.place)
            yield tables, tables.advance()
        self._refresh()

    @contextmanager
    def _read(self) -> Iterator[Tables]:
        with self._db.snapshot() as execute:
            yield Tables(execute, self._cipher, self._db.place)

    def _catch_up(self) -> None:
        if self._db.stamp() != self._seen:
            self._refresh()

    def _refresh(self) -> None:
        """Bring the index to the newest revision. Rows that change meanwhile get a newer revision
        and come with the next call, so short reads suffice and nobody is kept from writing."""
        with self._refreshing:
            stamp = self._db.stamp()
            since = self._revision
            with self._read() as tables:
                until = tables.revision()
                if until == since:
                    self._seen = stamp
                    return
                names, dropped = tables.names(since), tables.dropped(since)
            self._index.rename(names)
            self._index.remove(np.array(dropped, np.int64))
            after, full = (since, 2**62), True
            while full:
                with self._read() as tables:
                    rows = tables.changed_samples(after, until, CHUNK)
                if rows:
                    ids = np.array([r[1] for r in rows], np.int64)
                    owners = np.array([r[2] for r in rows], np.int64)
                    self._index.add(ids, owners, np.stack([r[3] for r in rows]))
                    after = rows[-1][:2]
                full = len(rows) == CHUNK
            self._revision, self._seen = until, stamp

    def _scrub(self) -> None:
        self._db.scrub()
        with self._db.transaction() as execute:
            Tables(execute, self._cipher, self._db.place).set("scrub", "done")


def _contract(
    database: Database, model: str | None, size: int | None, key: bytes | None
) -> tuple[Cipher, str, int]:
    """What a gallery was made with, written if it is new, checked if it is not."""
    place, key = database.place, read_key() if key is None else key
    stored = _stored(database)
    if "model" not in stored:
        if model is None or size is None:
            raise GalleryError(f"{place} is empty: enrol somebody first")
        with database.transaction() as execute:
            tables = Tables(execute, Plain(), place)
            if tables.setting("model") is None:
                _sign(tables, Plain() if key is None else AesGcm(key), model, size)
        stored = _stored(database)
    if model is not None and model != stored["model"]:
        raise GalleryError(
            f"{place} was made with model {stored['model']}, this is model {model}: use that "
            "model, or enrol everybody again into a new gallery"
        )
    if size is not None and size != int(stored["size"]):
        raise GalleryError(
            f"{place} holds embeddings of size {stored['size']}, this model gives {size}: use the "
            "model it was made with, or enrol everybody again into a new gallery"
        )
    cipher: Cipher = Plain()
    if stored["cipher"] != cipher.name:
        if key is None:
            raise GalleryError(
                f"{place} is encrypted: set EDGEFACE_GALLERY_KEY or EDGEFACE_GALLERY_KEY_FILE"
            )
        cipher = AesGcm(key)
        cipher.unseal(bytes.fromhex(stored["key_check"]), "key_check")
    return cipher, stored["model"], int(stored["size"])


def _stored(database: Database) -> dict[str, str]:
    with database.snapshot() as execute:
        return {str(k): str(v) for k, v in execute("SELECT key, value FROM setting")}


def _sign(tables: Tables, cipher: Cipher, model: str, size: int) -> None:
    """Write what a new gallery is made with."""
    tables.set("uuid", str(uuid.uuid4()))
    tables.set("model", model)
    tables.set("size", str(size))
    tables.set("cipher", cipher.name)
    tables.set("key_check", cipher.seal(b"edgeface", "key_check").hex())
