"""Boxes: how much they overlap, and which of many mean one face."""

from __future__ import annotations

import numpy as np

from edgeface.types import Array


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
