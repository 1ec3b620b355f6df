"""How sure a difference between two ways of fusing is, by resampling people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

FAR, RESAMPLES, BINS = 1e-3, 1000, 2000


def interval(
    one: list[Floats], other: list[Floats], people: list[Rows], gallery: int
) -> tuple[float, float]:
    """95 % of the difference in TAR, percent, of two ways of fusing, the mean over several lists of
    sets, resampling people; each way gives similarities (s, g) of the sets of `people` (s,)."""
    ways = [
        [_counts(values, who, gallery) for values, who in zip(way, people, strict=True)]
        for way in (one, other)
    ]
    rng, gains = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, gallery, gallery), minlength=gallery).astype(np.float32)
        first, second = (np.mean([_tar(times @ a, times @ b) for a, b in way]) for way in ways)
        gains.append(100 * (first - second))
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def _counts(similarities: Floats, people: Rows, gallery: int) -> tuple[Floats, Floats]:
    """Histograms (g, BINS) of each person's own similarities and of those with others."""
    bins = np.clip(((similarities + 1) / 2 * BINS).astype(np.int64), 0, BINS - 1)
    same = people[:, None] == np.arange(gallery)[None]
    flat = people[:, None] * BINS + bins
    own, foreign = (
        np.bincount(flat[some], minlength=gallery * BINS).reshape(gallery, BINS)
        for some in (same, ~same)
    )
    return own.astype(np.float32), foreign.astype(np.float32)


def _tar(own: Floats, foreign: Floats) -> float:
    """TAR at the lowest bin above which at most `FAR` of the foreign similarities lie."""
    above = np.cumsum(foreign[::-1])[::-1]
    allowed = np.flatnonzero(above <= FAR * foreign.sum())
    first = int(allowed[0]) if len(allowed) else BINS
    return float(own[first:].sum() / own.sum())
