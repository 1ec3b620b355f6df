"""The truth of a gallery: rows in one SQLite file.

Every acknowledged change is committed: a rollback journal with `synchronous=EXTRA` syncs the file
and its folder before COMMIT returns, so the one file is complete after every change, may be copied
at any moment between changes, and survives `kill -9` and power loss. A write-ahead log would commit
faster but keeps acknowledged rows in a second file, and forgotten ones too.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import Cipher, Plain

Rows = list[tuple[Any, ...]]
Execute = Callable[..., Rows]

APPLICATION = 0x45464741  # "EFGA" in the SQLite header: an edgeface gallery
BUSY_SECONDS = 60.0
SETTLED_NS = 50_000_000  # several ticks of the clock that stamps files, 10 ms at the slowest
TRUSTED_SECONDS = 1.0  # how long the time of a file may stand in for asking SQLite
QUICK_CHECK_BYTES = 64 << 20  # above this an integrity check would dominate opening

# One script per schema version; a gallery of version n runs scripts n, n + 1, ... when opened.
MIGRATIONS = (
    """
    CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE state (
        revision INTEGER NOT NULL, floor INTEGER NOT NULL, strangers INTEGER NOT NULL);
    INSERT INTO state VALUES (0, 0, 0);
    CREATE TABLE person (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, name_key TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL, external_id TEXT, metadata TEXT, created REAL NOT NULL,
        revision INTEGER NOT NULL);
    CREATE INDEX person_revision ON person (revision);
    CREATE TABLE sample (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        person_id INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
        embedding BLOB NOT NULL, quality REAL, provenance TEXT NOT NULL, source TEXT, crop BLOB,
        created REAL NOT NULL, revision INTEGER NOT NULL);
    CREATE INDEX sample_person ON sample (person_id);
    CREATE INDEX sample_revision ON sample (revision);
    CREATE TABLE dropped (sample_id INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
    CREATE INDEX dropped_revision ON dropped (revision);
    CREATE TABLE cannot_link (
        a INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
        b INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE, PRIMARY KEY (a, b));
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, action TEXT NOT NULL,
        payload TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE journal_person (
        journal_id INTEGER NOT NULL REFERENCES journal (id) ON DELETE CASCADE,
        person_id INTEGER NOT NULL, PRIMARY KEY (journal_id, person_id));
    """,
    "CREATE INDEX person_kind ON person (kind);",
)


class Database(Protocol):
    """What a gallery asks of the place that keeps its rows; parameters are written `?`."""

    place: str
    plain: Cipher  # how values are written without encryption

    def transaction(self) -> AbstractContextManager[Execute]:
        """One atomic change: committed and durable when the block ends, undone if it raises."""
        ...

    def snapshot(self) -> AbstractContextManager[Execute]:
        """Several reads of one moment."""
        ...

    def stamp(self) -> object:
        """A value that differs once another connection has committed a change."""
        ...

    def scrub(self) -> None:
        """Remove what deleted rows left behind in the storage."""
        ...

    def close(self) -> None:
        """Let go of the storage; further use is an error."""
        ...


class SqliteDatabase:
    """A gallery file. Safe for many threads; many processes may open the same file."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.place = str(path)
        self.plain: Cipher = Plain()
        self.path = path
        self._pid = os.getpid()
        _check_file(path, create=create)
        self._write_lock, self._read_lock = threading.RLock(), threading.RLock()
        self._watch_lock, self._stamp = threading.Lock(), 0
        self._settled: int | None = None  # when the file was written that `_stamp` describes
        self._asked = -math.inf  # when SQLite told `_stamp`
        self._connections: list[sqlite3.Connection] = []
        try:
            with self._mended():
                self._writer = self._connect()
                self._reader = self._connect()
                self._watcher = self._connect()
                # Only from here on: what `_connect` asks reads the file and has to wait its turn.
                self._watcher.execute("PRAGMA busy_timeout=0")
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connections.append(connection)
        for pragma in ("synchronous=EXTRA", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _prepare(self) -> None:
        """Verify that the file is a sound gallery and bring its schema up to date."""
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION:
            raise GalleryError(
                f"{self.place} is a database of another program: choose another path"
            )
        if version > len(MIGRATIONS):
            raise GalleryError(
                f"{self.place} has schema version {version}, this edgeface knows up to "
                f"{len(MIGRATIONS)}: update edgeface"
            )
        if self.path.stat().st_size <= QUICK_CHECK_BYTES:
            (verdict,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(str(verdict))
        if version < len(MIGRATIONS):
            with self.transaction() as execute:
                # Another process may have migrated while this one waited for the lock.
                ((version,),) = execute("PRAGMA user_version")
                for script in MIGRATIONS[version:]:
                    for statement in filter(None, map(str.strip, script.split(";"))):
                        execute(statement)
                execute(f"PRAGMA user_version={len(MIGRATIONS)}")
                execute(f"PRAGMA application_id={APPLICATION}")

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """See `Database.transaction`."""
        with self._write_lock, self._mended():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield _executor(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[Execute]:
        """See `Database.snapshot`."""
        with self._read_lock, self._mended():
            self._reader.execute("BEGIN")
            try:
                yield _executor(self._reader)
            finally:
                self._reader.execute("COMMIT")

    def stamp(self) -> object:
        """See `Database.stamp`. While another process commits, the last known value: a search
        rather answers from the moment before than waits for a disk."""
        self._check_process()
        with self._watch_lock:
            written, now = _written(self.path), time.monotonic()
            if (
                written is not None
                and written == self._settled
                and now - self._asked < TRUSTED_SECONDS
            ):
                return self._stamp
            try:
                (self._stamp,) = self._watcher.execute("PRAGMA data_version").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise self._translated(error) from error
            except sqlite3.Error as error:
                raise self._translated(error) from error
            else:
                self._settled, self._asked = written, now
            return self._stamp

    def scrub(self) -> None:
        """See `Database.scrub`: rewrites the file, so no page keeps a remnant."""
        with self._write_lock, self._mended():
            self._writer.execute("VACUUM")

    def close(self) -> None:
        """See `Database.close`."""
        with self._write_lock, self._read_lock, self._watch_lock:
            for connection in reversed(self._connections):
                connection.close()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise GalleryError(
                f"{self.place} was opened before this process was forked: open it again here"
            )

    @contextmanager
    def _mended(self) -> Iterator[None]:
        """Turn SQLite's errors into GalleryError, each with what to do."""
        self._check_process()
        start = time.monotonic()
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error, time.monotonic() - start) from error

    def _translated(self, error: sqlite3.Error, waited: float = 0.0) -> GalleryError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        mend = {
            sqlite3.SQLITE_NOTADB: "is not a gallery: choose another path",
            sqlite3.SQLITE_CORRUPT: "is damaged: restore a backup",
            sqlite3.SQLITE_FULL: "cannot grow, the disk is full: free space and try again",
            sqlite3.SQLITE_IOERR: "cannot be read or written: check its disk and free space",
            sqlite3.SQLITE_BUSY: f"is locked by another process, waited {waited:.1f} s: close that "
            "process and try again",
            sqlite3.SQLITE_READONLY: "may not be written: change its permissions",
            sqlite3.SQLITE_CANTOPEN: "cannot be opened: check the folder and its permissions",
        }
        if "closed database" in str(error):
            return GalleryError(f"{self.place} has been closed: open it again")
        return GalleryError(f"{self.place} {mend.get(code, 'cannot be used')} ({error})")


def _written(path: Path) -> int | None:
    """When the file was last written, None while a further change could bear the same time.

    Asking the folder takes a tenth of the time of asking SQLite, which locks and reads the file. A
    clock that was set back or a coarse file system may hide a change this way for
    `TRUSTED_SECONDS`.
    """
    if os.name != "posix":  # elsewhere the time may lag behind an open file's content
        return None
    try:
        written = path.stat().st_mtime_ns
    except OSError:
        return None  # gone or moved: SQLite still holds what it has opened
    return written if abs(time.time_ns() - written) > SETTLED_NS else None


def _executor(connection: sqlite3.Connection) -> Execute:
    def execute(sql: str, parameters: Sequence[Any] = (), *, many: bool = False) -> Rows:
        if many:
            connection.executemany(sql, parameters)
            return []
        return connection.execute(sql, parameters).fetchall()

    return execute


def _check_file(path: Path, *, create: bool) -> None:
    """Say what is wrong with `path` where SQLite would say it less clearly.

    Only asks the folder: opening the file here and closing it again would drop the locks that
    SQLite holds on it for this process (POSIX advisory locks).
    """
    if path.is_dir():
        raise GalleryError(f"{path} is a directory: name a gallery file inside it")
    if not path.exists():
        if not create:
            raise GalleryError(f"{path} does not exist: enrol somebody to make it")
        if not path.parent.is_dir():
            raise GalleryError(f"{path.parent} is not a folder: make it first")
    elif not create and not path.stat().st_size:
        raise GalleryError(f"{path} is empty: restore a backup, or delete it and enrol again")
