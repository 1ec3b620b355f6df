"""Gallery and sightings copied as they were at one moment, while others write both."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from edgeface.errors import BackupError, OutputError

BUSY_SECONDS = 60.0
PAGES = 1 << 14  # copied at a time: 64 MB
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def copy_pair(gallery: Path, sightings: Path | None, folder: Path) -> None:
    """Copy both files into a folder, under their names, as they were at one moment.

    Changes of people are made while the sightings are locked for writing, so that is how the moment
    is chosen: that lock is taken, a read of each file is begun, and the lock is let go. From then
    on sightings are written as before (they have a write-ahead log). Whoever changes the gallery
    waits until that is copied. Pages are copied as they are: what is sealed stays sealed.

    Raises:
        BackupError: a file is damaged, or in use for too long.
        OutputError: the folder is full or cannot be written.
    """
    with ExitStack() as stack:
        if sightings is not None:
            log = stack.enter_context(_opened(sightings))
            with _opened(sightings) as lock, _explained(sightings):
                lock.execute("BEGIN IMMEDIATE")
                _begin(log, sightings)
                people = stack.enter_context(_opened(gallery))
                _begin(people, gallery)
        else:
            people = stack.enter_context(_opened(gallery))
            _begin(people, gallery)
        _copy(people, gallery, folder / gallery.name)
        people.close()  # whoever waits to change the gallery goes on
        if sightings is not None:
            _copy(log, sightings, folder / sightings.name)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    address = f"{path.resolve().as_uri()}?mode=rw"  # never made; a journal left over is undone
    with _explained(path):
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    with closing(connection):
        yield connection


def _begin(connection: sqlite3.Connection, path: Path) -> None:
    """Begin to read: what others write from now on is not seen."""
    with _explained(path):
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _copy(connection: sqlite3.Connection, path: Path, to: Path) -> None:
    with _explained(path), closing(sqlite3.connect(to, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous=OFF")  # a power cut takes the whole copy
        connection.backup(copy, pages=PAGES)
        copy.execute("PRAGMA temp_store=MEMORY")
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise BackupError(f"{path} is damaged ({verdict}): keep the backups that there are")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            message = f"{path} is damaged ({error}): keep the backups that there are"
        elif code == sqlite3.SQLITE_BUSY:
            message = f"{path} is locked by another process: try again"
        elif code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise OutputError(
                f"{path} cannot be copied ({error}): check that the disk has free space"
            ) from error
        else:
            message = f"{path} cannot be read ({error}): check the file and its permissions"
        raise BackupError(message) from error
