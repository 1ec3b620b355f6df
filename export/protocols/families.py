"""People of families: who is the same, and who may not count as a stranger because of kinship."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.metrics import tar_at_far

Floats = NDArray[np.float32]
FARS = {"1e-3": 1e-3, "1e-4": 1e-4}


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Pictures (n, 112, 112, 3) uint8 BGR with `person` and `family` (n,) of each."""

    images: NDArray[np.uint8]
    person: NDArray[np.int64]
    family: NDArray[np.int64]

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of either side of every pair that says something, and which show one person: pairs
        of one person, and of two families, relatives left out."""
        a, b = np.triu_indices(len(self.person), 1)
        same = self.person[a] == self.person[b]
        told = same | (self.family[a] != self.family[b])
        return a[told], b[told], same[told]

    def tar(self, rows: Floats, probes: Floats) -> dict[str, float]:
        """TAR at FAR 1e-3 and 1e-4 over all `pairs` of one picture's row with another's probe."""
        a, b, same = self.pairs()
        cosine = (rows @ probes.T)[a, b]
        return {f"tar{name}": tar_at_far(cosine, same, far) for name, far in FARS.items()}
