"""The tables of a file are written anew, a few rows at a time, so that nothing deleted stays.

`secure_delete` zeroes what is deleted and pages that become free, but where pages are balanced
copies of cells stay behind in their gaps. `VACUUM` removes these and keeps every writer waiting
until it is done: 15 s for 190 MB on a busy machine. Here each table is copied into a new one while
triggers bring over what others change meanwhile; the new one takes its name, and the old one is
emptied, so that all its pages become free and zero. Each step is a transaction of a few
hundredths of a second, so that a writer waits for a fraction of one.

One process does it at a time. Who dies leaves the note `rewriting` to grow old, and whoever comes
next clears away what was begun.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from edgeface.errors import GalleryError
from edgeface.sightings.rows import Execute

TABLES = ("event", "appearance", "crop")  # those that hold names, templates and pictures
STEP = 0.05  # seconds that a transaction is to take
SHARE = 0.25  # of that, for others to come in
ALIVE = 10.0  # seconds without a step after which a rewriting process is taken for dead
PATIENCE = 600.0  # seconds to wait for one that is alive
_FIRST, _MOST = 16, 20_000  # rows in a step, at first and at most
_NEW, _OLD = "_new", "_old"  # what is put behind a table's name
_ACTIONS = ("insert", "update", "delete")

Write = Callable[[], AbstractContextManager[Execute]]


class Rewriting:
    """One rewriting of the tables. `write` begins a transaction, `alter` one in which tables can
    change their names while those that refer to them go on referring to the name."""

    def __init__(self, write: Write, alter: Write) -> None:
        self._write, self._alter, self._token = write, alter, secrets.token_hex(8)

    def run(self) -> None:
        """Rewrite all. What is deleted meanwhile may leave traces.

        Raises:
            GalleryError: another process took over, or does not come to an end.
        """
        self._take_turn()
        try:
            for table in TABLES:
                self._clear(table)
                self._copy(table)
                self._swap(table)
                self._drain(table + _OLD)
            self._rows(_shrink)
        finally:
            with self._write() as execute:
                execute("DELETE FROM about WHERE key = 'rewriting' AND value LIKE ?",
                        (f"{self._token} %",))  # fmt: skip

    def _take_turn(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with self._write() as execute:
                holder, at = _holder(execute)
                if holder is None or not 0 <= time.time() - at < ALIVE:
                    self._sign(execute)
                    return
            if time.monotonic() > end:
                raise GalleryError("another process has been rewriting the rows for too long")
            time.sleep(0.1)

    def _sign(self, execute: Execute) -> None:
        execute("INSERT OR REPLACE INTO about VALUES ('rewriting', ?)",
                (f"{self._token} {time.time()}",))  # fmt: skip

    @contextmanager
    def _step(self, begin: Write | None = None) -> Iterator[Execute]:
        """One transaction, after which others get their turn."""
        with (begin or self._write)() as execute:
            begun = time.monotonic()
            if _holder(execute)[0] != self._token:
                raise GalleryError("another process rewrites the rows now")
            self._sign(execute)
            yield execute
        time.sleep(SHARE * (time.monotonic() - begun))

    def _rows(self, work: Callable[[Execute, int], bool]) -> None:
        """Do `work` on some rows a step, until it says that there are no more."""
        count, more = _FIRST, True
        while more:
            with self._step() as execute:
                begun = time.monotonic()
                more = work(execute, count)
                took = max(time.monotonic() - begun, 1e-6)
            count = max(1, min(_MOST, 2 * count, int(count * STEP / took)))

    def _clear(self, table: str) -> None:
        """Remove what somebody who died left behind."""
        with self._step() as execute:
            for action in _ACTIONS:
                execute(f"DROP TRIGGER IF EXISTS {table}_{action}")
        for left in (table + _NEW, table + _OLD):
            self._drain(left)

    def _copy(self, table: str) -> None:
        """Copy a table into a new one, which follows what others change meanwhile."""
        new, last = table + _NEW, 0
        with self._step() as execute:
            _make(execute, table, new)

        def some(execute: Execute, count: int) -> bool:
            nonlocal last
            ((end,),) = execute(
                f"SELECT max(rowid) FROM (SELECT rowid FROM {table} WHERE rowid > ? "
                "ORDER BY rowid LIMIT ?)",
                (last, count),
            )
            if end is None:
                return False
            execute(
                f"INSERT OR IGNORE INTO {new} SELECT * FROM {table} WHERE rowid > ? AND rowid <= ?",
                (last, end),
            )
            last = end
            return True

        self._rows(some)

    def _swap(self, table: str) -> None:
        with self._step(self._alter) as execute:
            for action in _ACTIONS:
                execute(f"DROP TRIGGER {table}_{action}")
            # Ids are never given twice.
            execute("DELETE FROM sqlite_sequence WHERE name = ?", (table + _NEW,))
            execute("INSERT INTO sqlite_sequence SELECT ?, seq FROM sqlite_sequence "
                    "WHERE name = ?", (table + _NEW, table))  # fmt: skip
            execute(f"ALTER TABLE {table} RENAME TO {table}{_OLD}")
            execute(f"ALTER TABLE {table}{_NEW} RENAME TO {table}")

    def _drain(self, table: str) -> None:
        """Remove a table, if it is there, row by row: each page that becomes free is zeroed."""

        def some(execute: Execute, count: int) -> bool:
            if not execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)):
                return False
            first = f"SELECT rowid FROM {table} ORDER BY rowid LIMIT {count}"
            execute(f"DELETE FROM {table} WHERE rowid <= (SELECT max(rowid) FROM ({first}))")
            if execute(f"SELECT 1 FROM {table} LIMIT 1"):
                return True
            execute(f"DROP TABLE {table}")
            return False

        self._rows(some)


def _holder(execute: Execute) -> tuple[str | None, float]:
    """Who is rewriting, and when they did a step (Unix time, s)."""
    rows = execute("SELECT value FROM about WHERE key = 'rewriting'")
    if not rows:
        return None, 0.0
    token, at = rows[0][0].split()
    return token, float(at)


def _make(execute: Execute, table: str, new: str) -> None:
    """A table of the same kind, and triggers by which it follows `table`."""
    made = execute(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL "
        "AND type IN ('table', 'index') ORDER BY type DESC",
        (table,),
    )
    for kind, name, sql in made:
        called = new if kind == "table" else _other(name)
        text = re.sub(rf'^CREATE {kind} "?{name}"?', f"CREATE {kind} {called}", sql, flags=re.I)
        execute(re.sub(rf'^(CREATE INDEX \w+ ON) "?{table}"?', rf"\1 {new}", text, flags=re.I))
    # Not INSERT OR REPLACE: what is done on a conflict, the statement outside decides.
    come = f"INSERT INTO {new} SELECT * FROM {table} WHERE rowid = new.rowid"
    gone = f"DELETE FROM {new} WHERE rowid = old.rowid"
    for action, follow in zip(_ACTIONS, (come, f"{gone}; {come}", gone), strict=True):
        execute(f"CREATE TRIGGER {table}_{action} AFTER {action} ON {table} BEGIN {follow}; END")


def _other(index: str) -> str:
    """The name of an index in the next table: those of the last are still there."""
    return index.removesuffix("_b") if index.endswith("_b") else f"{index}_b"


def _shrink(execute: Execute, pages: int) -> bool:
    """Give free pages back to the disk."""
    before = execute("PRAGMA freelist_count")
    execute(f"PRAGMA incremental_vacuum({pages})")
    return execute("PRAGMA freelist_count") < before
