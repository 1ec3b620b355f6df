"""The file beside a gallery that keeps its index, so that the next opening has it at once.

It may be deleted at any time. It is read only if it is, byte for byte, what the gallery says it
wrote: index libraries crash on damaged files, and answer wrongly from foreign ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edgeface.atomic import replacing_by_name
from edgeface.errors import GalleryError, OutputError
from edgeface.gallery.storage.tables import Tables

SETTING = "index"  # of the gallery: what the file holds


class IndexFile:
    """The index of the gallery at `path` (resolved). Its name holds the gallery's id, so that it is
    found when the gallery has another name."""

    def __init__(self, path: Path) -> None:
        self._gallery = path

    def read(self, tables: Tables, family: str) -> Future[Path | None]:
        """The file, None if there is none or it is not what was written last. It is compared in a
        thread of its own: the rows can be read meanwhile, which takes as long."""
        path = self.path(tables)
        stored = tables.setting(SETTING)

        def compare() -> Path | None:
            if path is None or not stored:
                return None
            try:
                return path if stored == _contents(path, family) else None
            except OSError:
                return None

        pool = ThreadPoolExecutor(1, "edgeface-index-file")
        try:
            return pool.submit(compare)
        finally:
            pool.shutdown(wait=False)

    def write(self, tables: Tables, family: str, save: Callable[[Path], None]) -> None:
        """Let `save` write the file, in a transaction that says so. OutputError if it cannot be."""
        path = self.path(tables)
        if path is not None:
            with replacing_by_name(path) as partial:
                _apart(save, partial)
                contents = _contents(partial, family)
            tables.set(SETTING, contents)

    def erase(self, tables: Tables) -> None:
        """Delete every index of this gallery in its folder, whatever the gallery was called, and
        what a killed process left of one. GalleryError if some of them cannot be."""
        path, failed = self.path(tables), []
        if path is None:
            return
        number = path.name.rpartition("-")[2]
        for file in path.parent.glob(f"*-index-{number}*"):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                failed.append(f"{file} ({error.strerror})")
        if failed:
            raise GalleryError(f"delete {', '.join(failed)}: it holds forgotten faces")

    def path(self, tables: Tables) -> Path | None:
        """Where the file is kept, None for a gallery whose id cannot be part of a name."""
        number = (tables.setting("uuid") or "")[:8]
        if not re.fullmatch("[0-9a-f]{8}", number):
            return None
        return self._gallery.with_name(f"{self._gallery.name}-index-{number}")


# Elsewhere there is no fork, or libraries of the system do not survive it.
_FORKS = sys.platform.startswith("linux")


def _apart(save: Callable[[Path], None], path: Path) -> None:
    """Let `save` write the file in a copy of this process, as hnswlib keeps Python's lock until it
    has written everything, and nobody could search meanwhile. The copy shares the memory, does
    nothing else, and is gone afterwards. OutputError when it fails."""
    child = None
    if _FORKS:
        try:
            with warnings.catch_warnings():
                # Other threads do not go on in the copy. Nothing here waits for one of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
        except OSError:  # no memory, or no more processes: write it here
            pass
    if child is None:
        save(path)
    elif child == 0:
        done = 1
        try:
            save(path)
            done = 0
        finally:
            os._exit(done)
    elif os.waitpid(child, 0)[1]:
        raise OutputError(f"{path} could not be written: check the disk and its free space")


def _contents(path: Path, family: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # in hardware
    return f"{family}:{path.stat().st_size}:{digest}"
