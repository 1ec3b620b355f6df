"""Addresses without their secrets, for logs, events and errors."""

from __future__ import annotations

import re

_SECRETS = "user|username|login|usr|password|passwd|pass|pwd|token|key|apikey|api_key|secret|auth"
# A value ends where the next one begins; cameras take such pairs in the path as well.
_PAIR = re.compile(rf"(?i)(?<![a-z])({_SECRETS}|sslpassword)=[^&/;\s]*")


def redact(url: str) -> str:
    """A URL without user, password and keys.

    All between `://` and the last `@` goes, as passwords hold `/`, `?` and `#` unescaped, and so
    do the values of `user=…`, `password=…` and the like wherever they stand.
    """
    scheme, mark, rest = url.strip().partition("://")
    if not mark:
        return url
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    shown = _PAIR.sub(r"\1=***", rest)
    return f"{scheme}://{shown}"
