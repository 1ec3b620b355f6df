"""Putting a backup back."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from edgeface.atomic import PRIVATE, sync_folder
from edgeface.backup import archive as archives
from edgeface.backup.archive import Manifest, Role
from edgeface.backup.staging import staging
from edgeface.errors import BackupError, OutputError

BUSY_SECONDS = 5.0
_DATABASES = (Role.GALLERY, Role.SIGHTINGS)
_LEFT_OVER = ("-wal", "-shm", "-journal")  # of SQLite, behind a file's name


def restore(archive: str | Path, folder: str | Path, *, replace: bool = False) -> Manifest:
    """Put the files of an archive into a folder, made if it is missing.

    Every digest is compared before anything is touched, and again while the files are written
    beside their places. They take their places when all are complete, each at once. Should the
    machine stop in between, restore again. No key is needed.

    Args:
        archive: what `back_up` made.
        folder: where the files go, under the names that they had.
        replace: whether they may take the place of files that are there.

    Raises:
        BackupError: the archive is damaged, of another program, or newer; files are there already
            and may not be replaced, or they are in use.
        OutputError: the folder cannot be written, as on a full disk.
    """
    archive, folder = Path(archive), Path(folder)
    manifest = archives.check(archive)
    targets = {part.name: Path(os.path.realpath(folder / part.name)) for part in manifest.parts}
    there = [name for name, target in targets.items() if os.path.lexists(target)]
    if there and not replace:
        raise BackupError(
            f"{folder} holds {', '.join(there)} already: choose another folder, or say that they "
            "are to be replaced"
        )
    if strange := [name for name in there if not targets[name].is_file()]:
        raise BackupError(f"{folder / strange[0]} is no file: move it away")
    databases = [part.name for part in manifest.parts if part.role in _DATABASES]
    with _made(folder), staging(folder / archive.name, folder) as partial:
        archives.unpack(archive, manifest, partial, _settle)
        for name in databases:
            _free(targets[name])
        for name, target in targets.items():
            for suffix in _LEFT_OVER if name in databases else ():
                # SQLite would apply them to the file that comes.
                Path(f"{target}{suffix}").unlink(missing_ok=True)
            (partial / name).replace(target)
        sync_folder(folder)
    return manifest


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, and no trace of it if nothing came into it."""
    new = not folder.exists()
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def _settle(file: IO[bytes]) -> None:
    if hasattr(os, "fchmod"):  # not on Windows
        os.fchmod(file.fileno(), PRIVATE)
    os.fsync(file.fileno())


def _free(path: Path) -> None:
    """Take in what is left of a file's journals; BackupError if a program has it open. A damaged
    file is let be: it is to be replaced."""
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as file:
            file.execute("BEGIN EXCLUSIVE")
            file.execute("ROLLBACK")
            file.execute("PRAGMA journal_mode=DELETE").fetchall()  # asks to be alone
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise BackupError(
                f"{path} is in use: stop the service, or choose another folder"
            ) from error
