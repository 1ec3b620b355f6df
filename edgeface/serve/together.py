"""The route of visits: who came, before which cameras, and who all of a visit's faces say it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from edgeface.decide import decide
from edgeface.gallery import Gallery, Kind
from edgeface.serve.calls import Call
from edgeface.sightings.joined import Visit, fused, visits_of
from edgeface.types import Array, Match, timestamp

Answer = dict[str, Any]
NEAREST = 3  # people compared; the second sets the margin


def visits(call: Call) -> Answer:
    """GET visits: those of the newest sightings, newest first."""
    service = call.service
    page = service.store.rows(
        since=call.moment("since"),
        until=call.moment("until"),
        limit=call.number("limit", 200, 1, 1000),
    )
    found = visits_of(page.rows, service.identifier.thresholds().stranger.value)
    sums = _by_sum(call, found)
    return {"visits": [_visit(call, v) | {"sum": sums.get(i)} for i, v in enumerate(found)]}


def _visit(call: Call, visit: Visit) -> Answer:
    person = call.service.store.residents.of(visit.person_id)
    return {
        "first": timestamp(visit.first),
        "last": timestamp(visit.last),
        "cameras": list(dict.fromkeys(row.camera for row in visit.rows)),
        "sightings": [row.id for row in visit.rows],
        "images": [row.id for row in visit.rows if row.has_crop],
        "person_id": None if person is None else person.id,
        "name": None if person is None else person.name,
        "kind": None if person is None else str(person.kind),
    }


def _by_sum(call: Call, found: list[Visit]) -> dict[int, Answer]:
    """What the faces of a visit say together, for those of several sightings of nobody known."""
    residents, identifier = call.service.store.residents, call.service.identifier
    gallery, limits = call.service.gallery, identifier.thresholds()
    margin = identifier.settings.rules.margin
    said: dict[int, Answer] = {}

    @cache
    def samples(name: str) -> Array:
        return np.stack([sample.embedding for sample in gallery.samples(name)])

    for index, visit in enumerate(found):
        person = residents.of(visit.person_id)
        unknown = person is None or person.kind is Kind.STRANGER
        if unknown and len(visit.rows) > 1 and visit.template is not None:
            others = set() if person is None else gallery.different_from(person.id)
            near = [m for m in _near(gallery, visit, samples) if m.person_id not in others]
            said[index] = decide(near, limits.known, margin=margin).to_dict()
    return said


def _near(gallery: Gallery, visit: Visit, samples: Callable[[str], Array]) -> list[Match]:
    """The known people whom a visit resembles most: of those whom its faces together or one of its
    sightings resemble most, as all of these together do."""
    assert visit.template is not None
    asked = np.concatenate([visit.template[None], visit.templates])
    found = gallery.search_many(asked, NEAREST, kind=Kind.KNOWN)
    people = {match.person_id: match for matches in found for match in matches}
    near = [
        replace(
            match,
            similarity=float(fused(visit.template, visit.templates, samples(match.name)).max()),
        )
        for match in people.values()
    ]
    return sorted(near, key=lambda match: -match.similarity)
