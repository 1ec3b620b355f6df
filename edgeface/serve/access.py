"""Tokens: which there are, where a request has one, and what it may do with it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from edgeface.serve.answers import Refused


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens, the `names` the service is reached by, with a port or without, and the addresses
    of proxies that are `trusted` to let in only who may."""

    admin: str = field(repr=False)
    read: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()

    def derived(self, use: str) -> str:
        """A secret made of the token for one `use`."""
        return hmac.new(self.admin.encode(), use.encode(), hashlib.sha256).hexdigest()[:48]

    @property
    def link(self) -> str:
        """The secret in the link that opens the page."""
        return self.derived("link")

    @property
    def cookie(self) -> str:
        """The value of the cookie."""
        return self.derived("cookie")

    def scope_of(self, token: str) -> str | None:
        """What a token may do; None: it is none."""
        given = token.strip().encode()
        if hmac.compare_digest(given, self.admin.encode()):
            return "admin"
        if self.read is not None and hmac.compare_digest(given, self.read.encode()):
            return "read"
        return None

    def knows(self, host: str) -> bool:
        """Whether the service is reached by this `Host`: an address, this machine's name, or one of
        `names`. Names of others that lead here are how pages of theirs would reach in."""
        name = place_of(f"//{host}").hostname or ""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            pass
        else:
            return True
        own = socket.gethostname().lower()
        known = {"localhost", own, f"{own}.local", *self.names}
        return bool(name) and (name in known or host.lower() in known)


@dataclass(frozen=True, slots=True)
class Proof:
    """What is still asked of a request: a token in a `field` of its body, of scope admin if it
    `changes` something."""

    access: Access
    field: str
    changes: bool

    def check(self, texts: Mapping[str, Any]) -> None:
        """Refuse a body without the token."""
        token = str(texts.get(self.field, ""))
        check_scope(self.access.scope_of(token), self.changes, bool(token))


def check_scope(granted: str | None, changes: bool, given: bool) -> None:
    """Refuse a request whose token, if one was `given`, does not reach for what it `changes`."""
    if granted is None:
        raise Refused(
            401, "wrong_token" if given else "no_token", "a token is needed: open the link that "
            "edgeface serve printed, or send Authorization: Bearer",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    if changes and granted != "admin":
        raise Refused(403, "wrong_scope", "this token may read only", {"needs": "admin"})


def place_of(address: str) -> SplitResult:
    """The parts of an address; all empty for what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
