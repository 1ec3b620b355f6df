"""What a gallery asks of the place that keeps its rows, and the tables it keeps there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from edgeface.gallery.storage.cipher import Cipher

Rows = list[tuple[Any, ...]]
Execute = Callable[..., Rows]

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
READABLE = 1  # the oldest version that can be read as it is, where nothing may be written


class Database(Protocol):
    """What a gallery asks of the place that keeps its rows; parameters are written `?`."""

    place: str
    plain: Cipher  # how values are written without encryption
    replaced: int  # how often another storage has taken the place of the one that was opened

    def transaction(self) -> AbstractContextManager[Execute]:
        """One atomic change: committed and durable when the block ends, undone if it raises."""
        ...

    def snapshot(self) -> AbstractContextManager[Execute]:
        """Several reads of one moment."""
        ...

    def stamp(self) -> object:
        """A value that differs once another connection has committed a change."""
        ...

    def watch(self, check: Callable[[], object]) -> None:
        """Have `check` called once the storage under this name has been replaced by another; it
        raises where that one cannot be used."""
        ...

    def scrub(self) -> None:
        """Remove what deleted rows left behind in the storage."""
        ...

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk, even if others have to wait."""
        ...

    def close(self) -> None:
        """Let go of the storage; further use is an error."""
        ...
