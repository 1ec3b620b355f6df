"""What every gallery does underneath: atomic changes, consistent reads, an index that follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.sqlite import Database
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Array, Kind, Match


class Finder(Protocol):
    """Finds the people nearest to a probe in the newest state of the rows."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def search(self, probes: Array, k: int, kind: Kind | None = None) -> list[list[Match]]:
        """For each unit probe (q, d) the `k` nearest people (of one kind), best first."""
        ...

    def refresh(self) -> None:
        """Take in the changes this process has just committed."""
        ...

    def settle(self) -> None:
        """Wait until what is being built in the background is built."""
        ...

    def scrub(self) -> None:
        """Erase what it keeps on a disk."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What is asked of a gallery all the time, true while its database has this `stamp`."""

    stamp: object
    people: dict[Kind, int]
    settings: dict[str, str]


class Base:
    """The rows of a gallery and what finds people in them."""

    def __init__(
        self, database: Database, cipher: Cipher, finder: Finder, *, model: str, size: int
    ) -> None:
        self.model, self.size = model, size
        self._db, self._cipher, self._finder = database, cipher, finder
        self._known: Summary | None = None

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

    def _summary(self) -> Summary:
        """The newest summary, read again only after somebody, here or elsewhere, made a change."""
        stamp, known = self._db.stamp(), self._known
        if known is None or known.stamp != stamp:
            with self._read() as tables:
                known = Summary(stamp, tables.count_people(), tables.settings())
            self._known = known
        return known

    def _scrub(self) -> None:
        self._finder.scrub()
        self._db.scrub()
        with self._db.transaction() as execute:
            Tables(execute, self._cipher, self._db.place).set("scrub", "done")
