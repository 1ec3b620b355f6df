"""Face detection: an image to boxes and five landmarks, best score first.

The network predicts one face per cell of three grids (strides 8, 16 and 32); its code for boxes
and landmarks is that of YuNet (Wu, Peng and Yu, 2023). Decoding happens here rather than in the
graph because only the few cells above the threshold need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import cv2
import numpy as np

from edgeface.errors import ArgumentError, ModelError
from edgeface.images import check
from edgeface.models import ModelCard, load_card
from edgeface.runtime import Runtime, Session, open_session
from edgeface.types import Array, Face, Image

DEFAULT = "detector"
STRIDES = (8, 16, 32)  # px per cell; the outputs of a model are named `stride_8` and so on
CHANNELS = 15  # score logit, box dx, dy, log w, log h, five landmarks x, y: all in strides
NMS_IOU = 0.4
BLEND_IOU = 0.6  # cells that agree this well with the best one are averaged with it
MAX_SIDE = 640
# px in the network's input. Faces taller than LARGE are beyond what most training pictures showed;
# their landmarks are measured again with the tallest face MEASURED px tall, which halved the error.
LARGE, MEASURED = 170, 110
MAX_CANDIDATES = 2000  # cells kept for suppression, best first: bounds its quadratic memory


class Candidates(NamedTuple):
    """Decoded cells: `boxes` (n, 4) xyxy and `landmarks` (n, 5, 2) in pixels of the network's
    input, `scores` (n,) in [0, 1]; float32, best first."""

    boxes: Array
    landmarks: Array
    scores: Array


def decode(maps: Mapping[str, Array], threshold: float) -> Candidates:
    """The cells of one image whose score is at least `threshold`.

    Args:
        maps: per stride s an array (1, 15, H/s, W/s) float32 named `stride_s`.
        threshold: score in (0, 1).

    Returns:
        At most `MAX_CANDIDATES`, best first.
    """
    logit = np.log(threshold / (1 - threshold))
    parts = []
    for stride in STRIDES:
        grid = maps[f"stride_{stride}"][0]
        row, column = np.nonzero(grid[0] >= logit)
        cells = grid[:, row, column].T  # (n, 15)
        corner = np.stack([column, row], axis=1).astype(np.float32)
        centre = cells[:, 1:3] + corner
        half = np.exp(np.minimum(cells[:, 3:5], 8.0)) / 2  # a wild cell must not overflow
        points = cells[:, 5:].reshape(-1, 5, 2) + corner[:, None]
        scaled = np.concatenate([centre - half, centre + half, points.reshape(-1, 10)], axis=1)
        parts.append(np.concatenate([cells[:, :1], scaled * stride], axis=1))
    rows = np.concatenate(parts)
    rows = rows[np.argsort(-rows[:, 0], kind="stable")[:MAX_CANDIDATES]]
    scores = 1 / (1 + np.exp(-rows[:, 0]))
    return Candidates(rows[:, 1:5], rows[:, 5:].reshape(-1, 5, 2), scores)


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of every box of `a` (n, 4) with every box of `b` (m, 4), (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area_a, area_b = (np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def suppress(boxes: Array, iou: float) -> list[list[int]]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (n, 4) xyxy, best first.
        iou: a box that overlaps a better one by more belongs to it.

    Returns:
        One group of row numbers per face, each led by its best box; every row is in one group.
    """
    close = overlaps(boxes, boxes) > iou
    free = np.ones(len(boxes), bool)
    groups = []
    for i in range(len(boxes)):
        if free[i]:
            members = np.flatnonzero(close[i] & free)
            free[members] = False
            free[i] = False
            groups.append([i, *(int(j) for j in members if j != i)])
    return groups


def blend(found: Candidates, group: Sequence[int]) -> tuple[Array, Array]:
    """Box (4,) and landmarks (5, 2) of one face: the mean, weighted by score, of the cells of its
    group that overlap the best one by `BLEND_IOU` or more.

    Averaging in place of picking steadies the points (BlazeFace, Bazarevsky et al. 2019, §3.4).
    """
    rows = np.asarray(group)
    rows = rows[overlaps(found.boxes[rows[:1]], found.boxes[rows])[0] >= BLEND_IOU]
    weights = found.scores[rows] / found.scores[rows].sum()
    box = np.tensordot(weights, found.boxes[rows], 1)
    return box, np.tensordot(weights, found.landmarks[rows], 1)


def _measured(face: Face, again: Sequence[Face]) -> Face:
    """`face` with the landmarks that its best match in `again` has, if there is one."""
    if not again:
        return face
    shared = overlaps(face.box[None], np.stack([f.box for f in again]))[0]
    best = int(np.argmax(shared))
    return replace(face, landmarks=again[best].landmarks) if shared[best] > 0.5 else face


