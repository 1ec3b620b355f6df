"""A limit to how long an answer is waited for, where the network says nothing any more."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

ANSWER_SECONDS = 20.0  # how long one statement may take; far more than any search or change needs
ROW_SECONDS = 0.02
_LOOK_SECONDS = 0.5


class Watchdog:
    """Cuts the connections on which a statement takes too long, so that waiting for it ends as for
    a connection that broke. libpq itself waits without an end."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._due: dict[int, tuple[float, psycopg.Connection[Any]]] = {}
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, connection: psycopg.Connection[Any], rows: int = 1) -> Iterator[None]:
        """Watch over one statement for so many rows on a connection."""
        end = time.monotonic() + ANSWER_SECONDS + rows * ROW_SECONDS
        with self._lock:
            self._due[id(connection)] = end, connection
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="edgeface-watchdog", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._due.pop(id(connection), None)

    def stop(self) -> None:
        """End the watching."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            with self._lock:
                now = time.monotonic()
                for number, (end, connection) in list(self._due.items()):
                    if now > end:
                        del self._due[number]
                        self._cut(connection)

    def _cut(self, connection: psycopg.Connection[Any]) -> None:
        with (
            suppress(OSError, self._library.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as end,
        ):
            end.shutdown(socket.SHUT_RDWR)
