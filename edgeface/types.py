"""The records that flow through the pipeline, in the order of the flow.

Arrays are numpy; coordinates are pixels of the full frame; times are seconds.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError

Array = NDArray[np.float32]
Image = NDArray[np.uint8]
EVENT_VERSION = 1  # of the fields of an event; goes up when one changes its meaning or leaves


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture of a video: `image` (H, W, 3) uint8 BGR, media or monotonic `time` s, `index`,
    the name of its `source`, and the time of day `at` which it was taken or read, in UTC."""

    image: Image
    time: float
    index: int
    source: str = ""
    at: datetime = field(default_factory=_now)

    def __post_init__(self) -> None:
        if not math.isfinite(self.time):
            raise ArgumentError(f"a frame's time is {self.time}: give seconds, a finite number")
        if self.at.tzinfo is None:
            raise ArgumentError(f"the frame's time of day {self.at} has no time zone: give UTC")


@dataclass(frozen=True, slots=True)
class Pose:
    """How a head is turned, degrees: `yaw` to the picture's right, `pitch` upwards, `roll`
    clockwise in the picture, in (-180, 180]; all 0 for an upright head that faces the camera."""

    yaw: float
    pitch: float
    roll: float


class Flaw(StrEnum):
    """Why a face cannot be judged. `masked` by whatever covers it; `no_sure_face` looks like none
    at all, or its landmarks are wrong."""

    BLURRED = "blurred"
    TOO_SMALL = "too_small"
    COMPRESSED = "compressed"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    MASKED = "masked"
    TURNED_AWAY = "turned_away"
    UPSIDE_DOWN = "upside_down"
    NO_SURE_FACE = "no_sure_face"


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One detected face.

    `box` (4,) float32 x1, y1, x2, y2; `landmarks` (5, 2) float32 in image order left eye, right
    eye, nose, left and right mouth corner; `score` in [0, 1]; `quality` of its picture in [0, 1] or
    NaN while unrated; `embedding` (d,) float32 unit row or None while not embedded; `pose` None
    until it was measured upright; `recognisability`, the chance in [0, 1] that its owner is found,
    NaN while not embedded, and the `flaw` for which that is too small to enrol it, or None.
    """

    box: Array
    landmarks: Array
    score: float
    quality: float = float("nan")
    embedding: Array | None = None
    pose: Pose | None = None
    recognisability: float = float("nan")
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What a set of faces says together: `embedding` (d,) float32 unit, `confidence` the resultant
    length in [0, 1] (1 = all faces agree), `weight` the summed quality, `n_faces` how many."""

    embedding: Array
    confidence: float
    weight: float
    n_faces: int


class Kind(StrEnum):
    """Whether somebody named a person, the gallery numbered a stranger by itself, or the person
    is recognised but nobody wants to be told."""

    KNOWN = "known"
    STRANGER = "stranger"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Match:
    """One person of the gallery and its raw cosine `similarity` in [-1, 1] to the probe."""

    person_id: int
    name: str
    similarity: float
    kind: Kind = Kind.KNOWN


class Status(StrEnum):
    """What a decision came to. Unknown is a result, not an error. Only somebody whom a user named
    is a `match`; a person whom the gallery numbered by itself is a `stranger`, one who is to be
    ignored is `ignored`."""

    MATCH = "match"
    STRANGER = "stranger"
    IGNORED = "ignored"
    UNKNOWN = "unknown"
    UNCERTAIN = "uncertain"
    LOW_QUALITY = "low_quality"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cosine threshold and where it came from: `card`, `user`, `calibrated:fpir=1e-3@N=512`, or
    for numbered strangers `linking:fpir=1e-2@N=7`."""

    value: float
    origin: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Who a probe is: `name`, `person_id` and `kind` are None unless `status` is match (a `known`
    person), stranger (a `stranger`) or ignored; `margin` is the lead over the second; `reason` says
    why the status is low_quality."""

    status: Status
    name: str | None
    person_id: int | None
    similarity: float
    margin: float
    threshold: Threshold
    kind: Kind | None = None
    reason: Flaw | None = None

    def nobody(self, status: Status, reason: Flaw | None = None) -> Self:
        """The same decision without a person, as `status`."""
        return replace(self, status=status, name=None, person_id=None, kind=None, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain JSON types; `similarity` is the raw cosine, never a probability."""
        return {
            "status": str(self.status),
            "kind": None if self.kind is None else str(self.kind),
            "name": self.name,
            "person_id": self.person_id,
            "similarity": _number(self.similarity),
            "margin": _number(self.margin),
            "threshold": self.threshold.value,
            "threshold_origin": self.threshold.origin,
            "reason": None if self.reason is None else str(self.reason),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A face together with what was decided about it; `track` is None for single pictures, and
    `template` what the track's faces say together, if any was good enough."""

    face: Face
    decision: Decision
    track: int | None = None
    template: Template | None = None

    def to_dict(self) -> dict[str, Any]:
        """The sighting as plain JSON types; pixels with one decimal."""
        return {
            "track": self.track,
            "box": _rounded(self.face.box),
            "landmarks": [_rounded(p) for p in self.face.landmarks],
            "score": round(self.face.score, 4),
            "quality": _number(self.face.quality),
            "recognisability": _number(self.face.recognisability),
            **self.decision.to_dict(),
        }


class EventKind(StrEnum):
    """What happened to a track."""

    SEEN = "seen"
    IDENTIFIED = "identified"
    CHANGED = "changed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something worth telling about a track: of the frame `frame` at media time `time` (s) and
    time of day `at` (UTC), `size` (width, height) px, of the camera `source`. When a track is lost,
    these are of the last frame it was seen in.

    `id` is this event's alone, also after a restart, and ids of later events sort behind; so does
    `run`, within which no number of a `track` is given twice. `template` is what the track's faces
    say together so far, None while none was good enough.
    """

    kind: EventKind
    track: int
    time: float
    frame: int
    box: Array
    decision: Decision
    source: str = ""
    at: datetime = field(default_factory=_now)
    size: tuple[int, int] = (0, 0)
    id: str = ""
    run: str = ""
    template: Template | None = None

    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON types; boxes in pixels, one decimal; `ts` ISO 8601."""
        return {
            "version": EVENT_VERSION,
            "id": self.id,
            "run": self.run,
            "event": str(self.kind),
            "camera": self.source,
            "ts": timestamp(self.at),
            "time": round(self.time, 3),
            "frame": self.frame,
            "track": self.track,
            "box": _rounded(self.box),
            "size": list(self.size),
            **self.decision.to_dict(),
        }

    def to_json(self) -> str:
        """One JSON line, no newline at its end."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def new_run() -> str:
    """The start of the ids of one run's events: ids of runs that began later sort behind."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"


def timestamp(at: datetime) -> str:
    """A time of day in UTC with milliseconds, such as `2026-03-01T09:30:00.125Z` (ISO 8601)."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(values: Array) -> list[float]:
    return [round(float(v), 1) for v in values]


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity: what is not a number becomes null."""
    return round(value, 4) if math.isfinite(value) else None
