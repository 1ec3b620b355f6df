"""Face detection: an image to boxes and five landmarks, best score first.

The network predicts one face per cell of three grids (strides 8, 16 and 32); its code for boxes
and landmarks is that of YuNet (Wu, Peng and Yu, 2023). Decoding happens here rather than in the
graph because only the few cells above the threshold need it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from edgeface.detect import looks
from edgeface.detect.boxes import overlaps, suppress
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
REFINED = 0.05  # score from which the upright look takes something for a face: low, it is reported
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


class Detector:
    """Finds faces in (H, W, 3) uint8 BGR images."""

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
        self._kept = threading.local()  # each thread its own buffer

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
        return looks.look(self._find, check(image), self.max_side)

    def search(self, image: Image) -> list[Face]:
        """Detect the faces of a single picture and measure each as `refine` does: also such as
        fill it, and, where none is sure, turned by quarters. What is no face on a second look is
        left out. One to five times the work of a call, and a sixth of it per face.

        Args, returns, raises: as for a call.
        """
        return looks.search(
            self._find, self._closely, check(image), self.max_side, self.score_threshold
        )

    def refine(self, image: Image, face: Face) -> Face:
        """Measure a face once more, turned upright in a small patch; about a sixth of the work of
        a call at 640x480.

        Args:
            image: (H, W, 3) uint8 BGR.
            face: one of its faces.

        Returns:
            the face with the landmarks, `pose` and score of that look; score 0 and the landmarks
            it had where the look shows no face. The box stays.

        Raises:
            ImageError: wrong shape or dtype.
        """
        return looks.refine(self._closely, check(image), face)

    def _closely(self, patch: Image) -> list[Face]:
        return self._find(patch, REFINED)

    def _find(self, image: Image, threshold: float | None = None) -> list[Face]:
        """The faces of `image` as it is."""
        height, width = image.shape[:2]
        planes = self._padded(image)
        maps = self._session.run({self.card.raw["input"]["name"]: planes})
        self._verify(maps, planes.shape[2:])
        found = decode(maps, self.score_threshold if threshold is None else threshold)
        limit = np.array([width, height] * 2, np.float32)
        faces = []
        for group in suppress(found.boxes, NMS_IOU):
            box, landmarks = blend(found, group)
            box = np.clip(box, 0, limit)
            if (box[2:] > box[:2]).all():  # a box wholly in the padding is no face of this image
                faces.append(Face(box, landmarks, float(found.scores[group[0]])))
        return faces

    def _padded(self, image: Image) -> Array:
        """`image` as (1, 3, H, W) float32, zeros to the right and below up to multiples of 32.

        The buffer is kept while sizes stay the same, as the frames of a video do; patches for
        `refine` come between them and need none.
        """
        height, width = (-(-n // STRIDES[-1]) * STRIDES[-1] for n in image.shape[:2])
        if image.shape[:2] == (height, width) == (looks.PATCH, looks.PATCH):
            return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
        kept = self._kept
        if getattr(kept, "size", None) != image.shape[:2]:
            kept.size = image.shape[:2]
            kept.planes = np.zeros((1, 3, height, width), np.float32)
        planes: Array = kept.planes
        planes[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        return planes

    def _verify(self, maps: Mapping[str, Array], size: tuple[int, ...]) -> None:
        for stride in STRIDES:
            name = f"stride_{stride}"
            rows, columns = (n // stride for n in size)
            shape = maps[name].shape if name in maps else None
            if shape != (1, CHANNELS, rows, columns):
                raise ModelError(
                    f"model {self.card.name} returned {shape} for {name}, "
                    f"{(1, CHANNELS, rows, columns)} was expected: it is not a face detector of "
                    "this kind; reinstall it"
                )
