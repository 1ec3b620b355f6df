"""The route of visits: who came, before which cameras, and who all of a visit's faces say it is."""

from __future__ import annotations

from typing import Any

from edgeface.decide import decide
from edgeface.gallery import Kind
from edgeface.serve.calls import Call
from edgeface.sightings import Appearance
from edgeface.sightings.joined import Visit, near, visits_of
from edgeface.types import timestamp

Answer = dict[str, Any]


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


def _visit(call: Call, visit: Visit[Appearance]) -> Answer:
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


def _by_sum(call: Call, found: list[Visit[Appearance]]) -> dict[int, Answer]:
    """What the faces of a visit say together, for those of several sightings of nobody known."""
    residents, identifier = call.service.store.residents, call.service.identifier
    gallery, limits = call.service.gallery, identifier.thresholds()
    margin = identifier.settings.rules.margin
    said: dict[int, Answer] = {}
    for index, visit in enumerate(found):
        person = residents.of(visit.person_id)
        unknown = person is None or person.kind is Kind.STRANGER
        if unknown and len(visit.rows) > 1 and visit.template is not None:
            others = set() if person is None else gallery.different_from(person.id)
            alike = near(gallery, visit.template, visit.templates)
            fit = [match for match in alike if match.person_id not in others]
            said[index] = decide(fit, limits.known, margin=margin).to_dict()
    return said
