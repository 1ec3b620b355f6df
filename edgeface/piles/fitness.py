"""How far a face can be trusted to say who it is, and which cannot be judged at all.

Everything that piles know of this comes from here: the quality of the crop, and `fitness`, what
the embedder made of it. Embedders answer for faces that nobody could recognise with much the same
embedding, whoever it is, and for masked faces with another; how near a face lies to these places,
learnt from the pile's own faces, is the second half of the measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeface.opencv import cv2
from edgeface.types import Array, Image

if TYPE_CHECKING:
    from edgeface.piles.looking import Embedder
    from edgeface.piles.store import Store

# Faces of less fitness are nobody.
FLOOR = 0.5
# The quality, and the cosine to a place of collapse, that halve the fitness, and how sharply the
# cosine does. Of 5,410 fit faces of training people 1.0 % lie above 0.25 to what is too small and
# 0.9 % to what is covered; of the detections in scenes of crowds and masks 45 % do to the first.
QUALITY, NEARNESS, STEEPNESS = 0.05, 0.25, 0.05
# Pixels of a crop's side at which faces look alike: at 8 to 12 px the mean of one person's faces
# has a cosine of 0.68 to 0.93 to everybody's mean, at 6 and 8 one of 0.86 to 0.93.
_SHRUNK = (6, 8)
# What mouth and nose are covered with, BGR: masks are white, blue or dark.
_COVERS = ((235, 235, 235), (200, 160, 90), (40, 40, 40))
_MASK = np.array([[22, 66], [56, 58], [90, 66], [84, 100], [56, 112], [28, 100]], np.int32)
_LEARNT = 128  # crops from which the collapse is learnt
_KEY = "collapse"


@dataclass(frozen=True, slots=True, eq=False)
class Collapse:
    """Where an embedder puts what it cannot recognise: `points` (2, d) float32 of length one, that
    of faces too small and that of covered ones, or of zeros while no face was seen."""

    points: Array

    @classmethod
    def learn(cls, store: Store, crops: Image, rows: Array, embedder: Embedder) -> None:
        """Spoil the first crops (n, 112, 112, 3) of a pile in both ways until nobody is on them,
        and add what their embeddings have become to the sums in the store. `rows` (n, d) are the
        embeddings of the crops: what a spoilt face keeps of itself is taken away, or the pile of
        one person would learn that person (cosines of 0.45 to 0.63 for three people of LFW; so
        0.01 to 0.08)."""
        before = store.setting(_KEY)
        count, total = (0.0, None) if before is None else _split(before)
        if count >= _LEARNT:
            return
        crops = crops[: int(_LEARNT - count)]
        own = rows[: len(crops)]
        small = [_shrunk(crop, side) for crop in crops for side in _SHRUNK]
        covered = [_covered(crop, colour) for crop in crops for colour in _COVERS]
        added = np.stack([_lost(embedder(np.stack(some)), own) for some in (small, covered)])
        summed = added if total is None else total + added
        count += len(crops)
        store.set(_KEY, np.append(np.float32(count), summed.ravel()).astype("<f4").tobytes())

    @classmethod
    def of(cls, store: Store, size: int) -> Collapse:
        """What was learnt so far, for embeddings of `size` numbers."""
        kept = store.setting(_KEY)
        total = np.zeros((2, size), np.float32) if kept is None else _split(kept)[1]
        return cls(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9))


def _split(kept: bytes) -> tuple[float, Array]:
    values = np.frombuffer(kept, "<f4").astype(np.float32)
    return float(values[0]), values[1:].reshape(2, -1)


def _lost(spoilt: Array, own: Array) -> Array:
    """The sum of embeddings of spoilt faces, several to each of `own` (n, d), without the part
    that is in the direction of the face itself."""
    whole = np.repeat(own, len(spoilt) // len(own), axis=0)
    kept = np.einsum("nd,nd->n", spoilt, whole)
    return np.asarray((spoilt - kept[:, None] * whole).sum(axis=0))


def _shrunk(crop: Image, side: int) -> Image:
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def _covered(crop: Image, colour: tuple[int, int, int]) -> Image:
    return np.asarray(cv2.fillConvexPoly(crop.copy(), _MASK, colour))


def fitness(qualities: Array, embeddings: Array, collapse: Collapse) -> list[tuple[float, str]]:
    """How far faces can be trusted, in [0, 1], and why not where it is below FLOOR.

    `qualities` (n,) are those of the faces, `embeddings` (n, d) unit rows.
    """
    nearness = (embeddings @ collapse.points.T).max(axis=1)
    seen = qualities**2 / (qualities**2 + QUALITY**2)
    told = 1.0 / (1.0 + np.exp(np.clip((nearness - NEARNESS) / STEEPNESS, -60.0, 60.0)))
    found = []
    for quality, distinct in zip(seen.tolist(), told.tolist(), strict=True):
        value = quality * distinct
        reason = ""
        if value < FLOOR:
            reason = (
                "too small, blurred, dark or turned away"
                if quality < distinct
                else "not recognisable: covered, blurred, or no face"
            )
        found.append((value, reason))
    return found
