"""All pairs of a set of labelled faces, of which there may be a hundred million."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError
from edgeface.metrics import threshold_at_far

Floats = NDArray[np.float32]
BLOCK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Cosines of all pairs of one person, `genuine` (g,), and of the `highest` (h,) of the
    `impostors` pairs of two."""

    genuine: Floats
    highest: Floats
    impostors: int

    def threshold(self, far: float) -> float:
        """As `threshold_at_far` of all impostor pairs.

        Raises:
            ArgumentError: more pairs than were kept lie above it.
        """
        allowed = int(np.floor(far * self.impostors + 1e-9))
        if allowed >= len(self.highest):
            raise ArgumentError(f"{len(self.highest)} pairs do not tell a threshold at FAR {far}")
        return threshold_at_far(self.highest, allowed / len(self.highest))

    def tar(self, far: float) -> float:
        """Share of the genuine pairs accepted at a false accept rate of at most `far`."""
        return float(np.mean(self.genuine >= self.threshold(far)))


def all_pairs(rows: Floats, person: NDArray[np.int64], *, most: float = 1e-3) -> Pairs:
    """Every pair of unit `rows` (n, d), whose people are `person` (n,); of the impostors the share
    `most` with the highest cosine is kept. Memory: a block of rows against all."""
    count = len(rows)
    genuine: list[Floats] = []
    found: list[Floats] = []
    impostors, waiting, cut = 0, 0, -np.inf
    keep = int(most * count * (count - 1) / 2) + 1
    for start in range(0, count, BLOCK):
        cosine = rows[start : start + BLOCK] @ rows[start:].T
        later = np.triu(np.ones(cosine.shape, bool), 1)
        same = person[start : start + BLOCK, None] == person[None, start:]
        genuine.append(cosine[later & same])
        later &= ~same
        impostors += int(later.sum())
        found.append(cosine[later & (cosine >= cut)])
        waiting += len(found[-1])
        if waiting > 4 * keep:
            found = [_highest(found, keep)]
            waiting, cut = keep, float(found[0].min())
    return Pairs(np.concatenate(genuine), np.sort(_highest(found, keep))[::-1], impostors)


def _highest(parts: list[Floats], count: int) -> Floats:
    whole = np.concatenate(parts)
    return whole if len(whole) <= count else np.partition(whole, -count)[-count:]
