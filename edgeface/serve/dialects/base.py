"""What the dialects share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgeface import images
from edgeface.describe import CONFIDENT
from edgeface.gallery import Kind, Person
from edgeface.serve import people
from edgeface.serve.answers import Refused
from edgeface.serve.calls import Call
from edgeface.types import Face, Sighting, Status
from edgeface.wires.confidence import confidence

Answer = dict[str, Any]
Handler = Callable[[Call], Any]
Body = Literal["json", "form", "fields"] | None
Route = tuple[str, str, Handler, Body]  # method, address, what answers, and what the body is

# Where these programs by default draw the line between a face and none.
AT_CONFIDENT = 0.8


@dataclass(frozen=True, slots=True)
class Dialect:
    """The interface of another service."""

    name: str
    prefix: str  # of its addresses, and of no other
    routes: tuple[Route, ...]
    asking: frozenset[str]  # addresses of POST that change nothing
    error: Callable[[Refused], Answer]  # what the body says when something fails
    header: str | None = None  # that may hold the token
    field: str | None = None  # of the form that may hold the token


def identified(call: Call, key: str) -> tuple[list[Sighting], tuple[int, int]]:
    """Who is in the picture of a field, and its width and height. Those who are to be ignored are
    left out: these programs announce everybody."""
    image, service = images.read(call.pictures(key, most=1)[0]), call.service
    with service.looking():
        found = service.identifier.identify(image)
    told = [s for s in found if s.decision.status is not Status.IGNORED]
    return told, (image.shape[1], image.shape[0])


def detected(call: Call, key: str) -> tuple[list[Face], tuple[int, int]]:
    """The faces in the picture of a field, and its width and height."""
    image, service = images.read(call.pictures(key, most=1)[0]), call.service
    with service.looking():
        found = service.identifier.faces(image)
    return found, (image.shape[1], image.shape[0])


def probability(face: Face) -> float:
    """How sure it is that this is a face, as a number to show."""
    return confidence(face.score, CONFIDENT, at=AT_CONFIDENT)


def corners(face: Face, size: tuple[int, int]) -> dict[str, int]:
    """The box of a face in whole pixels of the picture."""
    low, high = np.zeros(4), np.array([*size, *size])
    x1, y1, x2, y2 = (int(v) for v in np.clip(np.rint(face.box), low, high))
    return {"x_min": x1, "y_min": y1, "x_max": x2, "y_max": y2}


def known(call: Call) -> list[Person]:
    """The people whom these programs may know of."""
    found = [p for p in call.service.gallery.people() if p.kind is Kind.KNOWN]
    return sorted(found, key=lambda person: person.id)


def holder(call: Call, name: str) -> Person | None:
    """The known person of a name."""
    return next((p for p in known(call) if p.name == name), None)


def enrol(call: Call, name: str, pictures: list[bytes]) -> None:
    """Pictures of one person under a name, as the interface of edgeface's own takes them.

    Raises:
        Refused: `no_face` or `several_faces`, if it is that; else as `people.enrol` does.
    """
    own = Call(call.service, {}, {}, {"name": name}, {"picture": pictures})
    try:
        people.enrol(own)
    except Refused as refused:
        if refused.code != "bad_picture":
            raise
        with call.service.looking():
            count = len(call.service.identifier.faces(pictures[0]))
        if count == 1:
            raise
        code = "several_faces" if count else "no_face"
        raise Refused(400, code, refused.message) from refused
