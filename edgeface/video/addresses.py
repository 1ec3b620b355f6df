"""What a source is by its name, and how it may be shown."""

from __future__ import annotations

import re
from pathlib import Path

_SECRETS = "user|username|login|usr|password|passwd|pass|pwd|token|key|apikey|api_key|secret|auth"
# A value ends where the next one begins; cameras take such pairs in the path as well.
_PAIR = re.compile(rf"(?i)(?<![a-z])({_SECRETS})=[^&/;\s]*")


def camera_index(source: str) -> int | None:
    """The index that `0`, `cam0` or `/dev/video0` names, else None."""
    found = re.fullmatch(r"(?:cam|/dev/video)?(\d{1,3})", source)
    return int(found.group(1)) if found else None


def is_live(source: str | int | Path) -> bool:
    """Whether the source is a camera or a URL, so that it has no known end."""
    return camera_index(str(source)) is not None or "://" in str(source)


def redact(url: str) -> str:
    """A URL without user, password and keys, for logs, events and errors.

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
