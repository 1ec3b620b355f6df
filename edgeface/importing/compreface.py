"""The faces of a CompreFace service, read over its interface: it has no export.

`GET /api/v1/recognition/faces?page=&size=` lists them, `GET …/faces/{image_id}/img` gives a picture
(`docs/Rest-API-description.md` of CompreFace, from 0.6 on).
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from edgeface.document import LIMIT, Fields, parse
from edgeface.errors import ArgumentError, DataError, EdgefaceError, ImageError
from edgeface.importing.records import Found, Layout, Picture
from edgeface.redaction import redact

PAGE = 100  # faces listed at a time
MOST_PAGES = 100_000
LARGEST = 1 << 26  # bytes of a picture; CompreFace takes 5 MB
TIMEOUT = 30.0  # seconds


def compreface(address: str, key: str) -> Found:
    """The people of the face collection that an API key of a recognition service opens, at an
    address such as `http://127.0.0.1:8000`. Pictures are read when they are taken.

    Raises:
        ArgumentError: the address or the key is none.
        DataError: the service does not answer, refuses the key, answers something else, or its
            collection is empty.
    """
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise ArgumentError(f"{redact(address)} is no address: give http://HOST:PORT")
    if not key or not key.isascii() or not key.isprintable():
        raise ArgumentError("the key of CompreFace is empty or has strange characters")
    service = _Service(address.rstrip("/"), key)
    people: dict[str, list[Picture]] = {}
    page, pages = 0, 1
    while page < pages:
        listed = service.listed(page)
        pages = listed.whole("total_pages", 0, MOST_PAGES)
        for face in listed.objects("faces"):
            subject, number = face.text("subject"), face.text("image_id")
            label = f"{subject}/{number}"
            people.setdefault(subject, []).append(
                Picture(label, partial(service.picture, number, label))
            )
        page += 1
    if not people:
        raise DataError(f"the face collection at {redact(address)} is empty")
    return Found(Layout.COMPREFACE, {name: tuple(rows) for name, rows in sorted(people.items())})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key is for nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Service:
    def __init__(self, address: str, key: str) -> None:
        self.address, self._key = address, key
        self._opener = urllib.request.build_opener(_NoRedirect)

    def listed(self, page: int) -> Fields:
        """A page of the faces."""
        place = f"faces?page={page}&size={PAGE}"
        try:
            data = self._get(place, LIMIT, DataError)
        except urllib.error.HTTPError as error:
            error.close()
            advice = "check the key, which is of a recognition service" if error.code in (
                400, 401, 403, 404) else "see its log"  # fmt: skip
            raise DataError(f"{redact(self.address)} answers {error.code}: {advice}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise DataError(f"{redact(self.address)} does not answer: {reason}") from error
        return parse(data, Path(redact(f"{self.address}/api/v1/recognition/faces")), DataError)

    def picture(self, number: str, label: str) -> bytes:
        """The picture of a face; ImageError if there is none."""
        try:
            data = self._get(
                f"faces/{urllib.parse.quote(number, safe='')}/img", LARGEST, ImageError
            )
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise ImageError(f"{label} cannot be fetched: {error}; import again") from error
        if not data:
            raise ImageError(
                f"{label} has no picture: CompreFace keeps none where save_images_to_db is off"
            )
        return data

    def _get(self, place: str, limit: int, wrong: type[EdgefaceError]) -> bytes:
        request = urllib.request.Request(
            f"{self.address}/api/v1/recognition/{place}", headers={"x-api-key": self._key}
        )
        with self._opener.open(request, timeout=TIMEOUT) as answer:
            data: bytes = answer.read(limit + 1)
        if len(data) > limit:
            raise wrong(f"{redact(self.address)} answers more than {limit >> 20} MB: see its log")
        return data
