"""The faces of DeepStack, whose interface CodeProject.AI Server took over.

After DeepStack's server and `intelligencelayer/shared/face.py`, and CodeProject.AI's API reference.
"""

from __future__ import annotations

from edgeface.errors import ImageError
from edgeface.gallery.records import check_name
from edgeface.serve.answers import Refused
from edgeface.serve.calls import PICTURES, Call, bad, shown
from edgeface.serve.dialects.base import (
    Answer,
    Dialect,
    corners,
    detected,
    enrol,
    holder,
    identified,
    known,
    probability,
)
from edgeface.types import Status
from edgeface.wires.confidence import confidence

UNKNOWN = "unknown"


def detect(call: Call) -> Answer:
    """POST vision/face: where faces are."""
    least = _least(call)
    faces, size = detected(call, "image")
    rows = [{"confidence": probability(f), **corners(f, size)} for f in faces]
    return _done(predictions=[row for row in rows if row["confidence"] >= least])


def recognize(call: Call) -> Answer:
    """POST vision/face/recognize: whose they are; no faces are no predictions."""
    least = _least(call)
    found, size = identified(call, "image")
    rows = []
    for face, decision in ((s.face, s.decision) for s in found):
        status = decision.status if decision.status is Status.MATCH else Status.UNKNOWN
        number = confidence(decision.similarity, decision.threshold.value, status)
        name = decision.name if status is Status.MATCH and number >= least else UNKNOWN
        rows.append({"confidence": number, "userid": name, **corners(face, size)})
    return _done(predictions=rows)


def register(call: Call) -> Answer:
    """POST vision/face/register: pictures of one person, in the fields `image`, `image1` …"""
    pictures = [data for key, files in call.files.items() if key.startswith("image")
                for data in files]  # fmt: skip
    if not 0 < len(pictures) <= PICTURES:
        raise bad(f"{len(pictures)} pictures in the fields image, image1 …: send 1 to {PICTURES}",
                  "image")  # fmt: skip
    name = call.name("userid")
    message = "face added" if holder(call, name) is None else "face updated"
    try:
        enrol(call, name, pictures)
    except ImageError as error:
        raise bad(str(error), "image") from error
    return _done(message=message)


def listed(call: Call) -> Answer:
    """POST vision/face/list: whom it knows."""
    return _done(faces=[person.name for person in known(call)])


def delete(call: Call) -> Answer:
    """POST vision/face/delete: erase a person; one who is not known is no error."""
    person = holder(call, check_name(call.text("userid")))
    if person is not None:
        call.service.store.people.forget(person.id)
    return _done()


def _done(**content: object) -> Answer:
    return {"success": True, "code": 200, **content}


def _least(call: Call) -> float:
    text = call.body.get("min_confidence")
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise bad(f"min_confidence is {shown(text)}: give 0 to 1", "min_confidence")
    return value


def _error(refused: Refused) -> Answer:
    message = "no face detected" if refused.code == "no_face" else refused.message
    return {"success": False, "code": refused.status, "error": message}


PREFIX = "/v1/vision/face"
DIALECT = Dialect(
    "deepstack",
    PREFIX,
    (
        ("POST", PREFIX, detect, "fields"),
        ("POST", f"{PREFIX}/", detect, "fields"),
        ("POST", f"{PREFIX}/recognize", recognize, "fields"),
        ("POST", f"{PREFIX}/register", register, "fields"),
        ("POST", f"{PREFIX}/list", listed, "fields"),
        ("POST", f"{PREFIX}/delete", delete, "fields"),
    ),
    asking=frozenset({PREFIX, f"{PREFIX}/recognize", f"{PREFIX}/list"}),
    error=_error,
    field="api_key",
)
