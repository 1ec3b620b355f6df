"""Files that are either the old ones or the new ones, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgeface.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: of two writers at once, the last one wins
    fcntl = None  # type: ignore[assignment]

PRIVATE = 0o600  # faces and names are for their owner, who may open a file to others afterwards
_LONGEST = 255  # bytes of a file name


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Write `path` as a whole: `with replacing(path) as file: file.write(...)`.

    What is written lands beside `path` and takes its place when the block ends; if the block raises
    or the process dies, `path` stays as it was. The new content is on the disk when the block has
    ended. The file may be read and written by its owner alone, unless one that was there before
    had other permissions; these stay. A symbolic link stays, its target is replaced. Writers of one
    path take turns.

    Raises:
        OutputError: the file cannot be written; whatever `OSError` the block raises counts.
    """
    with _claimed(path) as (descriptor, _), os.fdopen(os.dup(descriptor), "wb") as file:
        yield file


@contextmanager
def replacing_by_name(path: str | Path) -> Iterator[Path]:
    """`replacing` for libraries that open files themselves: gives the name to write to, which has
    the suffix of `path`. It is an empty file that must be written in place, not replaced."""
    with _claimed(path) as (_, partial):
        yield partial


def partial_of(path: str | Path) -> Path:
    """Where `replacing` writes. A process that was killed may leave this file behind; the next one
    that writes `path` takes it over."""
    target = _target(path)
    name = f".{target.stem}.part{target.suffix}"
    if len(os.fsencode(name)) > _LONGEST:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]
        suffix = target.suffix if len(os.fsencode(target.suffix)) < _LONGEST // 2 else ""
        name = f".{digest}.part{suffix}"
    return target.with_name(name)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with suppress(OSError):  # some network file systems and Windows cannot, and need not
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _claimed(path: str | Path) -> Iterator[tuple[int, Path]]:
    """The partial file of `path`, empty and ours alone, as an open descriptor and its name. It
    takes the place of `path` when the block ends."""
    try:
        target, partial = _target(path), partial_of(path)
        permissions = _permissions(target)
        descriptor = _claim(partial)
        try:
            if hasattr(os, "fchmod"):  # not on Windows
                os.fchmod(descriptor, permissions)
            yield descriptor, partial
            os.fsync(descriptor)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        sync_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OutputError(
            f"{path} cannot be written ({reason}): check that its folder exists, may be written to "
            "and has free space"
        ) from error


def _claim(partial: Path) -> int:
    """Open `partial` for writing, empty; waits for another writer of it."""
    while True:
        descriptor = os.open(
            partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), PRIVATE
        )
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The writer we waited for has renamed its file; a file of that name would be a new one.
            if _same(descriptor, partial):
                os.ftruncate(descriptor, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _target(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _permissions(target: Path) -> int:
    """Those of the file that is there, else the owner's alone."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return PRIVATE
    if not stat.S_ISREG(mode):
        raise OutputError(f"{target} is not a file that can be replaced: name another")
    return stat.S_IMODE(mode)
