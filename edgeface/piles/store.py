"""What was seen in every picture, kept as it is seen: a run that is cut off goes on where it was.

One SQLite file beside the result. The pile (`edgeface.cluster.update`) is made from its faces and
can be made again; what it holds cannot be had without looking at every picture anew.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeface.closing import Closing
from edgeface.errors import DataError, OutputError
from edgeface.types import Array, Flaw

VERSION = 2
COMMIT_EVERY = 2.0  # seconds of looking that a power cut may cost
_SCHEMA = """
CREATE TABLE setting (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE picture (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
    changed INTEGER NOT NULL, digest TEXT NOT NULL,
    same_as INTEGER REFERENCES picture (id), problem TEXT NOT NULL DEFAULT '');
CREATE INDEX picture_digest ON picture (digest);
CREATE TABLE face (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    picture INTEGER NOT NULL REFERENCES picture (id) ON DELETE CASCADE,
    number INTEGER NOT NULL, box BLOB NOT NULL, quality REAL NOT NULL,
    embedding BLOB NOT NULL, crop BLOB NOT NULL, recognisability REAL NOT NULL,
    flaw TEXT NOT NULL);
CREATE INDEX face_picture ON face (picture);
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT '',
    folder TEXT NOT NULL DEFAULT '');
CREATE TABLE entry (folder TEXT NOT NULL, entry BLOB NOT NULL, picture INTEGER NOT NULL,
    PRIMARY KEY (folder, entry));
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was looked at: its `path`, `size` in bytes, `changed` time in ns, `digest`,
    the id of the equal picture looked at before (`same_as`), and the `problem` with it, if any."""

    id: int
    path: Path
    size: int
    changed: int
    digest: str
    same_as: int | None
    problem: str


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A face of a picture: `number` there, `box` (4,) px, `quality` in [0, 1], `embedding` (d,)
    float32 unit, `crop` a small JPEG with some of its surroundings, `recognisability` and `flaw` as
    in `Face`."""

    number: int
    box: Array
    quality: float
    embedding: Array
    crop: bytes
    recognisability: float
    flaw: Flaw | None


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A face as it is stored: its `id`, the id of its `picture` and one `path` of that, whether the
    file there is a `copy` of another, and the rest as in `Seen`."""

    id: int
    picture: int
    path: Path
    copy: bool
    number: int
    box: Array
    quality: float
    embedding: Array
    recognisability: float
    flaw: Flaw | None


class Store(Closing):
    """The pictures and faces of one result; use it as a context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._committed = time.monotonic()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA foreign_keys = ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchall():
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            elif version != VERSION:
                raise DataError(f"{path}: version {version}, expected {VERSION}; cluster anew")
            self._db.execute("BEGIN IMMEDIATE")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error
        except sqlite3.OperationalError as error:
            raise OutputError(f"{path}: {error}; is another edgeface at work on it?") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: {error}; move it away and cluster anew") from error

    def close(self) -> None:
        """Keep what was done, also when the run ended early."""
        self.commit()
        self._db.close()

    def commit(self) -> None:
        """Put everything so far on the disk."""
        self._do("COMMIT")
        self._do("BEGIN IMMEDIATE")
        self._committed = time.monotonic()

    def commit_now_and_then(self) -> None:
        """Commit when the last time is COMMIT_EVERY ago."""
        if time.monotonic() - self._committed >= COMMIT_EVERY:
            self.commit()

    # Settings

    def setting(self, key: str) -> bytes | None:
        rows = self._do("SELECT value FROM setting WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    def set(self, key: str, value: bytes) -> None:
        self._do("INSERT OR REPLACE INTO setting VALUES (?, ?)", key, value)

    # Pictures

    def pictures(self) -> list[Picture]:
        rows = self._do("SELECT id, path, size, changed, digest, same_as, problem FROM picture")
        return [Picture(i, _path(p), *rest) for i, p, *rest in rows]

    def add(
        self,
        path: Path,
        size: int,
        changed: int,
        digest: str,
        faces: Sequence[Seen],
        *,
        same_as: int | None = None,
        problem: str = "",
    ) -> int:
        """A picture that was looked at, with what was seen; it replaces one of the same path.
        Returns its id."""
        self._replaced(path)
        self._do(
            "INSERT INTO picture (path, size, changed, digest, same_as, problem) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            *(os.fsencode(path), size, changed, digest, same_as, problem),
        )
        ((picture,),) = self._do("SELECT last_insert_rowid()")
        for f in faces:
            self._do(
                "INSERT INTO face (picture, number, box, quality, embedding, crop, "
                "recognisability, flaw) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                *(picture, f.number, f.box.astype("<f4").tobytes(), f.quality),
                *(f.embedding.astype("<f4").tobytes(), f.crop),
                *(f.recognisability, "" if f.flaw is None else str(f.flaw)),
            )
        return int(picture)

    def touch(self, picture: int, size: int, changed: int) -> None:
        """The file has another time but the same content."""
        self._do("UPDATE picture SET size = ?, changed = ? WHERE id = ?", size, changed, picture)

    def move(self, picture: int, path: Path) -> None:
        """The file has another place."""
        self._replaced(path)
        self._do("UPDATE picture SET path = ? WHERE id = ?", os.fsencode(path), picture)

    def drop(self, picture: int) -> None:
        """Forget a picture with its faces. An equal one that is still there takes them over."""
        heirs = self._do("SELECT id, path FROM picture WHERE same_as = ? ORDER BY id", picture)
        if not heirs:
            self._do("DELETE FROM picture WHERE id = ?", picture)
            return
        heir, path = heirs[0]
        self._do("DELETE FROM picture WHERE id = ?", heir)
        self._do("UPDATE picture SET path = ? WHERE id = ?", path, picture)

    def _replaced(self, path: Path) -> None:
        for (picture,) in self._do("SELECT id FROM picture WHERE path = ?", os.fsencode(path)):
            self.drop(picture)

    def problems(self) -> list[tuple[Path, str]]:
        rows = self._do("SELECT path, problem FROM picture WHERE problem <> '' ORDER BY path")
        return [(_path(path), str(problem)) for path, problem in rows]

    # Faces

    def faces(self) -> Iterator[Kept]:
        """Every face of every picture, by path and number."""
        rows = self._do(
            "SELECT f.id, f.picture, p.path, p.same_as IS NOT NULL, f.number, f.box, f.quality, "
            "f.embedding, f.recognisability, f.flaw FROM face f "
            "JOIN picture p ON f.picture = COALESCE(p.same_as, p.id) ORDER BY p.path, f.number"
        )
        for face, picture, path, copy, number, box, quality, embedding, chance, flaw in rows:
            yield Kept(
                face,
                picture,
                _path(path),
                bool(copy),
                number,
                np.frombuffer(box, "<f4").astype(np.float32),
                quality,
                np.frombuffer(embedding, "<f4").astype(np.float32),
                chance,
                Flaw(flaw) if flaw else None,
            )

    def crop(self, face: int) -> bytes | None:
        """The small JPEG of a face."""
        rows = self._do("SELECT crop FROM face WHERE id = ?", face)
        return bytes(rows[0][0]) if rows else None

    def forget_everything(self) -> None:
        """All pictures, faces, people and settings, as for another model."""
        for table in ("entry", "person", "face", "setting"):
            self._do(f"DELETE FROM {table}")
        self._do("UPDATE picture SET same_as = NULL")
        self._do("DELETE FROM picture")

    # People and their folders

    def names(self) -> dict[int, str]:
        """The names that somebody gave, by person."""
        return {int(i): str(n) for i, n in self._do("SELECT id, name FROM person WHERE name <> ''")}

    def name(self, person: int, name: str) -> None:
        self._do(
            "INSERT INTO person (id, name) VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            *(person, name),
        )

    def folders(self) -> dict[int, str]:
        """The folder that was last made for a person."""
        rows = self._do("SELECT id, folder FROM person WHERE folder <> ''")
        return {int(i): str(f) for i, f in rows}

    def set_folder(self, person: int, folder: str) -> None:
        self._do(
            "INSERT INTO person (id, folder) VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET folder = excluded.folder",
            *(person, folder),
        )

    def move_folder(self, person: int, before: str, folder: str) -> None:
        """A person's folder has another name now, with all that was put there."""
        self.set_folder(person, folder)
        self._do("UPDATE OR REPLACE entry SET folder = ? WHERE folder = ?", folder, before)

    def drop_people(self, people: Collection[int]) -> None:
        self._do("DELETE FROM person WHERE id = ?", many=[(p,) for p in people])

    def entries(self) -> dict[tuple[str, str], int]:
        """What was put into folders: (folder, entry) to the id of the picture."""
        rows = self._do("SELECT folder, entry, picture FROM entry")
        return {(str(f), os.fsdecode(e)): int(p) for f, e, p in rows}

    def set_entries(self, entries: dict[tuple[str, str], int]) -> None:
        self._do("DELETE FROM entry")
        rows = [(folder, os.fsencode(e), picture) for (folder, e), picture in entries.items()]
        self._do("INSERT INTO entry VALUES (?, ?, ?)", many=rows)

    def _do(self, statement: str, *values: Any, many: list[Any] | None = None) -> list[Any]:
        try:
            if many is not None:
                return self._db.executemany(statement, many).fetchall()
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: {error}; free some space or mend the disk") from error


def _path(raw: bytes) -> Path:
    return Path(os.fsdecode(raw))
