"""The truth of a gallery: rows in one SQLite file.

Every acknowledged change is committed: a rollback journal with `synchronous=EXTRA` syncs the file
and its folder before COMMIT returns, so the one file is complete after every change, may be copied
at any moment between changes, and survives `kill -9` and power loss. A write-ahead log would commit
faster but keeps acknowledged rows in a second file, and forgotten ones too.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import Cipher, Plain
from edgeface.gallery.storage.database import MIGRATIONS, READABLE, Execute, Rows

logger = logging.getLogger("edgeface")

APPLICATION = 0x45464741  # "EFGA" in the SQLite header: an edgeface gallery
BUSY_SECONDS = 60.0
SETTLED_NS = 50_000_000  # several ticks of the clock that stamps files, 10 ms at the slowest
TRUSTED_SECONDS = 1.0  # how long the time of a file may stand in for asking SQLite
# What SQLite says where a file or its folder may not be written.
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
QUICK_CHECK_BYTES = 64 << 20  # above this an integrity check would dominate opening


class SqliteDatabase:
    """A gallery file. Safe for many threads; many processes may open the same file."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.place = str(path)
        self.plain: Cipher = Plain()
        self._pid = os.getpid()
        _check_file(path, create=create)
        # Where the file really is: what lies beside it is found from every link to it.
        self.path = Path(os.path.realpath(path))
        self._write_lock, self._read_lock = threading.RLock(), threading.RLock()
        self._watch_lock, self._stamp = threading.Lock(), 0
        self._settled: int | None = None  # when the file was written that `_stamp` describes
        self._asked = -math.inf  # when SQLite told `_stamp`
        self._file: tuple[int, int] | None = None  # device and inode of what is open
        self.replaced = 0
        self._check: Callable[[], object] = lambda: None
        self._connections: list[sqlite3.Connection] = []
        try:
            if create:
                _make_private(self.path)
            with self._mended():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._file = _identity(_look(self.path))
        self._writer = self._connect()
        self._dated = self._set_journal()  # with a log the file's time says nothing
        self._reader = self._connect()
        self._watcher = self._connect()
        # Only from here on: what `_connect` asks reads the file and has to wait its turn.
        self._watcher.execute("PRAGMA busy_timeout=0")
        self._settled, self._asked = None, -math.inf
        self._prepare()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connections.append(connection)
        # Temporary storage in memory: where the file may be written, another folder need not be.
        pragmas = ("synchronous=EXTRA", "foreign_keys=ON", "secure_delete=ON", "temp_store=MEMORY")
        for pragma in (*pragmas, "trusted_schema=OFF"):
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
                raise GalleryError(
                    f"{self.place} is damaged: restore a backup ({_one_line(verdict)})"
                )
        if version < len(MIGRATIONS):
            try:
                self._migrate()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _UNWRITABLE or version < READABLE:
                    raise

    def _set_journal(self) -> bool:
        """Back to the rollback journal if another program has set a write-ahead log; whether that
        is what the file has now. Done with one connection: SQLite asks to be alone."""
        (mode,) = self._writer.execute("PRAGMA journal_mode").fetchone()
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        if mode == "delete" or application != APPLICATION:
            return True
        try:
            (mode,) = self._writer.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (*_UNWRITABLE, sqlite3.SQLITE_BUSY):
                raise
        if mode != "delete":
            logger.warning(
                "%s keeps a write-ahead log that another program has set and holds open: forgotten "
                "rows may stay in it until that program ends",
                self.place,
            )
        return bool(mode == "delete")

    def _migrate(self) -> None:
        with self._begun() as execute:
            # Another process may have migrated while this one waited for the lock.
            ((version,),) = execute("PRAGMA user_version")
            for script in MIGRATIONS[max(0, version) :]:
                for statement in filter(None, map(str.strip, script.split(";"))):
                    execute(statement)
            execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            execute(f"PRAGMA application_id={APPLICATION}")

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """See `Database.transaction`."""
        self._follow(_look(self.path), writing=True)
        with self._write_lock, self._mended(), self._begun() as execute:
            yield execute

    @contextmanager
    def _begun(self) -> Iterator[Execute]:
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
        self._follow(_look(self.path))
        with self._read_lock, self._mended():
            self._reader.execute("BEGIN")
            try:
                yield _executor(self._reader)
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("COMMIT")

    def stamp(self) -> object:
        """See `Database.stamp`. While another process commits, the last known value: a search
        rather answers from the moment before than waits for a disk."""
        self._check_process()
        there = _look(self.path)
        self._follow(there)
        with self._watch_lock:
            written, now = _written(there), time.monotonic()
            if (
                self._dated
                and written is not None
                and written == self._settled
                and now - self._asked < TRUSTED_SECONDS
            ):
                return self.replaced, self._stamp
            try:
                (self._stamp,) = self._watcher.execute("PRAGMA data_version").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise self._translated(error) from error
            except sqlite3.Error as error:
                raise self._translated(error) from error
            else:
                self._settled, self._asked = written, now
            return self.replaced, self._stamp

    def watch(self, check: Callable[[], object]) -> None:
        """See `Database.watch`."""
        self._check = check

    def _follow(self, found: os.stat_result | None, *, writing: bool = False) -> None:
        """Open the file anew if another one has taken its place, as when a backup is restored. A
        file that is gone is still read, but what was written to it would be lost. `found` is what
        the folder says of the path now."""
        there = _identity(found)
        if there == self._file or not self._connections:
            return
        if there is None:
            if writing:
                raise GalleryError(
                    f"{self.place} has been deleted or moved away: put it back, or open it where "
                    "it is now"
                )
            return
        with self._write_lock, self._read_lock:
            if there == self._file or self._writer.in_transaction or self._reader.in_transaction:
                return  # another thread was faster, or this one is in the middle of the old file
            logger.warning("%s has been replaced: its new content counts from here on", self.place)
            try:
                with self._watch_lock, self._mended():
                    self._close_connections()
                    self.replaced += 1
                    self._open()
                self._check()
            except BaseException:
                self._close_connections()
                raise

    def scrub(self) -> None:
        """See `Database.scrub`: rewrites the file, so no page keeps a remnant."""
        with self._write_lock, self._mended():
            self._writer.execute("VACUUM")
            (mode,) = self._writer.execute("PRAGMA journal_mode").fetchone()
            if mode == "wal":
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    compact = scrub

    def close(self) -> None:
        """See `Database.close`."""
        with self._write_lock, self._read_lock, self._watch_lock:
            self._close_connections()

    def _close_connections(self) -> None:
        for connection in reversed(self._connections):
            connection.close()
        self._connections.clear()

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
        except (OverflowError, UnicodeDecodeError) as error:  # what no gallery holds
            raise GalleryError(f"{self.place} is damaged: restore a backup ({error})") from error

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
        return GalleryError(f"{self.place} {mend.get(code, 'cannot be used')} ({_one_line(error)})")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _look(path: Path) -> os.stat_result | None:
    """What the folder says of a file, None when there is none or it cannot be asked for."""
    try:
        return path.stat()
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, int] | None:
    """Device and inode of a file that was looked at."""
    return None if found is None else (found.st_dev, found.st_ino)


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner may read, unless there is one; SQLite gives its
    journal the same permissions. Not by opening and closing it where that can be avoided: this
    would drop the locks that another thread has just got on it (POSIX advisory locks)."""
    try:
        os.mknod(path, stat.S_IFREG | 0o600)
    except FileExistsError:
        return  # another process was faster
    except (OSError, AttributeError):  # not for everybody everywhere
        with suppress(OSError):  # SQLite says what is wrong
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _written(found: os.stat_result | None) -> int | None:
    """When the file was last written, None while a further change could bear the same time.

    Asking the folder takes a tenth of the time of asking SQLite, which locks and reads the file. A
    clock that was set back or a coarse file system may hide a change this way for
    `TRUSTED_SECONDS`.
    """
    if os.name != "posix":  # elsewhere the time may lag behind an open file's content
        return None
    if found is None:
        return None  # gone or moved: SQLite still holds what it has opened
    written = found.st_mtime_ns
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
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GalleryError(f"{path} cannot be opened ({reason}): choose another path") from error
    if path.is_dir():
        raise GalleryError(f"{path} is a directory: name a gallery file inside it")
    if not path.exists():
        if not create:
            raise GalleryError(f"{path} does not exist: enrol somebody to make it")
        if not path.parent.is_dir():
            raise GalleryError(f"{path.parent} is not a folder: make it first")
    elif not create and not path.stat().st_size:
        raise GalleryError(f"{path} is empty: restore a backup, or delete it and enrol again")
