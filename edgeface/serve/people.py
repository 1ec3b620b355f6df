"""Routes about people: who is known, who was met, and who is who."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.responses import Response

from edgeface import images
from edgeface.enrolment import check_fit, one_face
from edgeface.errors import ImageError
from edgeface.gallery import Kind, Person
from edgeface.serve.answers import Refused
from edgeface.serve.calls import Call, bad, shown
from edgeface.serve.rows import change_row, person_row, sample_row, whole_row
from edgeface.sightings import Change
from edgeface.sightings.recorder import encode
from edgeface.sightings.visits import visits
from edgeface.types import Face

Answer = dict[str, Any]


def listed(call: Call) -> Answer:
    """GET people: everybody, or those of a kind or group, most visits first."""
    kind, group = call.query.get("kind"), call.query.get("group")
    if kind is not None and kind not in set(Kind):
        raise bad(f"kind is {kind[:50]!r}: use {', '.join(Kind)}", "kind")
    people = [
        p
        for p in call.service.gallery.people()
        if kind in (None, p.kind) and group in (None, p.group)
    ]
    seen = visits(call.service.store)
    rows = [person_row(p, seen.get(p.id)) for p in people]
    return {"people": sorted(rows, key=lambda r: (-r["visits"]["count"], r["id"]))}


def one(call: Call) -> Answer:
    """GET people/{id}: with whom they resemble."""
    person = _get(call)
    return whole_row(call.service, person)


def enrol(call: Call) -> tuple[Answer, int]:
    """POST people: pictures of one person under a name."""
    call.only("name", "group", "accept_poor")
    name, pictures, poor = call.name(), call.pictures(), call.body.get("accept_poor", "false")
    group = call.group()
    if poor not in ("true", "false"):
        raise bad(f"accept_poor is {shown(poor)}: true or false is needed", "accept_poor")
    service, faces, crops, skipped = (
        call.service,
        list[Face](),
        list[bytes | None](),
        list[Answer](),
    )
    sources: list[str | None] = []
    for number, picture in enumerate(pictures, 1):
        label = f"picture {number}"
        try:
            image = images.read(picture)
            with service.looking():
                face = one_face(service.describer, image, "require_one")
            if poor == "false":
                check_fit(face, label)
        except ImageError as error:
            skipped.append({"picture": label, "reason": str(error)})
            continue
        faces.append(face)
        crops.append(encode(image, face) if service.settings.crops else None)
        sources.append(label)
    if not faces:
        raise Refused(422, "bad_picture", skipped[0]["reason"], {"skipped": skipped})
    rows = np.stack([f.embedding for f in faces if f.embedding is not None])
    qualities = [f.quality for f in faces]
    person = service.gallery.enroll(name, rows, qualities=qualities, sources=sources, crops=crops)
    if group is not None:
        service.store.people.group(person.id, group)
        person = service.store.residents.get(person.id)
    return {"person": whole_row(call.service, person), "added": len(faces), "skipped": skipped}, 201


def changed(call: Call) -> Answer:
    """PATCH people/{id}: name, group, ignored. With `was` the name must be that one still: of two
    who rename somebody at once the later learns what the earlier did."""
    call.only("name", "group", "ignored", "was", "sightings")
    with call.service.changing:  # else two could both find the name they expect
        return _changed(call)


def _changed(call: Call) -> Answer:
    person, people = _get(call), call.service.store.people
    was = call.body.get("was")
    if was is not None and was != person.name:
        raise Refused(
            409, "changed_since", f"{shown(was)} is called {person.name!r} by now",
            {"person": whole_row(call.service, person)},
        )  # fmt: skip
    ignored, group = call.body.get("ignored"), call.group()
    if ignored is not None and not isinstance(ignored, bool):
        raise bad(f"ignored is {shown(ignored)}: true or false is needed", "ignored")
    name = call.name() if "name" in call.body else None
    changes: list[Change] = []
    number = person.id
    if name is not None and name != person.name:
        holder = next((p.id for p in call.service.gallery.people() if p.name == name), None)
        changes.append(people.name(number, name, call.ids("sightings")))
        if person.kind is Kind.STRANGER:
            _judged(call, number, holder is None, changes[-1])
        number = number if holder is None else holder
    if "group" in call.body:
        changes.append(people.group(number, group))
    if ignored is not None and ignored != (person.kind is Kind.IGNORED):
        changes.append(people.ignore(number, ignored))
    return {
        "person": whole_row(call.service, call.service.store.residents.get(number)),
        "changes": [change_row(c) for c in changes],
    }


def named(call: Call) -> Answer:
    """POST people/name: give the faces of some sightings of nobody a name."""
    call.only("name", "sightings")
    name, sightings = call.name(), call.ids("sightings", 1)
    call.there(sightings)
    there = any(p.name == name for p in call.service.gallery.people())
    change = call.service.store.people.name(None, name, sightings)
    person = call.service.gallery.person(name)
    if not there:
        _judged(call, person.id, True, change)
    return {"person": whole_row(call.service, person), "changes": [change_row(change)]}


def forgotten(call: Call) -> Response:
    """DELETE people/{id}: erase them, for good."""
    call.service.store.people.forget(_get(call).id)
    return Response(status_code=204)


def merged(call: Call) -> Answer:
    """POST people/merge: {into, others}."""
    call.only("into", "others")
    into, others = call.body.get("into"), call.ids("others", 1)
    if type(into) is not int:
        raise bad(f"into is {shown(into)}: a person's id is needed", "into")
    if into in others:
        raise bad("a person cannot be merged into themselves", "others")
    kinds = [_existing(call, number).kind for number in (into, *others)]
    changes = call.service.store.people.merge(into, others)
    for number, kind, change in zip(others, kinds[1:], changes, strict=True):
        if kind is Kind.STRANGER and kinds[0] is not Kind.STRANGER:
            _judged(call, number, False, change)
    return {
        "person": whole_row(call.service, _existing(call, into)),
        "changes": [change_row(c) for c in changes],
    }


def parted(call: Call) -> Answer:
    """POST people/{id}/split: some sightings, or samples, are somebody else."""
    call.only("sightings", "samples")
    person, sightings, samples = _get(call), call.ids("sightings"), call.ids("samples")
    if bool(sightings) == bool(samples):
        raise bad("give either sightings or samples", "sightings")
    call.there(sightings)
    change = call.service.store.people.split(person.id, sightings=sightings, samples=samples)
    return {"person": whole_row(call.service, _get(call)), "changes": [change_row(change)]}


def not_this(call: Call) -> Answer:
    """POST people/{id}/not-this: the face of some sightings, or somebody else, is not them, and
    never is. {sightings} or {person}"""
    call.only("sightings", "person")
    person, sightings, other = _get(call), call.ids("sightings"), call.body.get("person")
    if bool(sightings) == ("person" in call.body):
        raise bad("give either sightings or a person", "sightings")
    if sightings:
        changes = [_not_theirs(call, person, sightings)]
    elif type(other) is not int:
        raise bad(f"person is {shown(other)}: a person's id is needed", "person")
    elif other == person.id:
        raise bad("nobody is different from themselves", "person")
    elif _existing(call, other).id in call.service.gallery.different_from(person.id):
        changes = []
    else:
        changes = [call.service.store.people.different(person.id, other)]
    return {
        "person": whole_row(call.service, _get(call)),
        "changes": [change_row(c) for c in changes],
    }


def samples(call: Call) -> Answer:
    """GET people/{id}/samples: what they are recognised by."""
    person = _get(call)
    return {"samples": [sample_row(s) for s in call.service.gallery.samples(person.name)]}


def sample_image(call: Call) -> Response:
    """GET people/{id}/samples/{sample}/image: its picture, if one was kept."""
    wanted = int(call.path["sample"])
    for sample in call.service.gallery.samples(_get(call).name):
        if sample.id == wanted and sample.crop is not None:
            return Response(sample.crop, media_type="image/jpeg")
    raise Refused(404, "no_image", f"no picture of sample {wanted} is kept")


def history(call: Call) -> Answer:
    """GET history: the newest changes."""
    found = call.service.store.people.history(call.number("limit", 20, 1, 1000))
    return {"changes": [change_row(c) for c in found]}


def undone(call: Call) -> Answer:
    """POST history/{id}/undo."""
    return {"change": change_row(call.service.store.people.undo(int(call.path["id"])))}


def _not_theirs(call: Call, person: Person, sightings: list[int]) -> Change:
    """Say of sightings, taken for a person or for nobody, that they are not the person's."""
    rows = call.there(sightings)
    for row in rows:
        if row.person_id not in (person.id, None):
            raise Refused(409, "changed_since", f"sighting {row.id} is of {row.name!r} by now",
                          {"sighting": row.to_dict()})  # fmt: skip
    change = call.service.store.people.not_this(person.id, sightings)
    for row in rows:
        call.service.outcomes.not_this(row, change)
    return change


def _judged(call: Call, person: int, new: bool, change: Change) -> None:
    """A stranger is somebody `new`, or somebody who was known before."""
    outcomes = call.service.outcomes
    if new:
        outcomes.named(person, call.service.identifier.thresholds().known, change)
    else:
        outcomes.was_known(person, change)


def _get(call: Call) -> Person:
    return _existing(call, int(call.path["id"]))


def _existing(call: Call, number: int) -> Person:
    person = call.service.store.residents.of(number)
    if person is None:
        raise Refused(404, "no_person", f"nobody has the id {number}", {"id": number})
    return person
