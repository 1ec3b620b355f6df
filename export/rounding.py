"""Steps of 8 bits: which one rounds a weight or a map with the least squared error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEVELS = 255  # of a map, uint8
MOST = 127  # of a weight, int8, symmetric


def weight_scale(weight: Floats) -> Floats:
    """int8 step of every output channel (o, 1, …) of a weight (o, …), the one with the least
    squared error of a few between 70 and 100 % of the largest weight."""
    flat = weight.reshape(len(weight), -1)
    best = np.full(len(flat), np.inf, np.float32)
    scale = np.ones(len(flat), np.float32)
    top = np.maximum(np.abs(flat).max(1), 1e-8) / MOST
    for part in np.linspace(0.7, 1.0, 16):
        step = top * np.float32(part)
        error = flat - np.clip(np.round(flat / step[:, None]), -MOST, MOST) * step[:, None]
        squared = np.square(error).sum(1)
        scale = np.where(squared < best, step, scale)
        best = np.minimum(best, squared)
    return scale.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float32)


def range_of(parts: Sequence[Floats], *, samples: int = 200_000) -> tuple[float, float]:
    """(scale, zero point) of a uint8 map seen in `parts`: of the observed range and some that cut
    off a tenth of either end, the one with the least squared error: more costs rare faces."""
    low = min(0.0, *(float(part.min()) for part in parts))
    high = max(0.0, *(float(part.max()) for part in parts))
    stride = max(1, sum(part.size for part in parts) // samples)
    some = np.concatenate([part.ravel()[::stride] for part in parts])
    best, chosen = math.inf, (1.0, 0.0)
    for cut_low, cut_high in itertools.product((1.0, 0.9), repeat=2):
        scale = max((high * cut_high - low * cut_low) / LEVELS, 1e-8)
        zero = float(min(max(round(-low * cut_low / scale), 0), LEVELS))
        q = np.clip(np.round(some / np.float32(scale)) + np.float32(zero), 0, LEVELS)
        error = float(np.square((q - zero) * np.float32(scale) - some).mean(dtype=np.float64))
        if error < best:
            best, chosen = error, (scale, zero)
    return chosen
