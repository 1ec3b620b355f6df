"""Sightings of a gallery on a server: the same rows in its schema, over its connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeface.errors import GalleryError
from edgeface.gallery.storage.postgres import DIALECT, PostgresDatabase
from edgeface.sightings.rows import SCHEMA, TABLES, VERSION, Execute, Words, executor

WORDS = Words(among="SELECT value::bigint FROM json_array_elements_text(?::json)", later="greatest")
# Writers take turns, so that events are numbered in the order in which they are committed: who has
# read up to a number misses none below it.
_TURN = "SELECT pg_advisory_xact_lock(hashtext('edgeface sightings'))"


class Server:
    """The rows in PostgreSQL; every call of `write` and `read` is one transaction."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._db, self.place = database, database.place
        with self.write() as execute:
            if not _there(execute):
                script = SCHEMA
                for old, new in DIALECT:
                    script = script.replace(old, new)
                for statement in filter(str.strip, script.split(";")):
                    execute(statement)
                execute("INSERT INTO about VALUES ('version', ?)", (str(VERSION),))
            ((version,),) = execute("SELECT value FROM about WHERE key = 'version'")
            if int(version) > VERSION:
                raise GalleryError(
                    f"the sightings in {self.place} have version {version}, {VERSION} is known: "
                    "update"
                )

    @staticmethod
    def there(database: PostgresDatabase) -> bool:
        """Whether there are such rows."""
        with database.snapshot() as run:
            return _there(run)

    @contextmanager
    def write(self) -> Iterator[Execute]:
        """See `Rows.write`."""
        with self._db.transaction() as run:
            run(_TURN)
            yield executor(run, WORDS)

    @contextmanager
    def read(self) -> Iterator[Execute]:
        """See `Rows.read`."""
        with self._db.snapshot() as run:
            yield executor(run, WORDS)

    def erase(self) -> None:
        """See `PostgresDatabase.scrub`: files, write-ahead log and backups of the server are its
        operator's."""
        self._db.vacuum(TABLES)

    def close(self) -> None:
        """Nothing: the connections are the gallery's."""


def _there(execute: Execute) -> bool:
    ((table,),) = execute("SELECT to_regclass('edgeface.about')")
    return table is not None
