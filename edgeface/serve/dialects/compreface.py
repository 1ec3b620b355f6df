"""The recognition service of CompreFace, after its `docs/Rest-API-description.md`."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote
from uuid import UUID

from edgeface.gallery import Kind
from edgeface.gallery.records import check_name
from edgeface.serve.answers import Refused
from edgeface.serve.calls import Call, bad
from edgeface.serve.dialects.base import (
    Answer,
    Dialect,
    corners,
    enrol,
    holder,
    identified,
    known,
    probability,
)
from edgeface.types import Sighting, Status
from edgeface.wires.confidence import confidence

# Error codes of CompreFace (CommonExceptionCode.java) by ours; UNDEFINED is the rest.
CODES = {
    "no_token": 20, "wrong_token": 10, "wrong_scope": 32, "no_face": 28, "several_faces": 31,
    "bad_picture": 21, "bad_name": 26, "bad_argument": 33, "too_large": 21,
}  # fmt: skip
UNDEFINED = 0
NO_FACE = "No face is found in the given image"


def recognize(call: Call) -> Answer:
    """POST recognize: every face with the people who resemble it most."""
    limit, count = call.number("limit", 0, 0, 1000), call.number("prediction_count", 1, 1, 100)
    least, plugins = _share(call, "det_prob_threshold"), call.query.get("face_plugins", "")
    found, size = identified(call, "file")
    sure = [s for s in found if probability(s.face) >= least]
    if not sure:
        raise Refused(400, "no_face", NO_FACE)
    rows: list[Answer] = []
    for sighting in sure[: limit or None]:
        row: Answer = {
            "box": {"probability": probability(sighting.face), **corners(sighting.face, size)},
            "subjects": _subjects(call, sighting, count),
        }
        if "landmarks" in plugins.split(","):
            row["landmarks"] = [[round(float(v)) for v in p] for p in sighting.face.landmarks]
        rows.append(row)
    answer: Answer = {"result": rows}
    if call.query.get("status", "").lower() == "true":
        model = call.service.describer.embedder.card.name
        answer["plugins_versions"] = {"detector": "edgeface", "calculator": model}
    return answer


def _subjects(call: Call, sighting: Sighting, count: int) -> list[Answer]:
    """The nearest known people. Only who is a match comes to the number of a match."""
    decision, embedding = sighting.decision, sighting.face.embedding
    if embedding is None:
        return []
    near = [m for m in call.service.gallery.search(embedding, count + 8) if m.kind is Kind.KNOWN]
    matched = decision.person_id if decision.status is Status.MATCH else None
    rows: list[tuple[bool, Answer]] = []
    for match in near:
        own = match.person_id == matched
        status = Status.MATCH if own else Status.UNKNOWN
        number = confidence(match.similarity, decision.threshold.value, status)
        rows.append((own, {"subject": match.name, "similarity": number}))
    rows.sort(key=lambda row: (not row[0], -row[1]["similarity"]))
    return [row for _, row in rows[:count]]


def add(call: Call) -> tuple[Answer, int]:
    """POST faces?subject=: a picture of one face."""
    name = _name(call.query.get("subject"))
    enrol(call, name, call.pictures("file", most=1))
    person = holder(call, name)
    newest = call.service.gallery.samples(name)[-1].id
    return {"image_id": _uuid(newest), "subject": name if person is None else person.name}, 201


def faces(call: Call) -> Answer:
    """GET faces: the samples of everybody, or of one subject, in pages."""
    page, size = call.number("page", 0, 0, 1_000_000), call.number("size", 20, 1, 1000)
    only = call.query.get("subject")
    rows = [
        {"image_id": _uuid(sample.id), "subject": person.name}
        for person in known(call)
        if only in (None, person.name)
        for sample in call.service.gallery.samples(person.name)
    ]
    return {
        "faces": rows[page * size : (page + 1) * size],
        "page_number": page,
        "page_size": size,
        "total_pages": -(-len(rows) // size),
        "total_elements": len(rows),
    }


def delete_faces(call: Call) -> Answer:
    """DELETE faces?subject=: erase one person. Everybody at once is never erased from here."""
    return {"deleted": _forget(call, _name(call.query.get("subject")))}


def subjects(call: Call) -> Answer:
    """GET subjects: whom it knows."""
    return {"subjects": [person.name for person in known(call)]}


def rename(call: Call) -> Answer:
    """PUT subjects/{subject}: another name; if somebody has it, they become one person."""
    call.only("subject")
    person, name = holder(call, unquote(str(call.path["subject"]))), call.name("subject")
    if person is None:
        return {"updated": False}
    if name != person.name:
        call.service.store.people.name(person.id, name)
    return {"updated": True}


def delete_subject(call: Call) -> Answer:
    """DELETE subjects/{subject}: erase a person."""
    name = unquote(str(call.path["subject"]))
    if not _forget(call, name):
        raise Refused(404, "no_person", f"Subject {name[:100]} not found")
    return {"subject": name}


def _forget(call: Call, name: str) -> int:
    person = holder(call, name)
    if person is None:
        return 0
    count = len(call.service.gallery.samples(person.name))
    call.service.store.people.forget(person.id)
    return count


def _name(text: str | None) -> str:
    if text is None:
        raise bad("Required request parameter 'subject' is not present", "subject")
    return check_name(text)


def _share(call: Call, key: str) -> float:
    text = call.query.get(key, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise bad(f"{key} is {text[:50]!r}: give 0 to 1", key)
    return value


def _uuid(sample: int) -> str:
    """A sample's id in the form that these programs expect."""
    return str(UUID(int=sample, version=4))


def _error(refused: Refused) -> dict[str, Any]:
    return {"message": refused.message, "code": CODES.get(refused.code, UNDEFINED)}


PREFIX = "/api/v1/recognition"
DIALECT = Dialect(
    "compreface",
    PREFIX,
    (
        ("POST", f"{PREFIX}/recognize", recognize, "form"),
        ("POST", f"{PREFIX}/faces", add, "form"),
        ("GET", f"{PREFIX}/faces", faces, None),
        ("DELETE", f"{PREFIX}/faces", delete_faces, None),
        ("GET", f"{PREFIX}/subjects", subjects, None),
        ("GET", f"{PREFIX}/subjects/", subjects, None),
        ("PUT", f"{PREFIX}/subjects/{{subject}}", rename, "json"),
        ("DELETE", f"{PREFIX}/subjects/{{subject}}", delete_subject, None),
    ),
    asking=frozenset({f"{PREFIX}/recognize"}),
    error=_error,
    header="x-api-key",
)
