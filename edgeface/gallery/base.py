"""What every gallery does underneath: atomic changes, consistent reads, an index that follows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from edgeface.closing import Closing
from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.contract import agree_on_cipher
from edgeface.gallery.storage.database import Database, Execute
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Array, Kind, Match

logger = logging.getLogger("edgeface")


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


@dataclass(slots=True)
class _Batch:
    stack: ExitStack
    begun: tuple[Tables, int] | None  # the transaction, once a change has come


@contextmanager
def _undone_alone(execute: Execute) -> Iterator[None]:
    """A part of a transaction that is undone if it raises, while the rest stands."""
    execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        execute("ROLLBACK TO SAVEPOINT part")
        raise
    finally:
        execute("RELEASE SAVEPOINT part")


class Base(Closing):
    """The rows of a gallery and what finds people in them."""

    def __init__(
        self, database: Database, cipher: Cipher, finder: Finder, *, model: str, size: int
    ) -> None:
        self.model, self.size = model, size
        self._db, self._cipher, self._finder = database, cipher, finder
        self._known: Summary | None = None
        self._local = threading.local()  # the batch of each thread

    @property
    def place(self) -> str:
        """The file, or the server's address without its password."""
        return self._db.place

    @property
    def cipher(self) -> Cipher:
        """What seals the values of the gallery, and of what belongs to it."""
        return self._cipher

    @property
    def database(self) -> Database:
        """Where the rows are, for what belongs to the gallery and is kept with it."""
        return self._db

    @property
    def identity(self) -> str:
        """What no other gallery has, whatever its name; a copy has it, too."""
        return self._summary().settings.get("uuid", "")

    @property
    def last_entry(self) -> int | None:
        """The id of the journal's entry of the newest change that this thread made, None if that
        changed nothing."""
        return getattr(self._local, "entry", None)

    def _tables(self, execute: Execute) -> Tables:
        return Tables(execute, self._cipher, self._db.place, self.size)

    @contextmanager
    def _change(self) -> Iterator[tuple[Tables, int]]:
        """One atomic change with its revision, searchable as soon as it is committed."""
        batch: _Batch | None = getattr(self._local, "batch", None)
        if batch is not None:
            if batch.begun is None:
                batch.begun = batch.stack.enter_context(self._begun())
            batch.begun[0].entry = None
            with _undone_alone(batch.begun[0].execute):
                yield batch.begun
            self._local.entry = batch.begun[0].entry
            return
        with self._begun() as begun:
            yield begun
        self._local.entry = begun[0].entry
        self._finder.refresh()

    @contextmanager
    def _begun(self) -> Iterator[tuple[Tables, int]]:
        with self._db.transaction() as execute:
            tables = self._tables(execute)
            revision = tables.advance()
            agree_on_cipher(tables, self._cipher, self._db.place)
            yield tables, revision

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make the changes of this thread within the block one atomic change: it is committed, and
        can be searched, when the block ends; if the block raises, nothing has happened. A disk is
        waited for once instead of at every change. Others cannot change the gallery meanwhile."""
        if getattr(self._local, "batch", None) is not None:
            yield  # a part of the batch around it
            return
        batch = _Batch(ExitStack(), None)
        try:
            with batch.stack:
                self._local.batch = batch
                yield
        finally:
            self._local.batch = None
        if batch.begun is not None:
            self._finder.refresh()

    @contextmanager
    def _read(self) -> Iterator[Tables]:
        with self._db.snapshot() as execute:
            yield self._tables(execute)

    def _summary(self) -> Summary:
        """The newest summary, read again only after somebody, here or elsewhere, made a change."""
        stamp, known = self._db.stamp(), self._known
        if known is None or known.stamp != stamp:
            with self._read() as tables:
                known = Summary(stamp, tables.count_people(), tables.settings())
            self._known = known
        return known

    def _scrub(self) -> None:
        """Erase what deleted rows left behind. What cannot be erased is tried again at the next
        opening, and said: the rows are gone in any case, and the gallery can be used."""
        failed = []
        for scrub in (self._finder.scrub, self._db.scrub):
            try:
                scrub()
            except GalleryError as error:
                failed.append(str(error))
        if not failed:
            with self._db.transaction() as execute:
                self._tables(execute).set("scrub", "done")
        else:
            logger.warning(
                "traces of what was deleted may stay on the disk until %s can be rewritten, which "
                "is tried whenever it is opened: %s",
                self._db.place,
                "; ".join(failed),
            )
