"""Making a backup."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import edgeface
from edgeface.atomic import replacing
from edgeface.backup import archive as archives
from edgeface.backup.archive import Manifest, Role, part_of
from edgeface.backup.moment import copy_pair
from edgeface.backup.staging import staging
from edgeface.errors import ArgumentError, BackupError, GalleryError
from edgeface.gallery import Gallery
from edgeface.sightings import Sightings
from edgeface.sightings.store import SUFFIX
from edgeface.types import timestamp


def back_up(
    archive: str | Path,
    gallery: str | Path,
    *,
    sightings: str | Path | None = None,
    settings: str | Path | None = None,
    own: Sequence[str | Path] = (),
    key: bytes | None = None,
) -> Manifest:
    """Copy a gallery, its sightings (by default those beside it), a settings file and a service's
    `own` files into one archive, whoever uses and changes them meanwhile.

    Gallery and sightings are of one moment, and nothing in the sightings is about anybody whom the
    gallery lacks. An encrypted gallery (its `key`: see `Gallery.open`) is copied as it is, and so
    are its sightings. The copies are opened once before they are taken for good. An archive that is
    there is replaced when the new one is complete; if anything fails it stays. Only its owner may
    read it. Needs twice the size of the files in its folder, for the time that it takes.

    Raises:
        ArgumentError: the gallery is on a server, or two files have one name.
        BackupError: a file cannot be read or is damaged, or `archive` is a file of another kind.
        GalleryError: the gallery is encrypted, and the key is missing or wrong.
        OutputError: the archive cannot be written, as on a full disk.
    """
    archive, people = Path(archive), Path(gallery)
    if "://" in str(gallery):
        raise ArgumentError(
            "a gallery on a server is backed up there, for example by pg_dump, which takes its "
            "sightings, too"
        )
    if sightings is None and Path(f"{people}{SUFFIX}").exists():
        sightings = Path(f"{people}{SUFFIX}")
    log = None if sightings is None else Path(sightings)
    extra = [(Path(path), Role.OWN) for path in own]
    if settings is not None:
        extra.insert(0, (Path(settings), Role.SETTINGS))
    databases = [(people, Role.GALLERY)] + ([] if log is None else [(log, Role.SIGHTINGS)])
    _check(archive, [path for path, _ in databases + extra])
    with staging(archive, archive) as folder:
        # How far wires came first: the log must reach as far, or they would begin anew.
        for path, _ in extra:
            _take(path, folder)
        copy_pair(people, log, folder)
        counts = _open(people, log, folder, key)
        parts = tuple(part_of(folder / path.name, role) for path, role in databases + extra)
        made = timestamp(datetime.now(UTC))
        manifest = Manifest(parts, made, edgeface.__version__, *counts)
        with replacing(archive) as file:
            archives.write(file, manifest, folder)
    return manifest


def _check(archive: Path, paths: Sequence[Path]) -> None:
    names = [path.name for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ArgumentError(f"two files are called {twice[0]}: give each a name of its own")
    # Above all one of the files that are to be kept safe.
    if archive.is_dir() or (archive.exists() and not archives.is_backup(archive)):
        raise BackupError(f"{archive} exists and is no backup: choose another name")
    if not archive.parent.is_dir():
        raise ArgumentError(f"{archive.parent} is no folder: make it first")


def _take(path: Path, folder: Path) -> None:
    try:
        with path.open("rb") as file, (folder / path.name).open("xb") as copy:
            shutil.copyfileobj(file, copy)
    except OSError as error:
        if error.filename == os.fspath(path):
            raise BackupError(f"{path} cannot be read: {error.strerror}") from error
        raise


def _open(gallery: Path, log: Path | None, folder: Path, key: bytes | None) -> tuple[int, int]:
    """Open the copies, which erases what is left of people who were just being forgotten; how many
    people and appearances there are."""
    try:
        with Gallery.open(folder / gallery.name, create=False, key=key) as people:
            if log is None:
                return len(people.people()), 0
            with Sightings.open(people, folder / log.name) as store, store.file.read() as execute:
                ((count,),) = execute("SELECT count(*) FROM appearance")
                return len(people.people()), int(count)
    except GalleryError as error:  # which names the copy
        message = str(error).replace(f"{folder}{os.sep}", f"{gallery.parent}{os.sep}")
        raise GalleryError(message) from error
