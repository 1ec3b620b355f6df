"""The log of events: what is told is in it first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import Cipher
from edgeface.sightings.rows import Execute, Rows

log = logging.getLogger(__name__)

_BODY = "event.body"  # what its values are sealed as


class EventLog:
    """Events in the order in which they were committed, and who is told of them afterwards."""

    def __init__(self, rows: Rows, cipher: Cipher) -> None:
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._rows, self._cipher = rows, cipher

    def write(
        self,
        execute: Execute,
        event: dict[str, Any],
        at: float,
        appearance: int | None,
        person: int | None,
    ) -> None:
        """Write an event of the Unix time `at` in the open transaction."""
        text = json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")
        body = self._cipher.seal(text, _BODY, event["id"])
        execute(
            "INSERT INTO event (id, at, appearance, person, body) VALUES (?, ?, ?, ?, ?)",
            (event["id"], at, appearance, person, body),
        )

    def tell(self, event: dict[str, Any]) -> None:
        """Call the listeners with an event that has been committed."""
        for listener in tuple(self.listeners):
            try:
                listener(event)
            except Exception as error:  # who listens is not to stop a camera
                log.error("a listener failed: %s", error)

    def after(self, number: str | None, limit: int) -> list[dict[str, Any]]:
        """See `Sightings.events`."""
        with self._rows.read() as execute:
            start = 0
            if number is not None:
                found = execute("SELECT seq FROM event WHERE id = ?", (number,))
                if not found:
                    raise GalleryError(f"no event {number!r} in the log: it expired, or never was")
                start = found[0][0]
            rows = execute(
                "SELECT id, body FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (start, limit)
            )
        return [json.loads(self._cipher.unseal(body, _BODY, i)) for i, body in rows]

    def newest(self) -> str | None:
        """See `Sightings.newest`."""
        with self._rows.read() as execute:
            rows = execute("SELECT id FROM event ORDER BY seq DESC LIMIT 1")
        return rows[0][0] if rows else None
