"""The SQLite file that holds sightings, shared by threads and processes.

A write-ahead log, unlike the gallery's journal: events come many times a second, and one that a
client has seen must survive `kill -9` but need not wait for a disk. Readers have connections of
their own, so that a long question keeps no camera waiting. What is erased is erased from the log,
too (`erase`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edgeface.atomic import PRIVATE
from edgeface.errors import GalleryError
from edgeface.sightings.rewriting import Rewriting
from edgeface.sightings.rows import SCHEMA, VERSION, Execute, Words, executor

APPLICATION = 0x45465347  # "EFSG" in the SQLite header: sightings of edgeface
BUSY_SECONDS = 30.0
BRIEF_SECONDS = 0.1  # that the log's emptying may keep writers waiting
_PRAGMAS = (
    "auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON",
    "foreign_keys=ON", "temp_store=MEMORY", "trusted_schema=OFF",
)  # fmt: skip
WORDS = Words(among="SELECT value FROM json_each(?)", later="max")


class File:
    """The rows in a file; every call of `write` and `read` is one transaction."""

    words = WORDS

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._path, self._lock, self._closed = path, threading.RLock(), False
        self._idle: list[sqlite3.Connection] = []  # of readers
        self._idle_lock = threading.Lock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE))
        except OSError as error:
            raise GalleryError(f"{path} cannot be opened: {error}; check its folder") from error
        with self._told():
            self._connection = self._connect()
            self._prepare()

    def _connect(self, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path, timeout=timeout, isolation_level=None, check_same_thread=False
        )

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise GalleryError(f"{self.place} holds no sightings: move it away")
        if version > VERSION:
            raise GalleryError(f"{self.place} has version {version}, {VERSION} is known: update")
        for pragma in _PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        if not version:
            with self.write() as execute:
                ((version,),) = execute("PRAGMA user_version")
                if not version:  # another process may have been faster
                    for statement in filter(str.strip, SCHEMA.split(";")):
                        execute(statement)
                    execute(f"PRAGMA user_version={VERSION}")
                    execute(f"PRAGMA application_id={APPLICATION}")

    @contextmanager
    def write(self) -> Iterator[Execute]:
        """One change, committed when the block ends and undone if it raises."""
        with self._lock, self._told():
            self._open()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield executor(self._run_in(self._connection), self.words)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[Execute]:
        """Several reads of one moment."""
        with self._told():
            self._open()
            with self._idle_lock:
                connection = self._idle.pop() if self._idle else self._connect()
            try:
                connection.execute("BEGIN")
                yield executor(self._run_in(connection), self.words)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                with self._idle_lock:
                    if not self._closed:
                        self._idle.append(connection)
                if self._closed:
                    connection.close()

    def erase(self) -> None:
        """Write the tables anew and empty the log, so that nothing deleted stays in the file;
        writers wait for steps of it only, see `rewriting`."""
        Rewriting(self.write, self._altering).run()
        self._empty_log()

    @contextmanager
    def _altering(self) -> Iterator[Execute]:
        # Else tables that refer to a renamed one would refer to its new name.
        with self._lock, self._told():
            self._open()
            self._connection.execute("PRAGMA foreign_keys=OFF")
            self._connection.execute("PRAGMA legacy_alter_table=ON")
            try:
                with self.write() as execute:
                    yield execute
            finally:
                self._connection.execute("PRAGMA legacy_alter_table=OFF")
                self._connection.execute("PRAGMA foreign_keys=ON")

    def _empty_log(self) -> None:
        """Bring the log into the file and empty it. As writers wait while it waits for readers, it
        waits for a moment only, and tries again."""
        end = time.monotonic() + BUSY_SECONDS
        with self._told(), closing(self._connect(BRIEF_SECONDS)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            while True:
                ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if not busy:
                    return
                if time.monotonic() > end:
                    raise GalleryError(
                        f"the log of {self.place} is in use, what was erased may still be in it: "
                        "it is emptied when the last program closes it"
                    )
                time.sleep(BRIEF_SECONDS)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, self._idle_lock:
            self._closed = True
            for connection in (*self._idle, self._connection):
                connection.close()
            self._idle.clear()

    def _open(self) -> None:
        if self._closed:
            raise GalleryError(f"{self.place} has been closed: open it again")

    @staticmethod
    def _run_in(connection: sqlite3.Connection) -> Any:
        return lambda statement, values=(): connection.execute(statement, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise GalleryError(
                f"the sightings in {self.place} cannot be used: {error}; check that the disk has "
                "space and the file is whole"
            ) from error
