"""A folder for files that are not ready yet, gone when the block ends, whatever happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeface.atomic import partial_of
from edgeface.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: two at once are not told apart
    fcntl = None  # type: ignore[assignment]

PRIVATE = 0o700


@contextmanager
def staging(beside: Path, what: Path) -> Iterator[Path]:
    """An empty folder beside a path, which only its owner may open. One that a killed process left
    is taken over. Errors say that `what` cannot be written.

    Raises:
        OutputError: it cannot be made or written (whatever `OSError` the block raises counts), or
            another process uses it.
    """
    folder = partial_of(beside.with_name(f"{beside.name}.files"))
    try:
        folder.mkdir(PRIVATE, exist_ok=True)
        with _claimed(folder, what):
            try:
                _empty(folder)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OutputError(
            f"{what} cannot be written ({reason}): check that it may be written to and its disk "
            "has free space"
        ) from error


@contextmanager
def _claimed(folder: Path, what: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"{what} is being written by another process: wait for its end"
                ) from error
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
