"""Faces of successive frames become tracks.

Two-stage association in the manner of ByteTrack (Zhang et al., ECCV 2022): confident faces first,
then weak ones, which may keep a track alive but never start one. Motion is a constant-velocity
alpha-beta filter in seconds, so a variable frame rate does no harm. Boxes are buffered before
overlap is measured (C-BIoU, Yang et al., WACV 2023): faces are small and move by their own size.
What overlap cannot settle, a face that returns where nobody was expected, embeddings do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from edgeface.assign import assign
from edgeface.errors import ArgumentError
from edgeface.opencv import cv2
from edgeface.types import Array, Face, Image

Embed = Callable[[Sequence[Face]], Array]


class State(StrEnum):
    """Life of a track: tentative until seen `confirm` times, lost while unseen, then removed."""

    TENTATIVE = "tentative"
    CONFIRMED = "confirmed"
    LOST = "lost"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """How the faces of successive frames become tracks."""

    high: float = 0.6  # detector score that may start a track; more: fewer tracks of no faces
    low: float = 0.3  # detector score that keeps one alive; more: tracks break sooner
    overlap: float = 0.15  # least buffered IoU with where a face was expected; more: breaks sooner
    confirm: int = 3  # sightings until a track is told of; more: later, fewer of no faces
    patience: float = 2.0  # seconds a track is kept unseen; more: fewer ids, later `lost`
    rejoin: float = 0.45  # least cosine at which a face continues a lost track; more: more new ids


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A track after one frame. `face` is the last face seen; `weak` says that it came from the
    second stage and should not be trusted for identity; times in seconds."""

    id: int
    state: State
    face: Face
    first_seen: float
    last_seen: float
    hits: int
    weak: bool


@dataclass(slots=True, eq=False)
class _Motion:
    id: int
    state: State
    face: Face
    centre: Array
    size: Array
    velocity: Array
    first_seen: float
    last_seen: float
    hits: int = 1
    weak: bool = False
    appearance: Array | None = None
    placed: bool = True  # False once its position says nothing any more

    def predicted(self, time: float) -> Array:
        """Expected x1, y1, x2, y2; the velocity is trusted for a quarter of a second only."""
        centre = self.centre + self.velocity * np.float32(min(time - self.last_seen, 0.25))
        half = self.size / np.float32(2)
        return np.concatenate([centre - half, centre + half])

    def see(self, face: Face, time: float, *, weak: bool) -> None:
        gap = max(time - self.last_seen, 1e-3)
        box = face.box.astype(np.float32)
        centre, size = _centre(box), box[2:] - box[:2]
        gain = np.float32(0.5 if self.hits > 1 else 1.0)
        if gap < 0.5 and self.placed:
            speed = (centre - self.centre) / np.float32(gap)
            self.velocity = self.velocity + gain * (speed - self.velocity)
        else:
            self.velocity = np.zeros(2, np.float32)
        self.centre, self.size = centre, size
        self.face, self.last_seen, self.weak, self.placed = face, time, weak, True
        self.hits += 1

    def snapshot(self) -> Track:
        return Track(
            self.id, self.state, self.face, self.first_seen, self.last_seen, self.hits, self.weak
        )


