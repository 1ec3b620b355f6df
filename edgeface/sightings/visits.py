"""How often each person was there, before which cameras, and which pictures show them best."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from edgeface.sightings.rows import WHO
from edgeface.sightings.store import Sightings
from edgeface.types import timestamp

SHOWN = 4  # pictures of each person


@dataclass(frozen=True, slots=True)
class Visits:
    """The appearances of one person: how many, the `first` and the `last` (UTC), the `cameras`, and
    the ids of those with the best pictures, best first."""

    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    cameras: tuple[str, ...] = ()
    images: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "count": self.count,
            "first": None if self.first is None else timestamp(self.first),
            "last": None if self.last is None else timestamp(self.last),
            "cameras": list(self.cameras),
            "images": list(self.images),
        }


def visits(store: Sightings, person: int | None = None) -> dict[int, Visits]:
    """The visits of everybody who was there, or of one person, by the id of who they are now."""
    now = store.residents.now()
    which, values = f"{WHO} IS NOT NULL", tuple[str, ...]()
    if person is not None:
        which = f"{WHO} IN ({{among}})"
        values = (json.dumps(store.residents.ids(person=person)),)
    with store.file.read() as execute:
        rows = execute(
            f"SELECT {WHO}, camera, count(*), min(first), max(last) FROM appearance "
            f"WHERE {which} GROUP BY {WHO}, camera ORDER BY camera",
            values,
        )
        crops = execute(
            "SELECT who, id FROM (SELECT a.who, a.id, c.quality, row_number() OVER (PARTITION BY "
            f"a.who ORDER BY c.quality DESC, a.id DESC) AS place FROM (SELECT {WHO} AS who, id "
            f"FROM appearance WHERE {which}) a JOIN crop c ON c.appearance = a.id) b "
            f"WHERE place <= {SHOWN} ORDER BY quality DESC, id DESC",
            values,
        )
    found: dict[int, Visits] = {}
    for held, camera, count, first, last in rows:
        who = now.of(held)
        if who is None:
            continue
        had = found.get(who.id, Visits())
        begun, ended = datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC)
        found[who.id] = Visits(
            had.count + count,
            min(had.first or begun, begun),
            max(had.last or ended, ended),
            (*had.cameras, *({camera} - set(had.cameras))),
        )
    for held, appearance in crops:
        who = now.of(held)
        if who is not None and who.id in found:
            had = found[who.id]
            found[who.id] = replace(had, images=(*had.images, appearance)[:SHOWN])
    return found
