"""What every gallery does underneath: atomic changes, consistent reads, an index that follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from edgeface.gallery.cipher import Cipher
from edgeface.gallery.database import Database
from edgeface.gallery.index import Index
from edgeface.gallery.tables import Tables
from edgeface.types import Array, Match

CHUNK = 20_000  # samples read at once while the index catches up


class Finder(Protocol):
    """Finds the people nearest to a probe in the newest state of the rows."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def search(self, probes: Array, k: int) -> list[list[Match]]:
        """For each unit probe (q, d) the `k` nearest people, best first."""
        ...

    def refresh(self) -> None:
        """Take in the changes this process has just committed."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Mirror:
    """An index in memory that follows the rows of a database."""

    def __init__(self, database: Database, cipher: Cipher, size: int) -> None:
        self._db, self._cipher = database, cipher
        self._index = Index(size)
        self._seen: object = None
        self._revision = -1
        self._refreshing = threading.Lock()
        self.refresh()

    def __len__(self) -> int:
        self._catch_up()
        return len(self._index)

    def search(self, probes: Array, k: int) -> list[list[Match]]:
        """See `Finder.search`."""
        self._catch_up()
        return self._index.search(probes, k)

    def close(self) -> None:
        """See `Finder.close`."""

    def _catch_up(self) -> None:
        if self._db.stamp() != self._seen:
            self.refresh()

    def refresh(self) -> None:
        """Bring the index to the newest revision. Rows that change meanwhile get a newer revision
        and come with the next call, so short reads suffice and nobody is kept from writing."""
        with self._refreshing:
            stamp = self._db.stamp()
            since = self._revision
            with self._db.snapshot() as execute:
                tables = Tables(execute, self._cipher, self._db.place)
                until = tables.revision()
                if until == since:
                    self._seen = stamp
                    return
                names, dropped = tables.names(since), tables.dropped(since)
            self._index.rename(names)
            self._index.remove(np.array(dropped, np.int64))
            after, full = (since, 2**62), True
            while full:
                with self._db.snapshot() as execute:
                    tables = Tables(execute, self._cipher, self._db.place)
                    rows = tables.changed_samples(after, until, CHUNK)
                if rows:
                    ids = np.array([r[1] for r in rows], np.int64)
                    owners = np.array([r[2] for r in rows], np.int64)
                    self._index.add(ids, owners, np.stack([r[3] for r in rows]))
                    after = rows[-1][:2]
                full = len(rows) == CHUNK
            self._revision, self._seen = until, stamp


class Base:
    """The rows of a gallery and what finds people in them."""

    def __init__(
        self, database: Database, cipher: Cipher, finder: Finder, *, model: str, size: int
    ) -> None:
        self.model, self.size = model, size
        self._db, self._cipher, self._finder = database, cipher, finder

    @contextmanager
    def _change(self) -> Iterator[tuple[Tables, int]]:
        """One atomic change with its revision, searchable as soon as it is committed."""
        with self._db.transaction() as execute:
            tables = Tables(execute, self._cipher, self._db.place)
            yield tables, tables.advance()
        self._finder.refresh()

    @contextmanager
    def _read(self) -> Iterator[Tables]:
        with self._db.snapshot() as execute:
            yield Tables(execute, self._cipher, self._db.place)

    def _scrub(self) -> None:
        self._db.scrub()
        with self._db.transaction() as execute:
            Tables(execute, self._cipher, self._db.place).set("scrub", "done")
