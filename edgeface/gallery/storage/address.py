"""The address of a gallery on a server, with a password as people write it."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from edgeface.redaction import redact

_SERVER = re.compile(r"(?i)\s*(postgresql|postgres)://")


def is_postgres(path: object) -> bool:
    """Whether a gallery's path names a server."""
    return isinstance(path, str) and _SERVER.match(path) is not None


def normal(url: str) -> str:
    """`url` as libpq reads it: passwords may hold `/`, `?`, `#`, `[` and `@` unescaped."""
    rest = url.strip().partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    given = "@" in authority
    if not given and "@" in rest:
        port = authority.partition(":")[2]
        given = bool(port) and (not port.isdigit() or "@" in rest.partition("?")[0])
    if not given:
        return f"postgresql://{rest}"
    # The last `@` before the options: these may hold one, too, once the password is over.
    head, _, options = rest.partition("?") if "@" in rest.partition("?")[0] else (rest, "", "")
    login, _, server = head.rpartition("@")
    user, colon, password = login.partition(":")
    parts = [quote(unquote(part), safe="") for part in (user, password)]
    tail = f"?{options}" if options else ""
    return f"postgresql://{parts[0]}{colon}{parts[1]}@{server}{tail}"


def shown(url: str) -> str:
    """Where a server is, without login, password and options."""
    where = normal(url).partition("?")[0].partition("://")[2].rpartition("@")[2]
    return redact(f"postgresql://{where if where[:1] not in {'', '/'} else 'localhost' + where}")


def secrets(url: str) -> list[str]:
    """What of an address must not be repeated in an error, longest first."""
    rest = normal(url).partition("://")[2]
    password = rest.rpartition("@")[0].partition(":")[2]
    found = {password, unquote(password)}
    found |= {m.group(2) for m in re.finditer(r"(?i)(password|passwd|pwd)=([^&\s]+)", rest)}
    return sorted((s for s in found if len(s) > 1), key=len, reverse=True)
