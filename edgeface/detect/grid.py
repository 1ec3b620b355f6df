"""Networks that predict one face per cell of three grids (strides 8, 16 and 32).

Their code for boxes and landmarks is that of YuNet (Wu, Peng and Yu, 2023). Decoding happens here
rather than in the graph because only the few cells above the threshold need it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeface.detect.boxes import MAX_CANDIDATES, Candidates
from edgeface.types import Array

STRIDES = (8, 16, 32)  # px per cell; the outputs are named `stride_8` and so on
CHANNELS = 15  # score logit, box dx, dy, log w, log h, five landmarks x, y: all in strides
MULTIPLE = STRIDES[-1]  # px, of which the sides of an input are multiples


def shapes(height: int, width: int) -> dict[str, tuple[int, ...]]:
    """The outputs for an input of `height` and `width` px, and their shapes."""
    return {f"stride_{s}": (1, CHANNELS, height // s, width // s) for s in STRIDES}


def decode(maps: Mapping[str, Array], threshold: float, size: tuple[int, int]) -> Candidates:
    """The cells of one image whose score is at least `threshold`.

    Args:
        maps: what `shapes` names, float32.
        threshold: score in (0, 1).
        size: height and width of the input in px.

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
