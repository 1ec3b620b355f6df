"""A similarity as the percentage that other systems show."""

from __future__ import annotations

from math import isnan

from edgeface.types import Status

AT_THRESHOLD = 0.6  # Double Take takes 60 % and more for a match
LOWEST = 0.01  # Frigate refuses a score of 0


def confidence(
    value: float | None, threshold: float, status: str | None = None, *, at: float = AT_THRESHOLD
) -> float:
    """A number to show, .01 to 1, higher for a higher value: `at` where the value is the threshold,
    so that other systems' rules can stay as they are. It is no probability. With a `status` that
    names nobody it stays below `at`, and with one that does it is not below."""
    value = 0.0 if value is None or isnan(value) else value  # nobody there to compare with
    limit = min(max(threshold, 0.01), 0.99)
    if value < limit:
        shown = at * max(value, 0.0) / limit
    else:
        shown = at + (1.0 - at) * (min(value, 1.0) - limit) / (1.0 - limit)
    if status is not None:
        named = status in {Status.MATCH, Status.STRANGER, Status.IGNORED}
        shown = max(shown, at) if named else min(shown, at - 0.01)
    return round(max(shown, LOWEST), 4)
