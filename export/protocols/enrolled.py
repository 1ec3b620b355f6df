"""How often strangers get a name when a few people were enrolled from pictures like theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeface.decide import Rules
from edgeface.types import Array

GALLERY, DRAWS = 10, 400  # people enrolled at a time, how often they are drawn

Bools = NDArray[np.bool_]


def named_share(
    residents: Array,
    enrolled: Bools,
    strangers: Array,
    named: Bools,
    limit: Callable[[int], float],
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> float:
    """The mean share of strangers who get a name from galleries of `GALLERY` residents.

    Args:
        residents: (n, d) unit rows, one per person.
        enrolled: (n,) which of them would be enrolled at all.
        strangers: (m, d) unit rows of other people.
        named: (m,) which of them would be named at all.
        limit: the threshold for a gallery of so many people.
        draws: galleries drawn.
    """
    if not len(strangers):
        return 0.0
    shares = []
    for _ in range(draws):
        drawn = rng.permutation(len(residents))[:GALLERY]
        drawn = drawn[enrolled[drawn]]
        if not len(drawn):
            shares.append(0.0)
            continue
        similar = np.sort(strangers @ residents[drawn].T, axis=1)
        lead = similar[:, -1] - similar[:, -2] if len(drawn) > 1 else np.inf
        right = (similar[:, -1] >= limit(len(drawn))) & (lead >= Rules().margin) & named
        shares.append(float(right.mean()))
    return float(np.mean(shares))
