"""Detection that pays for what changes.

Where something moved, frames are searched for new faces every tenth of a second; faces that are
known are followed in every frame, at the scale they need; a frame is looked at as a whole now and
then and at scene cuts. A face in a place that did not change is the face that was found there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeface.detect import overlaps
from edgeface.detect.looks import height
from edgeface.motion import CELL, Cells, Motion
from edgeface.opencv import cv2
from edgeface.track import State, Track
from edgeface.types import Face, Image

Part = tuple[int, int, int, int]  # x1, y1, x2, y2 in cells or pixels
Look = tuple[Part, float]  # a part in pixels, and how many times as large it is looked at

MARGIN = 1  # cells searched around what moved: a face shows in less than its whole moving
AROUND = 0.4  # share of a face's box that is looked at on each side of it
ENOUGH = 48.0  # px of height to which a face that is followed is scaled down
SMALL = 20.0  # px of height at the scale of the whole frame below which a face may be missed there
FINE = 0.3  # share of the work of a whole frame that a finer search of parts of it may cost
FINER = 1.5  # times larger that a search must be to be called finer
OVERHEAD = 0.03  # share of that work that a look at a part takes beside its pixels
MOSTLY = 0.8  # share of that work from which a frame is looked at as a whole
SAME = 0.3  # overlap from which two boxes are one face


@dataclass(frozen=True, slots=True)
class MotionOptions:
    """How the work of detection follows what happens."""

    search: float = 0.1  # seconds between searches where things move on; more: cheaper, new faces
    # come later by as much
    whole: float = 2.0  # seconds between looks at the whole frame; more: cheaper, later where a
    # face came without a visible change


class PartDetector(Protocol):
    """What the gate needs of a detector."""

    @property
    def max_side(self) -> int:
        """px to which a larger image is scaled down."""
        ...

    @property
    def any_size(self) -> bool:
        """Whether a part of an image costs less than the whole."""
        ...

    def __call__(self, image: Image, /) -> list[Face]:
        """The faces of a frame, quickly."""
        ...

    def within(self, image: Image, part: Part, ratio: float, /) -> list[Face]:
        """The faces of a part of an image looked at `ratio` times as large, in its pixels."""
        ...


class Gate:
    """Decides where to look in the frames of one source. Not thread-safe; one per source."""

    def __init__(self, detector: PartDetector, options: MotionOptions) -> None:
        self._detector, self._options = detector, options
        self._size = (0, 0)
        self._faces: list[Face] = []

    def ratio(self, image: Image) -> float:
        """The scale at which a whole frame is looked at."""
        return float(min(1.0, self._detector.max_side / max(image.shape[:2])))

    def __call__(
        self, image: Image, small: Image, time: float, tracks: Sequence[Track], *, cut: bool
    ) -> list[Face]:
        """The faces of a frame.

        Args:
            image: (H, W, 3).
            small: its `motion.thumbnail` at `ratio`.
            time: s, never decreasing.
            tracks: of the frame before. Around those that are not sure the frame is searched
                anyway: that a face flickers in and out is what tells about it.
            cut: whether the frame shows another scene.
        """
        if cut or image.shape[:2] != self._size:
            self._begin(image, small)
            return self._whole(image, time)
        moved = self._motion(small)
        if time - self._complete >= self._options.whole:
            return self._whole(image, time)
        search = grow(moved & (time - self._searched >= self._options.search))
        for track in tracks:
            sure = track.state is State.CONFIRMED and not track.weak
            if not sure and track.state is not State.REMOVED:
                search[self._around(track.face)] = True
        searches = self._searches(search)
        still: list[Face] = []
        stirred: list[Face] = []
        for face in self._faces:
            if not search[self._cell(face)]:
                (stirred if moved[self._around(face)].any() else still).append(face)
        if not searches and not stirred:
            return self._faces
        faces = self._look(image, searches, stirred)
        if faces is None:
            return self._whole(image, time)
        return self._keep([*still, *faces], search, time)

    def _begin(self, image: Image, small: Image) -> None:
        self._size = height, width = image.shape[0], image.shape[1]
        self._ratio, self._motion, self._faces = self.ratio(image), Motion(small), []
        self._step = CELL * np.array([width, height]) / self._motion.points[::-1]  # px per cell
        self._searched = np.full(self._motion.cells, -math.inf)
        self._complete = -math.inf

    def _keep(self, faces: list[Face], searched: Cells, time: float) -> list[Face]:
        self._motion.look(searched)
        self._searched[searched] = time
        self._faces = sorted(faces, key=lambda f: -f.score)
        return self._faces

    def _whole(self, image: Image, time: float) -> list[Face]:
        """Look at the whole frame, and more closely where small faces were."""
        found = self._detector(image)
        where = np.zeros(self._motion.cells, bool)
        for face in self._faces:
            if self._is_small(face) and nearest(face, found) is None:
                where[self._around(face)] = True
        if where.any() and self._detector.any_size:
            for part, ratio in self._searches(where):
                again = self._detector.within(image, part, ratio)
                fresh = [f for f in again if self._is_small(f) and nearest(f, found) is None]
                found = [*found, *fresh]
        self._complete = time
        return self._keep(found, np.ones(self._motion.cells, bool), time)

    def _look(
        self, image: Image, searches: Sequence[Look], stirred: Sequence[Face]
    ) -> list[Face] | None:
        """What is found in parts of a frame, and where faces went that moved; None where the whole
        frame is cheaper or has to tell."""
        pursuits = [self._pursuit(face) for face in stirred]
        whole = self._ratio**2 * self._size[0] * self._size[1]
        work = sum(OVERHEAD + ratio**2 * area(p) / whole for p, ratio in [*searches, *pursuits])
        if not self._detector.any_size or work > MOSTLY:
            return None
        found = []
        for part, ratio in searches:
            faces = self._detector.within(image, part, ratio)
            if any(_reaches_out(f, part, self._size) for f in faces):
                return None
            found += faces
        for face, (part, ratio) in zip(stirred, pursuits, strict=True):
            again = nearest(face, self._detector.within(image, part, ratio))
            if again is None or _reaches_out(again, part, self._size):
                return None
            if nearest(again, found) is None:
                found.append(again)
        return found

    def _searches(self, where: Cells) -> list[Look]:
        """How the cells `where` are searched, which are filled up to disjoint rectangles: in a
        frame that is scaled down, more finely as long as it costs little."""
        parts = self._parts(where)
        work = self._ratio**2 * self._size[0] * self._size[1]
        ratio = min(1.0, math.sqrt(FINE * work / max(sum(map(area, parts)), 1)))
        if ratio < FINER * self._ratio:
            ratio = self._ratio
        return [(part, ratio) for part in parts]

    def _pursuit(self, face: Face) -> Look:
        """How a known face is followed: at the scale it needs, as far as it may have moved."""
        low, high = face.box[:2], face.box[2:]
        margin = AROUND * (high - low)
        (x1, y1), (x2, y2) = np.floor(low - margin).astype(int), np.ceil(high + margin).astype(int)
        part = (
            max(int(x1), 0),
            max(int(y1), 0),
            min(int(x2), self._size[1]),
            min(int(y2), self._size[0]),
        )
        return part, min(1.0, ENOUGH / max(height(face), 1.0))

    def _parts(self, where: Cells) -> list[Part]:
        """Disjoint rectangles, in pixels, that hold the cells `where`, which are filled up to them;
        a face that was found is in one of them with its surroundings or in none."""
        while where.any():
            parts = rectangles(where)
            for x1, y1, x2, y2 in parts:
                where[y1:y2, x1:x2] = True
            torn = [c for f in self._faces if 0 < where[c := self._around(f)].mean() < 1]
            for cells in torn:
                where[cells] = True
            if not torn and len(rectangles(where)) == len(parts):
                return [self._pixels(p) for p in parts]
        return []

    def _pixels(self, part: Part) -> Part:
        (x1, y1), (x2, y2) = (np.round(self._step * p).astype(int) for p in (part[:2], part[2:]))
        return int(x1), int(y1), min(int(x2), self._size[1]), min(int(y2), self._size[0])

    def _around(self, face: Face) -> tuple[slice, slice]:
        """The cells of a face and its surroundings."""
        margin = AROUND * (face.box[2:] - face.box[:2])
        low = np.floor((face.box[:2] - margin) / self._step).astype(int)
        high = np.ceil((face.box[2:] + margin) / self._step).astype(int)
        rows, columns = self._motion.cells
        x, y = min(max(int(low[0]), 0), columns - 1), min(max(int(low[1]), 0), rows - 1)
        return slice(y, max(int(high[1]), y + 1)), slice(x, max(int(high[0]), x + 1))

    def _cell(self, face: Face) -> tuple[int, int]:
        """The cell of a face's middle."""
        x, y = ((face.box[:2] + face.box[2:]) / 2 / self._step).astype(int)
        rows, columns = self._motion.cells
        return min(max(int(y), 0), rows - 1), min(max(int(x), 0), columns - 1)

    def _is_small(self, face: Face) -> bool:
        return height(face) * self._ratio < SMALL


def grow(cells: Cells) -> Cells:
    """The cells and those up to `MARGIN` away from them."""
    side = 2 * MARGIN + 1
    return np.asarray(cv2.dilate(cells.view(np.uint8), np.ones((side, side), np.uint8)), bool)


def rectangles(cells: Cells) -> list[Part]:
    """The rectangles around connected cells."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(cells.view(np.uint8), connectivity=8)
    return [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:count].tolist()]


def area(part: Part) -> int:
    """Of a rectangle."""
    return (part[2] - part[0]) * (part[3] - part[1])


def nearest(face: Face, others: Sequence[Face]) -> Face | None:
    """The one of `others` that is the same face."""
    if not others:
        return None
    shared = overlaps(face.box[None], np.stack([f.box for f in others]))[0]
    best = int(shared.argmax())
    return others[best] if shared[best] > SAME else None


def _reaches_out(face: Face, part: Part, size: tuple[int, int]) -> bool:
    """Whether a face ends where its part does but the frame of `size` (H, W) does not."""
    low, high = np.array(part[:2]), np.array(part[2:])
    left = (face.box[:2] <= low + 1) & (low > 0)
    right = (face.box[2:] >= high - 1) & (high < np.array(size[::-1]))
    return bool(left.any() or right.any())
