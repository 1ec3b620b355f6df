"""Which files of a folder are a person's pictures."""

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
# Pictures that `images.read` knows nothing of: said aloud rather than passed over in silence.
OTHER = frozenset({".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"})


@dataclass(frozen=True, slots=True)
class Listing:
    """The `pictures` below a folder in the order of their paths, and how many files of every
    suffix of another picture format were `passed` over."""

    pictures: tuple[Path, ...]
    passed: dict[str, int]


def pictures_below(folder: Path, *, marker: str) -> Listing:
    """List a folder. Left out are hidden files and folders, what PASSED names, folders that hold a
    file called `marker` (earlier results), and links to folders.

    Raises:
        DataError: not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder of pictures")
    found: list[Path] = []
    passed: Counter[str] = Counter()
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name.lower() not in PASSED
            and not (here / name / marker).exists()
        ]
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in images.SUFFIXES and (here / name).is_file():
                found.append(here / name)
            elif suffix in OTHER:
                passed[suffix] += 1
    return Listing(tuple(sorted(found)), dict(sorted(passed.items())))
