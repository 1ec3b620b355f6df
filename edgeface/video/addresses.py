"""What a source is by its name, and how it may be shown."""

from __future__ import annotations

import re
from pathlib import Path

from edgeface.redaction import redact

__all__ = ["camera_index", "is_live", "redact"]


def camera_index(source: str) -> int | None:
    """The index that `0`, `cam0` or `/dev/video0` names, else None."""
    found = re.fullmatch(r"(?:cam|/dev/video)?(\d{1,3})", source)
    return int(found.group(1)) if found else None


def is_live(source: str | int | Path) -> bool:
    """Whether the source is a camera or a URL, so that it has no known end."""
    return camera_index(str(source)) is not None or "://" in str(source)