class Detector:
    """Finds faces in (H, W, 3) uint8 BGR images. Not for use by two threads at once."""

    def __init__(
        self,
        session: Session,
        card: ModelCard,
        *,
        max_side: int = MAX_SIDE,
        score_threshold: float | None = None,
    ) -> None:
        """Wrap a session.

        Args:
            session: a network with the outputs that `decode` reads.
            card: its card; gives the input's name and the default threshold.
            max_side: px; a larger image is scaled down to this before detection, a smaller one is
                taken as it is. Faces below about 10 px after that are not found.
            score_threshold: lowest score of a face, in (0, 1); None takes the card's.

        Raises:
            ArgumentError: `max_side` < 32 or a threshold outside (0, 1).
        """
        threshold = card.threshold.value if score_threshold is None else score_threshold
        if not 0 < threshold < 1:
            raise ArgumentError(f"score threshold is {threshold}; it must lie between 0 and 1")
        if max_side < STRIDES[-1]:
            raise ArgumentError(f"max_side is {max_side}; {STRIDES[-1]} or more is needed")
        self._session = session
        self.card = card
        self.max_side = max_side
        self.score_threshold = threshold
        self._planes = np.zeros((1, 3, 0, 0), np.float32)
        self._filled = (0, 0)

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT,
        *,
        runtime: Runtime = "auto",
        threads: int = 2,
        max_side: int = MAX_SIDE,
        score_threshold: float | None = None,
    ) -> Self:
        """A ready detector by model name or file.

        Raises:
            ModelError: unknown, damaged or not a detection model.
            ArgumentError: bad `max_side`, threshold, runtime or threads.
        """
        card = load_card(model, "detection")
        session = open_session(card.path, runtime=runtime, threads=threads)
        return cls(session, card, max_side=max_side, score_threshold=score_threshold)

    def __call__(self, image: Image) -> list[Face]:
        """Detect the faces of one image.

        Args:
            image: (H, W, 3) uint8 BGR of any size.

        Returns:
            Faces, best score first; boxes (clipped to the image) and landmarks in its pixels.

        Raises:
            ImageError: wrong shape or dtype.
            ModelError: the model's outputs are not those of a detector.
        """
        check(image)
        ratio = min(1.0, self.max_side / max(image.shape[:2]))
        faces = self._find(image, ratio)
        tallest = max((float(f.box[3] - f.box[1]) for f in faces), default=0.0) * ratio
        if tallest <= LARGE:
            return faces
        again = self._find(image, ratio * MEASURED / tallest)
        return [_measured(f, again) if (f.box[3] - f.box[1]) * ratio > LARGE else f for f in faces]

    def _find(self, image: Image, ratio: float) -> list[Face]:
        """The faces of `image` scaled by `ratio`, in pixels of `image`."""
        height, width = image.shape[:2]
        small = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        if ratio < 1:
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        maps = self._session.run({self.card.raw["input"]["name"]: self._padded(image)})
        self._verify(maps)
        found = decode(maps, self.score_threshold)
        scale = np.array([width / small[0], height / small[1]], np.float32)
        limit = np.array([width, height] * 2, np.float32)
        faces = []
        for group in suppress(found.boxes, NMS_IOU):
            box, landmarks = blend(found, group)
            box = np.clip(box * np.tile(scale, 2), 0, limit)
            if (box[2:] > box[:2]).all():  # a box wholly in the padding is no face of this image
                faces.append(Face(box, landmarks * scale, float(found.scores[group[0]])))
        return faces

    def _padded(self, image: Image) -> Array:
        """`image` as (1, 3, H, W) float32, zeros to the right and below up to multiples of 32.

        The buffer is kept while sizes stay the same, as the frames of a video do.
        """
        if image.shape[:2] != self._filled:
            self._filled = (image.shape[0], image.shape[1])
            height, width = (-(-n // STRIDES[-1]) * STRIDES[-1] for n in self._filled)
            self._planes = np.zeros((1, 3, height, width), np.float32)
        self._planes[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        return self._planes

    def _verify(self, maps: Mapping[str, Array]) -> None:
        for stride in STRIDES:
            name = f"stride_{stride}"
            rows, columns = (n // stride for n in self._planes.shape[2:])
            shape = maps[name].shape if name in maps else None
            if shape != (1, CHANNELS, rows, columns):
                raise ModelError(
                    f"model {self.card.name} returned {shape} for {name}, "
                    f"{(1, CHANNELS, rows, columns)} was expected: it is not a face detector of "
                    "this kind; reinstall it"
                )
