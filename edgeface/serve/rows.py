"""People and changes as plain JSON types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from edgeface.gallery import Kind, Person, Sample
from edgeface.serve.service import Service
from edgeface.sightings import Change
from edgeface.sightings.visits import Visits, visits
from edgeface.types import timestamp

Answer = dict[str, Any]
ALIKE = 3  # people that somebody is said to resemble
NEAR = 0.1  # cosine below the threshold of a name at which it is still asked about


def change_row(change: Change) -> Answer:
    """A change as plain JSON types."""
    return {
        "id": change.id,
        "ts": timestamp(datetime.fromtimestamp(change.at, UTC)),
        "action": change.action,
        "count": change.count,
        "undone": change.undone,
    }


def person_row(person: Person, seen: Visits | None) -> Answer:
    """A person and their visits."""
    return {
        "id": person.id,
        "name": person.name,
        "kind": str(person.kind),
        "group": person.group,
        "samples": person.n_samples,
        "created": timestamp(datetime.fromtimestamp(person.created, UTC)),
        "visits": (seen or Visits()).to_dict(),
    }


def whole_row(service: Service, person: Person) -> Answer:
    """A person with the known people whom they resemble, and what it would need."""
    row = person_row(person, visits(service.store, person.id).get(person.id))
    needs = service.identifier.threshold
    rows = [s.embedding for s in service.gallery.samples(person.name)]
    best: dict[int, Any] = {}
    for matches in service.gallery.search_many(rows[:50], ALIKE + 1, kind=Kind.KNOWN):
        for match in matches:
            if match.person_id != person.id:
                held = best.get(match.person_id)
                if held is None or match.similarity > held.similarity:
                    best[match.person_id] = match
    different = service.gallery.different_from(person.id)
    alike = [
        {
            "id": match.person_id,
            "name": match.name,
            "similarity": round(match.similarity, 4),
            "threshold": needs.value,
            "near": match.similarity >= needs.value - NEAR,
            "different": match.person_id in different,
        }
        for match in sorted(best.values(), key=lambda m: -m.similarity)[:ALIKE]
    ]
    return row | {"resembles": alike}


def sample_row(sample: Sample) -> Answer:
    """A sample, without its picture."""
    return {
        "id": sample.id,
        "quality": None if sample.quality is None else round(sample.quality, 4),
        "provenance": str(sample.provenance),
        "source": sample.source,
        "created": timestamp(datetime.fromtimestamp(sample.created, UTC)),
        "image": sample.crop is not None,
    }
