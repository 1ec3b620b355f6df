"""Who may ask the service: tokens and scopes, hosts, origins, the link, and headers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from edgeface.serve.guard import COOKIE, UPLOAD, Access, Guard

ADMIN, READ = "a" * 24, "r" * 24
ACCESS = Access(ADMIN, READ, ("cams.example.org", "cams.example.org:8443"))


async def inner(scope, receive, send) -> None:
    """What is guarded: reads the body and says yes."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


class Answer:
    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status = messages[0]["status"]
        self.headers = {k.decode(): v.decode() for k, v in messages[0]["headers"]}
        self.body = b"".join(m.get("body", b"") for m in messages[1:])

    @property
    def code(self) -> str:
        return "" if self.status in (200, 303) else json.loads(self.body)["error"]["code"]


def ask(method: str = "GET", path: str = "/v1/people", *, body=(b"",), **headers: str) -> Answer:
    """One request straight at the guard; header names with _ for -."""
    path, _, query = path.partition("?")
    given = {"host": "127.0.0.1:8377"} | {k.replace("_", "-"): v for k, v in headers.items()}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": "http",
        "headers": [(k.encode(), v.encode()) for k, v in given.items() if v],
    }
    parts = [{"type": "http.request", "body": b, "more_body": True} for b in body]
    parts[-1]["more_body"] = False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Guard(inner, ACCESS)(scope, receive, send))
    return Answer(sent)


NOBODY: dict[str, str] = {}
WRONG = {"authorization": "Bearer " + "x" * 24}
READER = {"authorization": f"Bearer {READ}"}
OWNER = {"authorization": f"Bearer {ADMIN}"}
BROWSER = {"cookie": f"other=1; {COOKIE}={ACCESS.cookie}"}
WHO = {"nobody": NOBODY, "wrong": WRONG, "reader": READER, "owner": OWNER, "browser": BROWSER}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/health", "nobody wrong reader owner browser"),
        ("GET", "/", "nobody wrong reader owner browser"),
        ("GET", "/app.js", "nobody wrong reader owner browser"),
        ("GET", "/v1/people", "reader owner browser"),
        ("GET", "/v1/sightings/1/image", "reader owner browser"),
        ("GET", "/v1/events", "reader owner browser"),
        ("GET", "/metrics", "reader owner browser"),
        ("GET", "/v1/openapi.json", "reader owner browser"),
        ("POST", "/v1/identify", "reader owner browser"),
        ("POST", "/v1/verify", "reader owner browser"),
        ("POST", "/v1/people", "owner browser"),
        ("PATCH", "/v1/people/1", "owner browser"),
        ("DELETE", "/v1/people/1", "owner browser"),
        ("POST", "/v1/history/1/undo", "owner browser"),
        ("POST", "/v1/cameras", "owner browser"),
        ("POST", "/", "owner browser"),
    ],
)
def test_who_may_do_what(method: str, path: str, allowed: str) -> None:
    for name, headers in WHO.items():
        answer = ask(method, path, **headers)
        expected = 200 if name in allowed.split() else 403 if name == "reader" else 401
        assert answer.status == expected, (name, answer.code)
        if expected == 401:
            assert answer.code == ("wrong_token" if name == "wrong" else "no_token")
            assert answer.headers["www-authenticate"] == "Bearer"
        if expected == 403:
            assert answer.code == "wrong_scope"


@pytest.mark.parametrize(
    "header",
    [
        {"authorization": ADMIN},
        {"authorization": f"Basic {ADMIN}"},
        {"authorization": f"Bearer {ADMIN}x"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer ünicode"},
        {"authorization": f"Bearer {ACCESS.cookie}"},
        {"authorization": f"Bearer {ACCESS.link}"},
        {"cookie": f"{COOKIE}={ADMIN}"},
        {"cookie": f"{COOKIE}={ACCESS.link}"},
        {"cookie": f"{COOKIE}="},
        {"cookie": "=;;"},
        {"cookie": f"{COOKIE}={ACCESS.cookie}", **WRONG},  # a token that is sent has to be right
    ],
)
def test_what_is_nearly_a_token_is_none(header: dict[str, str]) -> None:
    assert ask(**header).status == 401


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8377", True),
        ("localhost", True),
        ("[::1]:8377", True),
        ("192.168.1.7:8377", True),  # an address is nobody's name: it cannot be led here
        ("cams.example.org", True),
        ("CAMS.example.org:1", True),
        ("evil.example", False),
        ("evil.example:8377", False),
        ("127.0.0.1.evil.example", False),
        ("cams.example.org.evil.example", False),
        ("", False),
        ("[::1", False),
        ("a b", False),
    ],
)
def test_only_by_its_own_names(host: str, known: bool) -> None:
    for path in ("/", "/v1/health", "/v1/people"):
        answer = ask(path=path, host=host, **OWNER)
        assert (answer.status, answer.code) == ((200, "") if known else (421, "unknown_host"))


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # no browser
        ({"origin": "http://127.0.0.1:8377"}, True),
        ({"origin": "http://127.0.0.1:8377", "sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"origin": "https://cams.example.org:8443"}, True),  # a proxy that rewrites Host
        ({"origin": "http://127.0.0.1:3000"}, False),
        ({"origin": "http://localhost:8377"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"origin": "http://127.0.0.1:8377", "sec_fetch_site": "cross-site"}, False),
    ],
)
def test_writes_come_from_its_own_pages(headers: dict[str, str], allowed: bool) -> None:
    for who in (BROWSER, OWNER):
        answer = ask("POST", "/v1/people/merge", **headers, **who)
        expected = (200, "") if allowed else (403, "foreign_origin")
        assert (answer.status, answer.code) == expected


