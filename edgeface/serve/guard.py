"""Who may ask: host, origin, token and scope of every request, its size, and safe headers.

The browser gets a cookie for the token in the printed link; programs send `Authorization: Bearer`.
Both are made of the token, so that they outlive a restart and end when the token is changed.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeface.serve.access import Access, Proof, check_scope, place_of
from edgeface.serve.answers import Refused, as_refused, envelope
from edgeface.serve.dialects import Dialect

COOKIE = "edgeface"
COOKIE_AGE = 400 * 86_400  # seconds; the longest that browsers keep one
SAFE = {"GET", "HEAD"}
OPEN = {"/v1/health"}
ASKING = {"/v1/identify", "/v1/detect", "/v1/verify"}  # POST, but change nothing
BODY = 1 << 20  # bytes of a request
UPLOAD = 64 << 20  # bytes of one with pictures
LENT = 16 << 20  # bytes of one in another service's form, whose token may be in the body
DRAINED = 16 << 20  # bytes of a longer one that are read and thrown away before it is refused
UPLOADS = {*ASKING, "/v1/people"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """The outermost part of the service."""

    def __init__(self, app: ASGIApp, access: Access, dialects: Sequence[Dialect] = ()) -> None:
        self.app, self.access, self.dialects = app, access, dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number = secrets.token_hex(8)
        scope["edgeface.request_id"] = number
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers[key] = value
                is_page = not scope["path"].startswith(("/v1/", "/metrics"))
                headers.setdefault("Cache-Control", "no-cache" if is_page else "no-store")
                headers["X-Request-Id"] = number
            await send(message)

        try:
            answer = self._check(scope)
            if answer is not None:
                await answer(scope, receive, sending)
                return
            await self.app(scope, _bounded(scope, receive), sending)
        except Exception as error:
            if begun:
                raise
            answer = envelope(as_refused(error), number, scope.get("edgeface.form"))
            await answer(scope, receive, sending)

    def _check(self, scope: Scope) -> Response | None:
        """An answer, if that is all there is to it.

        Raises:
            Refused: the request is not to be answered.
        """
        headers, method = Headers(scope=scope), scope["method"]
        path = scope["path"].rstrip("/") or "/"
        host = headers.get("host", "")
        dialect = next((d for d in self.dialects if _below(path, d.prefix)), None)
        if dialect is not None:
            scope["edgeface.form"] = dialect.error
        trusted = (scope.get("client") or ("",))[0] in self.access.trusted
        if not trusted and not self.access.knows(host):
            raise Refused(
                421, "unknown_host", f"this service is not called {host[:100]!r}: add it to hosts"
            )
        limit = UPLOAD if path in UPLOADS else BODY if dialect is None else LENT
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise Refused(413, "too_large", f"the body is over {limit} bytes", {"limit": limit})
        scope["edgeface.limit"] = limit
        if path in OPEN:
            return None
        if method in SAFE and not path.startswith(("/v1/", "/metrics")) and dialect is None:
            return self._page(scope)
        granted = self._granted(headers) or ("admin" if trusted else None)
        changes = method not in SAFE and path not in ASKING
        if dialect is not None:
            granted = granted or self._lent(headers, dialect)
            changes = changes and path not in dialect.asking
            if granted is None and dialect.field is not None and "authorization" not in headers:
                # The token is in the body, which is not read here: `proven` looks at it.
                scope["edgeface.proof"] = Proof(self.access, dialect.field, changes)
                self._same_origin(headers, host)
                return None
        check_scope(granted, changes, "authorization" in headers)
        if method not in SAFE:
            self._same_origin(headers, host)
        return None

    def _lent(self, headers: Headers, dialect: Dialect) -> str | None:
        """The scope of a token where another service has it, or in the password of the address."""
        if dialect.header is not None and dialect.header in headers:
            return self.access.scope_of(headers[dialect.header])
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            return self.access.scope_of(b64decode(given).decode().partition(":")[2])
        except ValueError:
            return None

    def _page(self, scope: Scope) -> Response | None:
        """Pages are open, as they hold nothing; the link's secret is taken for a cookie."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if not given:
            return None
        if not hmac.compare_digest(given[0].encode(), self.access.link.encode()):
            raise Refused(401, "wrong_token", "this link is old: open the one printed last")
        answer = RedirectResponse("./", 303)
        answer.set_cookie(
            COOKIE, self.access.cookie, COOKIE_AGE, httponly=True, samesite="strict",
            secure=scope.get("scheme") == "https",
        )  # fmt: skip
        return answer

    def _granted(self, headers: Headers) -> str | None:
        """The scope that a request has."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind:
            return self.access.scope_of(token) if kind.lower() == "bearer" else None
        try:
            jar = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        value = jar[COOKIE].value if COOKIE in jar else ""
        if hmac.compare_digest(value.encode(), self.access.cookie.encode()):
            return "admin"
        return None

    def _same_origin(self, headers: Headers, host: str) -> None:
        """Refuse a write that a page of somebody else made the browser send."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin", "none"):
            raise Refused(403, "foreign_origin", f"a write from a page that is {site} is refused")
        if origin is not None:
            place = place_of(origin).netloc.lower()
            if not place or (place != host.lower() and place not in self.access.names):
                raise Refused(403, "foreign_origin", f"a write from {origin[:100]} is refused")


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """`receive` that ends a body that turns out longer than allowed."""
    limit, taken = scope["edgeface.limit"], 0

    async def receiving() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            # Who is cut off while sending often does not read the answer.
            while message.get("more_body") and taken < limit + DRAINED:
                message = await receive()
                taken += len(message.get("body", b""))
            raise Refused(413, "too_large", f"the body is over {limit} bytes", {"limit": limit})
        return message

    return receiving
