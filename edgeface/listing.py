"""Which files of a folder are pictures: one rule for enrolling, calibrating, videos and piles."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgeface import images
from edgeface.errors import DataError

# Folders in which programs keep small copies, deleted files and snapshots: of Synology and QNAP
# boxes, Windows, macOS and Linux desktops. Hidden ones (with a dot) are left out anyway.
PASSED = frozenset(
    {
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "recycler",
        "trash",
        "__macosx",
        "lost+found",
        "thumbnails",
    }
)
# Pictures that edgeface does not read: said aloud rather than passed over in silence.
OTHER = frozenset({".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".svg"})


@dataclass(frozen=True, slots=True)
class Listing:
    """The `pictures` of a folder in the order of their paths, and how many files of every suffix
    of another picture format were `passed` over."""

    pictures: tuple[Path, ...]
    passed: dict[str, int]


def pictures_in(folder: Path, *, below: bool = True, marker: str = "") -> Listing:
    """The pictures of a folder, and of the folders below it.

    Left out are hidden files and folders, among them the `._x.jpg` beside every file that macOS
    copies; folders that `PASSED` names; with `marker`, folders that hold a file of that name
    (earlier results); and links to folders.

    Raises:
        DataError: not a folder, or one that cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder of pictures")
    found: list[Path] = []
    passed: Counter[str] = Counter()
    for root, folders, files in os.walk(folder, onerror=_refuse if not below else None):
        here = Path(root)
        folders[:] = [name for name in folders if below and _counts(here / name, marker)]
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in images.SUFFIXES and (here / name).is_file():
                found.append(here / name)
            elif suffix in OTHER:
                passed[suffix] += 1
    return Listing(tuple(sorted(found)), dict(sorted(passed.items())))


def people_in(folder: Path) -> dict[str, Listing]:
    """The pictures of everybody who has a folder in `folder`: its name → what `pictures_in` says
    of it. Folders that do not count, as there, and such without pictures are left out.

    Raises:
        DataError: not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder of folders of pictures")
    own = sorted(f for f in folder.iterdir() if f.is_dir() and _counts(f, ""))
    listings = {f.name: pictures_in(f, below=False) for f in own}
    return {name: listing for name, listing in listings.items() if listing.pictures}


def _counts(folder: Path, marker: str) -> bool:
    name = folder.name
    hidden = name.startswith(".") or name.lower() in PASSED
    return not hidden and not (marker and (folder / marker).exists())


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error
