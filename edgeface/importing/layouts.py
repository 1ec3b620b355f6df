"""Folders of pictures, and how the folders of Frigate and of Double Take are told from others.

- Frigate keeps `/media/frigate/clips/faces/NAME/*.webp`; `faces/train/*.webp` are faces that nobody
  has sorted yet (`FACE_DIR` in its `const.py`, `api/classification.py`).
- Double Take keeps `.storage/train/NAME/*.jpg` beside `matches` and its settings. The archive that
  it exports (`/api/export`) holds that folder.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from edgeface import images
from edgeface.errors import DataError, ImageError
from edgeface.importing.records import Found, Layout, Picture
from edgeface.listing import PASSED, people_in

LARGEST = 1 << 28  # bytes of a picture in an archive
Folder = Path | zipfile.Path
People = dict[str, tuple[Picture, ...]]


def look(source: str | Path) -> Found:
    """The people in a folder or ZIP archive: a folder of pictures for each, Frigate's faces (or a
    folder above them), or Double Take's storage.

    Raises:
        DataError: it is neither, cannot be read, or holds nobody.
    """
    source = Path(source)
    if source.is_dir():
        found = _found(source, _on_disk)
    else:
        try:
            archive = zipfile.ZipFile(source)
        except (OSError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{source} is no folder and no ZIP archive: {reason}") from error
        found = _found(zipfile.Path(archive), partial(_in_archive, source))
    if not found.people:
        raise DataError(f"{source} holds no folders of pictures, one for each person")
    return found


def _found(source: Folder, people_of: Callable[[Folder], tuple[People, list[str]]]) -> Found:
    for base in (source, source / ".storage"):
        people, passed = people_of(base / "train")
        if people:
            return Found(Layout.DOUBLE_TAKE, people, tuple(passed))
    for base in (source, source / "faces", source / "clips" / "faces"):
        waiting = _files(base / "train")
        people, passed = people_of(base)
        people.pop("train", None)
        if people and (waiting or base != source):
            left = [f"{waiting} faces in train/, which Frigate was told no names of"]
            return Found(Layout.FRIGATE, people, (*passed, *(left if waiting else [])))
    people, passed = people_of(source)
    return Found(Layout.FOLDERS, people, tuple(passed))


def _on_disk(folder: Folder) -> tuple[People, list[str]]:
    if not isinstance(folder, Path) or not folder.is_dir():
        return {}, []
    people, passed = People(), list[str]()
    for name, listing in people_in(folder).items():
        people[name] = tuple(map(_file, listing.pictures))
        passed += [
            f"{n} *{suffix} in {name}/: convert them" for suffix, n in listing.passed.items()
        ]
    return people, passed


def _file(path: Path) -> Picture:
    return Picture(os.fsencode(path).decode("utf-8", "backslashreplace"), lambda: path)


def _in_archive(archive: Path, folder: Folder) -> tuple[People, list[str]]:
    """As `_on_disk`, by the same rules."""
    if not isinstance(folder, zipfile.Path) or not folder.is_dir():
        return {}, []
    people = People()
    for own in _sorted(f for f in folder.iterdir() if f.is_dir() and _counts(f.name)):
        pictures = tuple(
            Picture(f"{archive}/{picture.at}", partial(_bytes, archive, picture))
            for picture in _sorted(own.iterdir())
            if _is_picture(picture)
        )
        if pictures:
            people[own.name] = pictures
    return people, []


def _sorted(paths: Iterable[zipfile.Path]) -> list[zipfile.Path]:
    return sorted(paths, key=lambda path: path.at)


def _bytes(archive: Path, picture: zipfile.Path) -> bytes:
    label = f"{archive}/{picture.at}"
    if picture.root.getinfo(picture.at).file_size > LARGEST:
        raise ImageError(f"{label} is larger than {LARGEST >> 20} MB: take it out of the archive")
    try:
        return picture.read_bytes()
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ImageError(f"{label} cannot be read: {error}") from error


def _files(folder: Folder) -> int:
    """How many pictures lie in a folder itself."""
    return sum(map(_is_picture, folder.iterdir())) if folder.is_dir() else 0


def _is_picture(path: Folder) -> bool:
    suffix = Path(path.name).suffix.lower()
    return path.is_file() and suffix in images.SUFFIXES and not path.name.startswith(".")


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in PASSED
