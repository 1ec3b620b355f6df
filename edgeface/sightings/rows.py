"""The tables of sightings, the same in a file and on a server, and how statements are said."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

VERSION = 1
# `person` is who was recognised then, `given` who it was said to be afterwards, by `given_by`.
# `alias` is whom merged people became, by which entry of the gallery's journal.
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
CREATE INDEX appearance_living ON appearance (id) WHERE ended = 0;
CREATE INDEX appearance_last ON appearance (last, id);
CREATE INDEX appearance_camera ON appearance (camera, last);
CREATE INDEX appearance_who ON appearance (coalesce(given, person), last);
CREATE TABLE crop (
    appearance INTEGER PRIMARY KEY REFERENCES appearance (id) ON DELETE CASCADE,
    jpeg BLOB NOT NULL, quality REAL NOT NULL, at REAL NOT NULL);
CREATE TABLE alias (gone INTEGER PRIMARY KEY, heir INTEGER NOT NULL, entry INTEGER NOT NULL);
CREATE TABLE change (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, action TEXT NOT NULL, entry INTEGER,
    count INTEGER NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE moved (
    change INTEGER NOT NULL REFERENCES change (id) ON DELETE CASCADE,
    appearance INTEGER NOT NULL REFERENCES appearance (id) ON DELETE CASCADE,
    given INTEGER, given_by INTEGER, PRIMARY KEY (change, appearance));
CREATE INDEX moved_appearance ON moved (appearance);
CREATE INDEX moved_given_by ON moved (given_by);
INSERT INTO about VALUES ('erased', '0'), ('scrub', 'done')"""
AT_ONCE = 200  # rows deleted in one transaction, so that cameras hardly wait
PAUSE = 0.01  # seconds after it in which they come in
BLOCK = 20_000  # templates read at a time: 10 MB at 128 dimensions
TABLES = ("event", "appearance", "crop", "alias", "change", "moved")
WHO = "coalesce(given, person)"


@dataclass(frozen=True, slots=True)
class Words:
    """What is said differently: the numbers `among` a JSON list, the `later` of two values.
    Statements hold `{among}` and `{later}`."""

    among: str
    later: str


class Execute(Protocol):
    """Runs a statement in the open transaction; values are written `?`."""

    def __call__(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Its rows."""
        ...


class Rows(Protocol):
    """Where the rows are."""

    place: str

    def write(self) -> AbstractContextManager[Execute]:
        """One change, committed when the block ends and undone if it raises. Writers, here and
        elsewhere, take turns: numbers rise in the order of commits."""
        ...

    def read(self) -> AbstractContextManager[Execute]:
        """Several reads of one moment."""
        ...

    def erase(self) -> None:
        """Remove what deleted rows left behind."""
        ...

    def close(self) -> None:
        """Let go of them."""
        ...


def executor(run: Callable[..., list[tuple[Any, ...]]], words: Words) -> Execute:
    """Runs statements in the `words` of a place."""

    def execute(statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        for word in ("among", "later"):
            statement = statement.replace(f"{{{word}}}", getattr(words, word))
        return run(statement, values)

    return execute


def erase_by_steps(rows: Rows, ids: Sequence[int], *statements: str) -> list[int]:
    """Run statements that delete, each with a list of some of `ids` as its `{among}`, in short
    transactions; how many rows each has returned."""
    counts = [0] * len(statements)
    for begin in range(0, len(ids), AT_ONCE):
        these = json.dumps(ids[begin : begin + AT_ONCE])
        with rows.write() as execute:
            for number, statement in enumerate(statements):
                counts[number] += len(execute(f"{statement} RETURNING 1", (these,)))
            count_erased(execute)
        time.sleep(PAUSE)
    return counts


def count_erased(execute: Execute) -> None:
    """Note that rows were deleted: of what is kept of them in memory, and on the disk."""
    execute("UPDATE about SET value = ? WHERE key = 'erased'", (secrets.token_hex(8),))
    execute("UPDATE about SET value = 'due' WHERE key = 'scrub'")
