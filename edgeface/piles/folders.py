"""A folder per person, with links to or copies of their pictures, and what people do with it.

Whoever renames such a folder names the person; whoever moves the pictures of one into another says
that the two are one person.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeface.errors import OutputError
from edgeface.piles.report import folder_name
from edgeface.piles.store import Store

_OWN = re.compile(r"person-\d+(-\d+)?")


@dataclass(frozen=True, slots=True)
class ByHand:
    """What was done to the folders since they were made: `names` by person, and `merges` of one
    person into another as (into, other)."""

    names: dict[int, str]
    merges: tuple[tuple[int, int], ...]


def read_back(root: Path, store: Store) -> ByHand:
    """Compare the folders with what was put there. A folder that is gone was renamed, or moved into
    another, if at least half of what it held is in one that did not hold it before."""
    names: dict[int, str] = {}
    merges: list[tuple[int, int]] = []
    if not root.is_dir():
        return ByHand(names, ())
    placed = set(store.entries())
    folders = store.folders()
    there = {d.name: {e.name for e in d.iterdir()} for d in sorted(root.iterdir()) if d.is_dir()}
    owners = {name: person for person, name in folders.items() if name in there}
    for person, before in sorted(folders.items()):
        if before in there:
            continue
        held = {entry for folder, entry in placed if folder == before}
        moved = {
            name: sum(e in held and (name, e) not in placed for e in entries)
            for name, entries in there.items()
        }
        best = max(moved, key=lambda name: moved[name], default="")
        if not best or moved[best] * 2 < max(len(held), 1):
            continue
        if best in owners:
            merges.append((owners[best], person))
        elif not _OWN.fullmatch(best):
            names[person], owners[best] = best, person
            store.move_folder(person, before, best)
    return ByHand(names, tuple(merges))


def place(
    root: Path,
    pictures: Mapping[int, Sequence[tuple[int, Path]]],
    store: Store,
    *,
    how: Literal["link", "copy"],
) -> int:
    """Make the folders show who is on which of the `pictures`, (id, path) by person; returns how
    many entries are new. A picture of two people is in both folders. Entries that were made here
    and are no longer true go; whatever else lies in a folder stays.

    Raises:
        OutputError: something cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _place(root, pictures, store, how)
    except OSError as error:
        raise OutputError(f"{error.filename or root}: {error.strerror}") from error


def _place(
    root: Path,
    pictures: Mapping[int, Sequence[tuple[int, Path]]],
    store: Store,
    how: Literal["link", "copy"],
) -> int:
    before, folders, names = store.entries(), store.folders(), store.names()
    now: dict[tuple[str, str], int] = {}
    added = 0
    for person, theirs in sorted(pictures.items()):
        name = _folder(root, folders.get(person, ""), folder_name(person, names.get(person, "")))
        store.set_folder(person, name)
        old = {picture: entry for (f, entry), picture in before.items() if f == folders.get(person)}
        (root / name).mkdir(exist_ok=True)
        for picture, path in theirs:
            entry = old.get(picture)
            if entry is None or not _same(root / name / entry, path):
                entry, new = _free(root / name, path)
                if new:
                    added += 1
                    _put(root / name / entry, path, how)
            now[name, entry] = picture
    there = {picture: path for theirs in pictures.values() for picture, path in theirs}
    for (folder, entry), picture in before.items():
        if (folder, entry) not in now:
            _take_away(root / folder / entry, there.get(picture))
    for folder in {folder for folder, _ in before} - {folder for folder, _ in now}:
        if (root / folder).is_dir() and not any((root / folder).iterdir()):
            (root / folder).rmdir()
    store.set_entries(now)
    return added


def _folder(root: Path, before: str, wanted: str) -> str:
    """The folder of a person, renamed where they have another name now."""
    if not before or before == wanted or not (root / before).is_dir():
        return before if before and (root / before).is_dir() else wanted
    if (root / wanted).exists():
        return before
    (root / before).rename(root / wanted)
    return wanted


def _free(folder: Path, path: Path) -> tuple[str, bool]:
    """The name of a picture in a folder, and whether it still has to be put there."""
    entry, number = path.name, 1
    while (folder / entry).is_symlink() or (folder / entry).exists():
        if _same(folder / entry, path):
            return entry, False
        entry = f"{path.stem}-{number}{path.suffix}"
        number += 1
    return entry, True


def _put(entry: Path, path: Path, how: Literal["link", "copy"]) -> None:
    if how == "link":
        entry.symlink_to(os.path.relpath(path.resolve(), entry.parent.resolve()))
    else:
        shutil.copy2(path, entry)


def _same(entry: Path, path: Path) -> bool:
    if entry.is_symlink():
        return entry.resolve() == path.resolve()
    return entry.is_file() and path.is_file() and filecmp.cmp(entry, path, shallow=False)


def _take_away(entry: Path, path: Path | None) -> None:
    """Remove what was put there; a copy only while its picture is still there, or it would be the
    last one."""
    if entry.is_symlink() or (path is not None and _same(entry, path)):
        entry.unlink()
