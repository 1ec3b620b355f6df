"""A similarity as the percentage that other systems show."""

from __future__ import annotations

from math import isnan

from edgeface.types import Status

# Double Take and CodeProject.AI take 60 % and more for a match, viseron 50 % of CompreFace: what is
# no match stays below all of them, so that the decision is ours wherever between they draw a line.
AT_THRESHOLD = 0.6
GAP = 0.1
LOWEST = 0.01  # Frigate refuses a score of 0


def confidence(
    value: float | None, threshold: float, status: str | None = None, *, at: float = AT_THRESHOLD
) -> float:
    """A number to show, .01 to 1, higher for a higher value: `at` where the value is the threshold,
    and less than `at` - `GAP` below it, so that other systems' rules can stay as they are. It is no
    probability. A `status` that names nobody, or somebody, puts it on its side of the gap."""
    value = 0.0 if value is None or isnan(value) else value  # nobody there to compare with
    limit = min(max(threshold, 0.01), 0.99)
    below = at - GAP - 0.01
    if value < limit:
        shown = below * max(value, 0.0) / limit
    else:
        shown = at + (1.0 - at) * (min(value, 1.0) - limit) / (1.0 - limit)
    if status is not None:
        named = status in {Status.MATCH, Status.STRANGER, Status.IGNORED}
        shown = max(shown, at) if named else min(shown, below)
    return round(max(shown, LOWEST), 4)
