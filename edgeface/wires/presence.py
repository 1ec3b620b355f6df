"""Who is before a camera now, told from its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeface.wires.reader import Event

LONGEST = 255  # characters of a state that Home Assistant takes
NOBODY, STRANGER = "nobody", "stranger"


class Presence:
    """The tracks of one camera that are there. Those of an earlier run are gone: a process that
    was killed told nobody that they were lost."""

    def __init__(self) -> None:
        self._run = ""
        self._tracks: dict[int, Event] = {}

    def take(self, event: Event) -> None:
        """Note an event of a face."""
        if event["run"] != self._run:
            self._run, self._tracks = event["run"], {}
        if event["event"] == "lost":
            self._tracks.pop(event["track"], None)
        else:
            self._tracks[event["track"]] = event

    def known(self, names: Mapping[int, str]) -> list[str]:
        """The known people who are there, by their names of now."""
        here = [e for e in self._tracks.values() if e["kind"] == "known"]
        return sorted({names.get(e["person_id"], e["name"]) for e in here})

    @property
    def strangers(self) -> int:
        """How many faces are there that are nobody's we know; poor looks don't count."""
        return sum(e["status"] in {"stranger", "unknown"} for e in self._tracks.values())

    def state(self, names: Mapping[int, str]) -> str:
        """In a word: the names, `stranger`, or `nobody`."""
        text = ", ".join(self.known(names)) or (STRANGER if self.strangers else NOBODY)
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

    def attributes(self, names: Mapping[int, str]) -> dict[str, Any]:
        """In full."""
        return {"known": self.known(names), "strangers": self.strangers}
