"""What a route is asked: its path, query and body, read and checked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from edgeface.errors import GalleryError
from edgeface.gallery.records import check_name
from edgeface.serve.answers import Refused
from edgeface.serve.service import Service
from edgeface.sightings import Appearance

PICTURES = 32  # in one request


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a route. `body` is its JSON object or its form; `files` its pictures by the
    name of their field."""

    service: Service
    path: Mapping[str, Any]
    query: Mapping[str, str]
    body: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, list[bytes]] = field(default_factory=dict)

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number of the query."""
        text = self.query.get(key)
        if text is None:
            return default
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        if not low <= value <= high:
            raise bad(f"{key} is {text[:50]!r}: give a whole number from {low} to {high}", key)
        return value

    def moment(self, key: str) -> float | None:
        """A time of the query, ISO 8601 with a time zone or Unix seconds, as Unix seconds."""
        text = self.query.get(key)
        if text is None:
            return None
        try:
            return float(text)
        except ValueError:
            pass
        try:
            at = datetime.fromisoformat(text.replace(" ", "+"))
        except ValueError:
            at = datetime.min
        if at.tzinfo is None:
            raise bad(f"{key} is {text[:50]!r}: give a time such as 2026-03-01T09:30:00Z", key)
        return at.timestamp()

    def person(self, text: str) -> int:
        """A person's id in the query or path."""
        if not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise bad(f"{text[:50]!r} is no person's id: a whole number is needed", "person")
        return int(text)

    def text(self, key: str) -> str:
        """A text of the body that must be there."""
        value = self.body.get(key)
        if not isinstance(value, str):
            raise bad(f"{key} is {shown(value)}: a text is needed", key)
        return value

    def name(self, key: str = "name") -> str:
        """A person's name in the body, checked."""
        try:
            return check_name(self.text(key))
        except GalleryError as error:
            raise Refused(400, "bad_name", str(error), {"field": key}) from error

    def group(self) -> str | None:
        """A group in the body, checked before anything is done; None for none."""
        value = self.body.get("group")
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise bad(f"group is {shown(value)}: a text or null is needed", "group")
        try:
            return check_name(value)
        except GalleryError as error:
            raise bad(f"{error} (as a group)", "group") from error

    def ids(self, key: str, least: int = 0) -> list[int]:
        """A list of ids in the body."""
        value = self.body.get(key, [])
        if (
            not isinstance(value, list)
            or not all(type(i) is int and 0 <= i < 1 << 62 for i in value)
            or len(value) < least
        ):
            raise bad(f"{key} is {shown(value)}: a list of {least} or more ids is needed", key)
        return list(dict.fromkeys(value))

    def only(self, *keys: str) -> None:
        """Refuse a body with other keys: a misspelt one must not be passed over."""
        if strange := sorted(set(self.body) - set(keys)):
            raise bad(f"there is no field {strange[0][:50]!r}; there are: {', '.join(keys)}",
                      strange[0])  # fmt: skip

    def there(self, sightings: Sequence[int]) -> list[Appearance]:
        """The sightings of these ids, which must all be there."""
        try:
            return self.service.store.some(sightings)
        except GalleryError as error:
            if error.__cause__ is not None:  # the disk, not the ids
                raise
            raise Refused(404, "no_sighting", str(error), {"ids": list(sightings)}) from error

    def pictures(self, key: str = "picture", most: int = PICTURES) -> list[bytes]:
        """The uploaded pictures of a field, at least one."""
        found = self.files.get(key, [])
        if not found:
            raise bad(f"no file in the field {key!r}: send a multipart form with one", key)
        if len(found) > most:
            raise bad(f"{len(found)} files in the field {key!r}: send {most} at most", key)
        return found


def bad(message: str, key: str) -> Refused:
    """The answer to an argument that cannot be."""
    return Refused(400, "bad_argument", message, {"field": key})


def shown(value: object) -> str:
    """A value of the body for a message, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a body; an empty body is an empty one."""
    raw = await request.body()
    if not raw.strip():
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "bad_type", f"the body is {kind[:50] or 'of no type'}: send "
                      "Content-Type: application/json")  # fmt: skip
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "bad_json", f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise Refused(400, "bad_json", "the body is JSON, but no object")
    return found


async def read_form(
    request: Request, kinds: Collection[str] = ("multipart/form-data",)
) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """The texts and files of a form of one of these content types."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise Refused(415, "bad_type", f"the body is {kind[:50] or 'of no type'}: send a form, "
                      "multipart/form-data")  # fmt: skip
    texts: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=PICTURES, max_fields=PICTURES) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(key, []).append(await value.read())
            else:
                texts[key] = value
    return texts, files
