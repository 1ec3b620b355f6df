"""What a family of networks finds, how much boxes overlap, and which of many mean one face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeface.types import Array

BLEND_IOU = 0.6  # boxes that agree this well with the best one are averaged with it
MAX_CANDIDATES = 2000  # kept for suppression, best first: bounds its quadratic memory


class Candidates(NamedTuple):
    """What a network finds in one picture: `boxes` (n, 4) xyxy and `landmarks` (n, 5, 2) in pixels
    of the network's input, `scores` (n,) in [0, 1]; float32, best first."""

    boxes: Array
    landmarks: Array
    scores: Array


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
