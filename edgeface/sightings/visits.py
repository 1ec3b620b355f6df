"""How often each person was there, before which cameras, and which pictures show them best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

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


def visits(store: Sightings) -> dict[int, Visits]:
    """The visits of everybody who was there, by the id of the person they are now."""
    with store.file.read() as execute:
        rows = execute(
            "SELECT coalesce(given, person) AS who, camera, count(*), min(first), max(last) "
            "FROM appearance WHERE who IS NOT NULL GROUP BY who, camera ORDER BY who, camera"
        )
        crops = execute(
            "SELECT who, appearance FROM (SELECT coalesce(a.given, a.person) AS who, c.appearance, "
            "row_number() OVER (PARTITION BY coalesce(a.given, a.person) "
            "ORDER BY c.quality DESC, c.appearance DESC) AS place "
            "FROM crop c JOIN appearance a ON a.id = c.appearance) "
            "WHERE who IS NOT NULL AND place <= ? ORDER BY who, place",
            (SHOWN,),
        )
    found: dict[int, Visits] = {}
    for who, camera, count, first, last in rows:
        person = store.residents.of(who)
        if person is None:
            continue
        had = found.get(person.id, Visits())
        begun, ended = datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC)
        found[person.id] = Visits(
            had.count + count,
            min(had.first or begun, begun),
            max(had.last or ended, ended),
            (*had.cameras, *({camera} - set(had.cameras))),
        )
    for who, appearance in crops:
        person = store.residents.of(who)
        if person is not None and person.id in found:
            had = found[person.id]
            found[person.id] = replace(had, images=(*had.images, appearance)[:SHOWN])
    return found