def test_the_link_becomes_a_cookie_and_leaves_the_address() -> None:
    answer = ask(path=f"/?token={ACCESS.link}")
    assert (answer.status, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert f"{COOKIE}={ACCESS.cookie}" in cookie
    for flag in ("httponly", "samesite=strict", "path=/"):
        assert flag in cookie.lower()
    assert ADMIN not in str(answer.headers) + ACCESS.link + ACCESS.cookie
    for wrong in ("x", ADMIN, ACCESS.cookie, "%ff"):
        bad = ask(path=f"/?token={wrong}")
        assert (bad.status, bad.code) == (401, "wrong_token")
        assert "set-cookie" not in bad.headers


def test_another_token_ends_links_and_cookies() -> None:
    other = Access("b" * 24)
    assert {other.link, other.cookie}.isdisjoint({ACCESS.link, ACCESS.cookie})
    assert Access(ADMIN).cookie == ACCESS.cookie  # a restart does not
    assert ADMIN not in repr(ACCESS) and READ not in repr(ACCESS)


def test_headers_of_every_answer() -> None:
    for path, who, kept in (("/v1/people", OWNER, "no-store"), ("/", NOBODY, "no-cache"),
                            ("/v1/people", NOBODY, "no-store")):  # fmt: skip
        headers = ask(path=path, **who).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == kept
        assert len(headers["x-request-id"]) == 16


def test_bodies_are_bounded_whether_or_not_they_say_how_long() -> None:
    mega = b"x" * (1 << 20)
    assert ask("POST", "/v1/people/merge", body=[mega], **OWNER).status == 200
    for body in ([mega, b"x"], [mega] * 30):
        answer = ask("POST", "/v1/people/merge", body=body, **OWNER)
        assert (answer.status, answer.code) == (413, "too_large")
    for length in (str(UPLOAD + 1), str(1 << 40), "-1", "x"):
        answer = ask("POST", "/v1/identify", content_length=length, **OWNER)
        assert (answer.status, answer.code) == (413, "too_large")
    assert ask("POST", "/v1/identify", body=[mega] * 30, **OWNER).status == 200


def test_a_proxy_that_is_trusted_stands_for_its_users() -> None:
    ours = {"client": ("172.30.32.2", 5)}

    async def ask(client, method="GET", **headers) -> int:
        status = 0

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def send(message):
            nonlocal status
            status = message.get("status", status)

        async def receive():
            return {"type": "http.request", "body": b""}

        scope = {
            "type": "http", "method": method, "path": "/v1/people", "query_string": b"",
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
        } | client  # fmt: skip
        await Guard(app, Access(ADMIN, READ, trusted=("172.30.32.2",)))(scope, receive, send)
        return status

    ha = {"host": "ha.example.org:8123"}
    assert asyncio.run(ask(ours, **ha)) == 200
    assert asyncio.run(ask(ours, "DELETE", **ha, origin="https://ha.example.org:8123")) == 200
    assert asyncio.run(ask(ours, "DELETE", **ha, sec_fetch_site="cross-site")) == 403
    assert asyncio.run(ask(ours, "DELETE", **ha, authorization=f"Bearer {READ}")) == 403
    for other in ({"client": ("172.30.32.3", 5)}, {"client": None}, {}):
        assert asyncio.run(ask(other, **ha)) == 421
        assert asyncio.run(ask(other, host="127.0.0.1", x_forwarded_for="172.30.32.2")) == 401
