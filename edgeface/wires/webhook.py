"""Events as HTTP requests, signed, at least once."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import secrets
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeface.errors import ArgumentError
from edgeface.redaction import redact
from edgeface.sightings import Sightings
from edgeface.wires.reader import Event, Reader, Undelivered

log = logging.getLogger(__name__)

DAY = 86_400.0
# The receiver has understood the request and will never take this event.
REFUSED = {400, 413, 415, 422}


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """Where events go, and which: those of these `events`, `cameras` and `kinds` (docs/events.md);
    empty: all."""

    url: str
    secret: str | None = None  # key of the signature; None: unsigned
    events: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    crop: bool = False  # with the picture that is kept of the appearance
    timeout: float = 10.0  # seconds for an answer; more: slow receivers get through
    max_age: float = DAY  # seconds until an event is given up; more: longer outages are bridged

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ArgumentError(f"{redact(self.url)!r} is no address for events: give http(s)://…")
        if parts.username is not None:
            raise ArgumentError(f"{redact(self.url)} holds a password: use the secret instead")
        if not (0 < self.timeout < float("inf") and 0 < self.max_age < float("inf")):
            raise ArgumentError("timeout and max_age are finite seconds above 0")

    def wants(self, event: Event) -> bool:
        """Whether an event is one of those."""
        asked = (
            (self.events, "event"),
            (self.cameras, "camera"),
            (self.kinds, "kind"),
        )
        return all(not among or event.get(field) in among for among, field in asked)


class Webhook:
    """Sends the events of a log to an address with POST, one after the other.

    An event that is not answered with 2xx within the timeout is sent again with growing pauses, and
    the later ones wait, so that they come in order; one that the receiver refuses for good (400,
    413, 415, 422) and one that is too old is logged and passed over. An event may come twice, as
    when the answer was lost: `X-Edgeface-Delivery` is its id. With a secret,
    `X-Edgeface-Signature: sha256=…` is the HMAC (RFC 2104, hexadecimal) of the body. Redirects are
    not followed.
    """

    def __init__(
        self, store: Sightings, options: WebhookOptions, *, place: Path | None = None
    ) -> None:
        """Put it together; `start` begins to send.

        Args:
            store: whose log is sent.
            options: where to, and what.
            place: the file in which it is kept how far it came, so that it goes on after a restart;
                without one it begins with what is new.
        """
        self._store, self._options = store, options
        self._opener = urllib.request.build_opener(NoRedirect)
        name = f"webhook {redact(options.url)}"
        self.reader = Reader(store, name, self._deliver, max_age=options.max_age, place=place)

    def start(self) -> None:
        """Begin to send."""
        self.reader.start()

    def close(self, timeout: float = 5.0) -> bool:
        """End; whether it did within `timeout` seconds."""
        return self.reader.close(timeout)

    def _deliver(self, event: Event) -> None:
        if not self._options.wants(event):
            return
        body, kind = self._body(event)
        headers = {
            "Content-Type": kind,
            "User-Agent": "edgeface",
            "X-Edgeface-Event": event["event"],
            "X-Edgeface-Delivery": event["id"],
        }
        if self._options.secret is not None:
            headers["X-Edgeface-Signature"] = sign(self._options.secret, body)
        request = urllib.request.Request(self._options.url, body, headers)
        try:
            with self._opener.open(request, timeout=self._options.timeout):
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in REFUSED:
                raise Undelivered(f"answers {error.code}") from error
            log.error("%s refuses event %s: %d", self._options.url, event["id"], error.code)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Undelivered(f"does not answer ({reason})") from error

    def _body(self, event: Event) -> tuple[bytes, str]:
        text = json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")
        sighting = event.get("sighting") if self._options.crop else None
        crop = None if sighting is None else self._store.crop(sighting)
        if crop is None:
            return text, "application/json"
        return multipart({"event": ("application/json", text), "crop": ("image/jpeg", crop)})


def sign(secret: str, body: bytes) -> str:
    """The signature of a body: `sha256=` and the HMAC in hexadecimal."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def multipart(parts: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    """A body of parts by name, each with its type, and the type of it all (RFC 7578)."""
    boundary = secrets.token_hex(16)
    rows = []
    for name, (kind, data) in parts.items():
        file = '; filename="crop.jpg"' if kind == "image/jpeg" else ""
        head = f'Content-Disposition: form-data; name="{name}"{file}\r\nContent-Type: {kind}'
        rows.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    rows.append(f"--{boundary}--\r\n".encode())
    return b"".join(rows), f"multipart/form-data; boundary={boundary}"


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an answer: what was sent to one place goes to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None
