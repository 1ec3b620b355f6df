"""Routes that look at uploaded pictures and change nothing."""

from __future__ import annotations

from typing import Any

from edgeface import images
from edgeface.serve.calls import Call, bad
from edgeface.types import Face, Sighting

Answer = dict[str, Any]
NEAREST = 3  # people told of per face, named or not


def identified(call: Call) -> Answer:
    """POST identify: who is in a picture, every face with the nearest people and their numbers."""
    call.only()
    (picture,) = call.pictures(most=1)
    image, service = images.read(picture), call.service
    with service.looking():
        found = service.identifier.identify(image)
    rows = [{**_face(s.face), **_decision(s), "nearest": _nearest(call, s.face)} for s in found]
    return {"size": [image.shape[1], image.shape[0]], "faces": rows}


def detected(call: Call) -> Answer:
    """POST detect: the faces of a picture, without looking at who they are."""
    call.only()
    (picture,) = call.pictures(most=1)
    image, service = images.read(picture), call.service
    with service.looking():
        found = service.identifier.faces(image)
    return {"size": [image.shape[1], image.shape[0]], "faces": [_face(f) for f in found]}


def verified(call: Call) -> Answer:
    """POST verify: whether the largest faces of two pictures are the same person."""
    call.only()
    a, b = (call.pictures(key, most=1)[0] for key in ("a", "b"))
    with call.service.looking():
        found = call.service.identifier.verify(a, b)
    return {
        "same": found.same,
        "similarity": round(found.similarity, 4),
        "threshold": found.threshold.value,
        "threshold_origin": found.threshold.origin,
    }


def ever(call: Call) -> Answer:
    """POST sightings/search: whether the face of a picture was ever here."""
    call.only()
    (picture,) = call.pictures(most=1)
    service = call.service
    with service.looking():
        faces = service.identifier.faces(picture)
    if not faces or faces[0].embedding is None:
        raise bad("no face found in the picture", "picture")
    limit = service.identifier.threshold
    found = service.store.ever_here(
        faces[0].embedding, limit.value, call.number("limit", 10, 1, 200)
    )
    rows = [row.to_dict() | {"resemblance": round(value, 4)} for row, value in found]
    return {"threshold": limit.value, "threshold_origin": limit.origin, "sightings": rows}


def _face(face: Face) -> Answer:
    return {
        "box": [round(float(v), 1) for v in face.box],
        "landmarks": [[round(float(v), 1) for v in point] for point in face.landmarks],
        "score": round(face.score, 4),
        "quality": round(face.quality, 4) if face.quality == face.quality else None,
    }


def _decision(sighting: Sighting) -> Answer:
    return sighting.decision.to_dict()


def _nearest(call: Call, face: Face) -> list[Answer]:
    if face.embedding is None:
        return []
    return [
        {
            "person_id": m.person_id,
            "name": m.name,
            "kind": str(m.kind),
            "similarity": round(m.similarity, 4),
        }
        for m in call.service.gallery.search(face.embedding, NEAREST)
    ]
