"""The SQLite file that holds sightings, shared by threads and processes.

A write-ahead log, unlike the gallery's journal: events come many times a second, and one that a
client has seen must survive `kill -9` but need not wait for a disk. What is erased is erased from
the log, too (`erase`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from edgeface.atomic import PRIVATE
from edgeface.errors import GalleryError

APPLICATION = 0x45465347  # "EFSG" in the SQLite header: sightings of edgeface
VERSION = 1
BUSY_SECONDS = 30.0
# `person` is who was recognised then, `given` who it was said to be afterwards, by `given_by`.
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at REAL NOT NULL,
    appearance INTEGER, person INTEGER, body BLOB NOT NULL);
CREATE INDEX event_appearance ON event (appearance);
CREATE INDEX event_person ON event (person);
CREATE TABLE appearance (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, track INTEGER NOT NULL,
    camera TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, person INTEGER,
    given INTEGER, given_by INTEGER, status TEXT NOT NULL, similarity REAL,
    threshold REAL NOT NULL, origin TEXT NOT NULL, template BLOB, weight REAL NOT NULL,
    faces INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0, UNIQUE (run, track));
CREATE INDEX appearance_living ON appearance (id) WHERE NOT ended;
CREATE INDEX appearance_last ON appearance (last, id);
CREATE INDEX appearance_who ON appearance (coalesce(given, person), last);
CREATE TABLE crop (
    appearance INTEGER PRIMARY KEY REFERENCES appearance (id) ON DELETE CASCADE,
    jpeg BLOB NOT NULL, quality REAL NOT NULL, at REAL NOT NULL);
CREATE TABLE alias (gone INTEGER PRIMARY KEY, heir INTEGER NOT NULL);
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, action TEXT NOT NULL, entry INTEGER,
    count INTEGER NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE moved (
    change INTEGER NOT NULL REFERENCES change (id) ON DELETE CASCADE,
    appearance INTEGER NOT NULL REFERENCES appearance (id) ON DELETE CASCADE,
    given INTEGER, given_by INTEGER, PRIMARY KEY (change, appearance));
CREATE INDEX moved_appearance ON moved (appearance);
INSERT INTO about VALUES ('erased', '0')"""
# Counts erased appearances, for what is kept of them in memory.
TRIGGER = """
CREATE TRIGGER appearance_erased AFTER DELETE ON appearance BEGIN
    UPDATE about SET value = value + 1 WHERE key = 'erased';
END"""


class Execute(Protocol):
    """Runs a statement in the open transaction."""

    def __call__(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Its rows."""
        ...


class File:
    """The rows; every call of `write` and `read` is one transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise GalleryError(f"{path} cannot be opened: {error}; check its folder") from error
        with self._told():
            self._prepare()

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise GalleryError(f"{self.path} holds no sightings: move it away")
        if version > VERSION:
            raise GalleryError(f"{self.path} has version {version}, {VERSION} is known: update")
        pragmas = ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON", "foreign_keys=ON")
        for pragma in (*pragmas, "temp_store=MEMORY", "trusted_schema=OFF"):
            self._connection.execute(f"PRAGMA {pragma}")
        if not version:
            with self.write() as execute:
                ((version,),) = execute("PRAGMA user_version")
                if not version:  # another process may have been faster
                    for statement in (*filter(str.strip, SCHEMA.split(";")), TRIGGER):
                        execute(statement)
                    execute(f"PRAGMA user_version={VERSION}")
                    execute(f"PRAGMA application_id={APPLICATION}")

    @contextmanager
    def write(self) -> Iterator[Execute]:
        """One change, committed when the block ends and undone if it raises."""
        with self._lock, self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[Execute]:
        """Several reads of one moment."""
        with self._lock, self._told():
            self._connection.execute("BEGIN")
            try:
                yield self._execute
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    def erase(self) -> None:
        """Rewrite the file and its log, so that nothing deleted stays in them."""
        with self._lock, self._told():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise GalleryError(
                f"the sightings in {self.path} cannot be used: {error}; check that the disk has "
                "space and the file is whole"
            ) from error
