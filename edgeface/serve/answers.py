"""What is answered when something fails: one envelope, whatever it was."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeface.errors import (
    ArgumentError,
    CalibrationError,
    EdgefaceError,
    GalleryError,
    ImageError,
)

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Refused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """A request that is answered with an error: HTTP `status`, a `code` for programs, a `message`
    for people, and `details` that programs may need."""

    status: int
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


Form = Callable[[Refused], dict[str, Any]]


def envelope(refused: Refused, request_id: str, form: Form | None = None) -> Response:
    """The answer, in the `form` of another service where its address was asked."""
    if form is not None:
        return JSONResponse(form(refused), refused.status, headers=refused.headers)
    body = {
        "error": {
            "code": refused.code,
            "message": refused.message,
            "details": refused.details,
        },
        "request_id": request_id,
    }
    return JSONResponse(body, refused.status, headers=refused.headers)


_CODES = {
    400: ("bad_request", "the request cannot be read"),
    404: ("not_found", "there is nothing of this address; /v1/openapi.json lists what there is"),
    405: ("bad_method", "this address does not take that method"),
}


def as_refused(error: Exception) -> Refused:
    """What an exception is to the one who asked. What is a fault of ours is logged and not told."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        code, message = _CODES.get(error.status_code, ("bad_request", str(error.detail)))
        if error.status_code == 400:
            message = str(error.detail)
        return Refused(error.status_code, code, message, headers=dict(error.headers or {}))
    if _of_the_disk(error):
        log.error("%s", error)
        return Refused(503, "store_unavailable", f"people and sightings cannot be used: {error}")
    kinds: list[tuple[type[Exception], int, str]] = [
        (ImageError, 422, "bad_picture"),
        (ArgumentError, 400, "bad_argument"),
        (CalibrationError, 409, "not_possible"),
        (GalleryError, 409, "not_possible"),
    ]
    for kind, status, code in kinds:
        if isinstance(error, kind):
            return Refused(status, code, str(error))
    if isinstance(error, EdgefaceError):
        log.error("%s", error)
        return Refused(503, "not_available", str(error))
    log.error("a request failed", exc_info=error)
    return Refused(500, "internal", "the service failed at this; its log says how")


def _of_the_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, sqlite3.Error | OSError):
            return True
        if type(error).__module__.partition(".")[0] == "psycopg":  # which need not be there
            return True
        error = error.__cause__
    return False


async def on_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of exceptions."""
    scope = request.scope
    number = scope.get("edgeface.request_id", "")
    return envelope(as_refused(error), number, scope.get("edgeface.form"))