class Tracker:
    """Keeps the tracks of one camera. Not thread-safe; one tracker per source."""

    def __init__(self, options: TrackerOptions | None = None, *, first_id: int = 1) -> None:
        self.options = options or TrackerOptions()
        self._tracks: list[_Motion] = []
        self.next_id = first_id

    def update(self, faces: Sequence[Face], time: float, embed: Embed | None = None) -> list[Track]:
        """Take the faces of one frame.

        Args:
            faces: detections of the frame, any order.
            time: seconds, never decreasing from call to call.
            embed: maps faces to (n, d) float32 unit rows; asked only when a face nobody expected
                might be a lost track's.

        Returns:
            every track that lives, in order of id: those seen now have `last_seen == time`; those
            removed now come one last time with state `removed`.
        """
        o = self.options
        strong = [f for f in faces if f.score >= o.high]
        weak = [f for f in faces if o.low <= f.score < o.high]
        known = [t for t in self._tracks if t.state is not State.TENTATIVE and t.placed]
        strong, known = self._associate(strong, known, time, weak=False)
        active = [t for t in known if t.state is State.CONFIRMED]
        self._associate(weak, active, time, weak=True)
        tentative = [t for t in self._tracks if t.state is State.TENTATIVE and t.placed]
        strong, _ = self._associate(strong, tentative, time, weak=False)
        if embed is not None:
            strong = self._rejoin(strong, time, embed)
        for face in strong:
            self._start(face, time)
        return self._age(time)

    def remember(self, track: int, appearance: Array) -> None:
        """Give a track the unit embedding by which it may be recognised when it returns."""
        for t in self._tracks:
            if t.id == track:
                t.appearance = appearance

    def split(self, track: int) -> int:
        """Declare that a track has changed hands: its current face goes on under a new id, which is
        returned; the old track is lost as of now."""
        for t in self._tracks:
            if t.id == track:
                fresh = self._start(t.face, t.last_seen)
                fresh.hits, fresh.state = self.options.confirm, State.CONFIRMED
                fresh.centre, fresh.size, fresh.velocity = t.centre, t.size, t.velocity
                t.state, t.placed = State.LOST, False
                t.last_seen -= 1e-6
                return fresh.id
        raise ArgumentError(f"there is no track {track}")

    def cut(self) -> None:
        """Forget where everybody is (the scene changed): tracks go on by appearance alone."""
        for t in self._tracks:
            t.placed = False
            t.state = State.LOST if t.state is State.CONFIRMED else t.state

    def _associate(
        self, faces: list[Face], tracks: list[_Motion], time: float, *, weak: bool
    ) -> tuple[list[Face], list[_Motion]]:
        """Match by overlap; returns the faces and tracks left over."""
        if not faces or not tracks:
            return faces, tracks
        boxes = np.stack([f.box for f in faces])
        expected = np.stack([t.predicted(time) for t in tracks])
        pairs = assign(1.0 - buffered_iou(expected, boxes), limit=1.0 - self.options.overlap)
        for t, f in pairs:
            tracks[t].see(faces[f], time, weak=weak)
            if tracks[t].state is State.LOST:
                tracks[t].state = State.CONFIRMED
        taken_t, taken_f = {t for t, _ in pairs}, {f for _, f in pairs}
        return (
            [f for i, f in enumerate(faces) if i not in taken_f],
            [t for i, t in enumerate(tracks) if i not in taken_t],
        )

    def _rejoin(self, faces: list[Face], time: float, embed: Embed) -> list[Face]:
        """Continue lost tracks whose appearance a face has; returns the faces left over."""
        lost = [
            t
            for t in self._tracks
            if t.state is State.LOST and t.appearance is not None and t.last_seen < time
        ]
        if not faces or not lost:
            return faces
        looks = np.stack([t.appearance for t in lost if t.appearance is not None])
        cost = 1.0 - (looks @ embed(faces).T)
        pairs = assign(cost, limit=1.0 - self.options.rejoin)
        for t, f in pairs:
            lost[t].see(faces[f], time, weak=False)
            lost[t].state = State.CONFIRMED
        taken = {f for _, f in pairs}
        return [f for i, f in enumerate(faces) if i not in taken]

    def _start(self, face: Face, time: float) -> _Motion:
        box = face.box.astype(np.float32)
        track = _Motion(
            id=self.next_id,
            state=State.TENTATIVE if self.options.confirm > 1 else State.CONFIRMED,
            face=face,
            centre=_centre(box),
            size=box[2:] - box[:2],
            velocity=np.zeros(2, np.float32),
            first_seen=time,
            last_seen=time,
        )
        self.next_id += 1
        self._tracks.append(track)
        return track

    def _age(self, time: float) -> list[Track]:
        for t in self._tracks:
            if t.last_seen == time:
                if t.state is State.TENTATIVE and t.hits >= self.options.confirm:
                    t.state = State.CONFIRMED
            elif t.state is State.TENTATIVE or time - t.last_seen > self.options.patience:
                t.state = State.REMOVED
            else:
                t.state = State.LOST
        told = [t.snapshot() for t in self._tracks]
        self._tracks = [t for t in self._tracks if t.state is not State.REMOVED]
        return told


def buffered_iou(a: Array, b: Array, *, buffer: float = 0.3) -> Array:
    """Intersection over union of boxes grown by `buffer` of their size on each side.

    Args:
        a: (n, 4) x1, y1, x2, y2.
        b: (m, 4).

    Returns:
        (n, m) float32 in [0, 1].
    """
    a, b = _grow(a, buffer)[:, None], _grow(b, buffer)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    overlap = np.clip(high - low, 0.0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return np.asarray(overlap / np.maximum(union, 1e-9), np.float32)


def _grow(boxes: Array, buffer: float) -> Array:
    margin = (boxes[:, 2:] - boxes[:, :2]) * buffer
    return np.hstack([boxes[:, :2] - margin, boxes[:, 2:] + margin])


def _centre(box: Array) -> Array:
    return (box[:2] + box[2:]) / np.float32(2)


class SceneCut:
    """Tells whether a frame shows another scene than the one before it.

    The mean absolute difference of two 32x18 gray thumbnails is compared with their contrast, so
    that a cut between two dark scenes counts as much as one between two bright ones: cuts measured
    0.6 and more, the fastest motion 0.25.
    """

    LIMIT, FLOOR = 0.5, 10.0  # share of the contrast; gray levels added so that noise is no cut

    def __init__(self) -> None:
        self._last: Array | None = None

    def __call__(self, image: Image) -> bool:
        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
        last, self._last = self._last, gray
        if last is None:
            return False
        contrast = (float(gray.std()) + float(last.std())) / 2 + self.FLOOR
        return float(np.abs(gray - last).mean()) > self.LIMIT * contrast
