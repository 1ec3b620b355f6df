"""A similarity as the percentage that other systems show."""

from __future__ import annotations

from edgeface.types import Status

AT_THRESHOLD = 0.6  # Double Take takes 60 % and more for a match
LOWEST = 0.01  # Frigate refuses a score of 0


def confidence(similarity: float | None, threshold: float, status: str | None = None) -> float:
    """A number to show, .01 to 1, higher for a higher similarity: `AT_THRESHOLD` where the
    similarity is the threshold, so that other systems' rules can stay as they are. It is no
    probability. With a `status` that names nobody it stays below `AT_THRESHOLD`, and with one that
    does it is not below."""
    value, limit = similarity or 0.0, min(max(threshold, 0.01), 0.99)
    if value < limit:
        shown = AT_THRESHOLD * max(value, 0.0) / limit
    else:
        shown = AT_THRESHOLD + (1.0 - AT_THRESHOLD) * (min(value, 1.0) - limit) / (1.0 - limit)
    if status is not None:
        named = status in {Status.MATCH, Status.STRANGER, Status.IGNORED}
        shown = max(shown, AT_THRESHOLD) if named else min(shown, AT_THRESHOLD - 0.01)
    return round(max(shown, LOWEST), 4)
