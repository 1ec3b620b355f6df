"""The records that flow through the pipeline, in the order of the flow.

Arrays are numpy; coordinates are pixels of the full frame; times are seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a video: `image` (H, W, 3) uint8 BGR, media or monotonic `time` in s, `index`."""

    image: Image
    time: float
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One detected face.

    `box` (4,) float32 x1, y1, x2, y2; `landmarks` (5, 2) float32 in image order left eye, right
    eye, nose, left and right mouth corner; `score` in [0, 1]; `quality` in [0, 1] or NaN while
    unrated; `embedding` (d,) float32 unit row or None while not embedded.
    """

    box: Array
    landmarks: Array
    score: float
    quality: float = float("nan")
    embedding: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What a set of faces says together: `embedding` (d,) float32 unit, `confidence` the resultant
    length in [0, 1] (1 = all faces agree), `weight` the summed quality, `n_faces` how many."""

    embedding: Array
    confidence: float
    weight: float
    n_faces: int


@dataclass(frozen=True, slots=True)
class Match:
    """One person of the gallery and its raw cosine `similarity` in [-1, 1] to the probe."""

    person_id: int
    name: str
    similarity: float


class Status(StrEnum):
    """What a decision came to. Unknown is a result, not an error."""

    MATCH = "match"
    UNKNOWN = "unknown"
    UNCERTAIN = "uncertain"
    LOW_QUALITY = "low_quality"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cosine threshold and where it came from: `card`, `user` or `calibrated:fpir=1e-3@N=512`."""

    value: float
    origin: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Who a probe is: `name` None unless `status` is match; `margin` is the lead over the second."""

    status: Status
    name: str | None
    person_id: int | None
    similarity: float
    margin: float
    threshold: Threshold


class EventKind(StrEnum):
    """What happened to a track."""

    SEEN = "seen"
    IDENTIFIED = "identified"
    CHANGED = "changed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something worth telling about a track at media time `time` (s)."""

    kind: EventKind
    track: int
    time: float
    frame: int
    box: Array
    decision: Decision
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON types; boxes in pixels, one decimal."""
        d = self.decision
        return {
            "event": str(self.kind),
            "track": self.track,
            "time": round(self.time, 3),
            "frame": self.frame,
            "box": [round(float(v), 1) for v in self.box],
            "status": str(d.status),
            "name": d.name,
            "person_id": d.person_id,
            "similarity": None if np.isnan(d.similarity) else round(d.similarity, 4),
            "threshold": d.threshold.value,
            "threshold_origin": d.threshold.origin,
            "margin": None if not np.isfinite(d.margin) else round(d.margin, 4),
            **self.extra,
        }

    def to_json(self) -> str:
        """One JSON line, no newline at its end."""
        return json.dumps(self.to_dict(), ensure_ascii=False)
