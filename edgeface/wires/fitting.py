"""Which object that another system follows a face belongs to: by time, place and each other."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any

import numpy as np

from edgeface.assign import assign

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 as shares of the frame

SLACK = 3.0  # seconds that two systems' clocks and streams may be apart
INSIDE = 0.5  # least share of a face that lies in the box of its body
LEAST = 0.25  # least fit of a pair
# By how much fits must be better than any other way to pair. Of two people who cross a picture,
# each seen twice, 96 % get their body and .4 % the other's (test_frigate.py has such people); with
# .1 it is .7 %.
LEAD = 0.2
HEAD = 0.93  # where the middle of a face is, as a share of the body's height
GROWTH = 1.6  # how much a box may have grown, or shrunk


@dataclass(frozen=True, slots=True)
class Body:
    """A person whom another system follows: from `start` to `end` (Unix s; None: goes on), its
    `box` at one moment, and its `path`: the middle of the lower edge (x, y) at times (Unix s)."""

    id: str
    start: float
    end: float | None
    box: Box
    path: tuple[tuple[float, float, float], ...] = ()  # time, x, y

    def at(self, time: float, head: float) -> tuple[Box, float]:
        """Where the box was when the head was at a height `head`, and how much larger. With a path
        its lower edge is known; who comes nearer grows, so its upper edge follows the head."""
        if not self.path:
            return self.box, 1.0
        x1, y1, x2, y2 = self.box
        x, y = _between(self.path, time)
        scale = (y - head) / max(HEAD * (y2 - y1), 1e-9)
        scale = min(max(scale, 1.0 / GROWTH), GROWTH)
        half, height = scale * (x2 - x1) / 2, scale * (y2 - y1)
        return (x - half, y - height, x + half, y), scale


@dataclass(frozen=True, slots=True)
class Sight:
    """Where a face was at a time (Unix s)."""

    time: float
    box: Box


def fit(face: Sight, body: Body) -> float:
    """How well a face fits onto a body, 0 to 1: 0 for another time, or where less than `INSIDE` of
    the face is in the box; best in the middle at the top of a box that has its size."""
    end = float("inf") if body.end is None else body.end
    if not body.start - SLACK <= face.time <= end + SLACK:
        return 0.0
    left, top, right, bottom = face.box
    (x1, y1, x2, y2), scale = body.at(face.time, (top + bottom) / 2)
    area = max((right - left) * (bottom - top), 1e-9)
    width, height = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
    share = max(width, 0.0) * max(height, 0.0) / area
    if share < INSIDE:
        return 0.0
    across = 2.0 * abs((left + right) / 2 - (x1 + x2) / 2) / max(x2 - x1, 1e-9)
    down = ((top + bottom) / 2 - y1) / max(y2 - y1, 1e-9)
    middle, high = 1.0 - min(across, 1.0), 1.0 - min(max(down, 0.0), 1.0)
    grown = sqrt(min(scale, 1.0 / scale))
    return min(share, 1.0) * (0.2 + 0.8 * middle) * (0.2 + 0.8 * high) * grown


def fits(faces: Sequence[Sequence[Sight]], bodies: Sequence[Body]) -> list[int | None]:
    """The index of the body of each face by all sights of it, no body for two faces, all together
    at their best; None where none fits, and where it would be nearly as good to take a body that is
    free, or to swap with another face."""
    rows = np.array([[fmean(fit(s, body) for s in face) for body in bodies] for face in faces])
    found: list[int | None] = [None] * len(faces)
    if not rows.size:
        return found
    pairs = assign(1.0 - rows, limit=1.0 - LEAST)
    free = sorted(set(range(len(bodies))) - {column for _, column in pairs})
    for row, column in pairs:
        own = rows[row, column]
        lead = [own - rows[row, other] for other in free]
        lead += [
            own + rows[other, its] - rows[row, its] - rows[other, column]
            for other, its in pairs
            if other != row and min(rows[row, its], rows[other, column]) >= LEAST
        ]
        if min(lead, default=LEAD) >= LEAD:
            found[row] = column
    return found


def sight_of(event: Mapping[str, Any], time: float) -> Sight:
    """Where the face of an event (docs/events.md) was."""
    (width, height), (x1, y1, x2, y2) = event["size"], event["box"]
    return Sight(time, (x1 / width, y1 / height, x2 / width, y2 / height))


def _between(path: Sequence[tuple[float, float, float]], time: float) -> tuple[float, float]:
    after = bisect_left(path, time, key=lambda point: point[0])
    if after == 0 or after == len(path):
        _, x, y = path[min(after, len(path) - 1)]
        return x, y
    (t0, x0, y0), (t1, x1, y1) = path[after - 1], path[after]
    share = (time - t0) / (t1 - t0)
    return x0 + share * (x1 - x0), y0 + share * (y1 - y0)
