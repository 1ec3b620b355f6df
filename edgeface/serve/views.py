"""Routes about cameras and what they saw."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response, StreamingResponse

from edgeface.cameras import Camera, CameraSpec
from edgeface.errors import ArgumentError, GalleryError
from edgeface.gallery import Kind
from edgeface.serve.answers import Refused
from edgeface.serve.calls import Call, bad, shown
from edgeface.serve.preview import BOUNDARY

Answer = dict[str, Any]
PREVIEWS = 6  # streams at once


def cameras(call: Call) -> Answer:
    """GET cameras."""
    return {"cameras": [_camera(call, c) for c in call.service.cameras]}


def camera(call: Call) -> Answer:
    """GET cameras/{name}."""
    return _camera(call, _get(call))


def added(call: Call) -> tuple[Answer, int]:
    """POST cameras: watch another. Whether it answers, its state says."""
    call.only("name", "source", "every")
    spec = _spec(call, {})
    if spec.name in {c.spec.name for c in call.service.cameras}:
        raise Refused(409, "exists", f"there is a camera {spec.name!r} already")
    return _camera(call, call.service.add_camera(spec)), 201


def changed(call: Call) -> Answer:
    """PATCH cameras/{name}."""
    call.only("name", "source", "every")
    spec = _ours(call).spec
    had = {"name": spec.name, "source": spec.source, "every": spec.every}
    new = _spec(call, had)
    if new.name != spec.name and new.name in {c.spec.name for c in call.service.cameras}:
        raise Refused(409, "exists", f"there is a camera {new.name!r} already")
    return _camera(call, call.service.change_camera(spec.name, new))


def removed(call: Call) -> Response:
    """DELETE cameras/{name}."""
    call.service.remove_camera(_ours(call).spec.name)
    return Response(status_code=204)


def state(call: Call) -> Answer:
    """GET cameras/{name}/state: also who is before it now, for boxes over its picture."""
    found = _get(call)
    shot = found.snapshot()
    faces = [] if shot is None else [_box(s.to_dict()) for s in shot.sightings]
    return _camera(call, found) | {"faces": faces}


def snapshot(call: Call) -> Response:
    """GET cameras/{name}/snapshot.jpg: its newest frame."""
    found = _get(call)
    shot = found.snapshot()
    if shot is None:
        raise Refused(503, "no_frame", f"{found.spec.name} has sent no frame yet",
                      found.state().to_dict())  # fmt: skip
    return Response(call.service.stills.jpeg(found, shot), media_type="image/jpeg")


def preview(call: Call) -> Response:
    """GET cameras/{name}/preview.mjpeg: moving pictures."""
    if call.service.stills.watching >= PREVIEWS:
        raise Refused(503, "busy", f"{PREVIEWS} previews are open: close one")
    parts = call.service.stills.mjpeg(_get(call), lambda: call.service.feed.ended)
    return StreamingResponse(parts, media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")


def events(call: Call) -> Answer:
    """GET events, as JSON: a page of the log from its oldest event, or from `after` on."""
    after = call.query.get("after")
    try:
        found = call.service.store.events(after, call.number("limit", 100, 1, 1000))
    except GalleryError as error:
        if error.__cause__ is not None:
            raise
        raise Refused(404, "no_event", str(error), {"after": after}) from error
    return {"events": found, "after": found[-1]["id"] if found else after}


def sightings(call: Call) -> Answer:
    """GET sightings: newest first."""
    who, kind = call.query.get("person"), call.query.get("kind")
    if kind is not None and kind != "unknown" and kind not in set(Kind):
        raise bad(f"kind is {kind[:50]!r}: use {', '.join(Kind)} or unknown", "kind")
    try:
        page = call.service.store.rows(
            person=None if who is None else call.person(who),
            camera=call.query.get("camera"),
            kind=kind,
            since=call.moment("since"),
            until=call.moment("until"),
            cursor=call.query.get("cursor"),
            limit=call.number("limit", 50, 1, 500),
        )
    except GalleryError as error:
        if error.__cause__ is not None:
            raise
        raise bad(str(error), "cursor") from error
    return {"sightings": [row.to_dict() for row in page.rows], "cursor": page.cursor}


def sighting(call: Call) -> Answer:
    """GET sightings/{id}."""
    (row,) = call.there([int(call.path["id"])])
    return row.to_dict()


def image(call: Call) -> Response:
    """GET sightings/{id}/image: the best picture of it."""
    (row,) = call.there([int(call.path["id"])])
    data = call.service.store.crop(row.id)
    if data is None:
        raise Refused(404, "no_image", f"no picture of sighting {row.id} is kept (any more)")
    return Response(data, media_type="image/jpeg")


def _get(call: Call) -> Camera:
    try:
        return call.service.cameras[call.path["name"]]
    except ArgumentError as error:
        raise Refused(404, "no_camera", str(error)) from error


def _ours(call: Call) -> Camera:
    found = _get(call)
    if call.service.is_fixed(found.spec.name):
        raise Refused(
            409, "in_settings", f"{found.spec.name!r} stands in the settings of the service: "
            "change it there and start again",
        )  # fmt: skip
    return found


def _spec(call: Call, had: Answer) -> CameraSpec:
    given = had | dict(call.body)
    for key in ("name", "source"):
        if not isinstance(given.get(key), str):
            raise bad(f"{key} is {shown(given.get(key))}: a text is needed", key)
    if type(given.get("every", 1)) is not int:
        raise bad(f"every is {shown(given['every'])}: a whole number is needed", "every")
    if "/" in given["name"]:
        raise bad("a camera's name is a part of its address: leave out the /", "name")
    return CameraSpec(given["name"].strip(), given["source"].strip(), given.get("every", 1))


def _camera(call: Call, found: Camera) -> Answer:
    row = found.state().to_dict()
    return row | {"every": found.spec.every, "in_settings": call.service.is_fixed(found.spec.name)}


def _box(row: Answer) -> Answer:
    keys = ("track", "box", "status", "kind", "name", "person_id", "similarity", "threshold")
    return {key: row[key] for key in keys}
