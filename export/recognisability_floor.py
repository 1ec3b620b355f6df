"""Where the floors of recognisability lie for one embedder.

A weak embedder finds the owners of so few sharp pictures that the floors, chances of being found,
would refuse a fifth of them. Its answers are moved up until few fit pictures are refused, as long
as strangers with the same flaw stay unnamed. For such an embedder the number is larger than the
chance of being found; it says where a face stands to the floors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeface.recognisability import ENROLLED, NAMED, Recogniser
from edgeface.types import Array
from export.protocols.enrolled import named_share

# Of held-out people's pictures without a flaw, at the most, and of strangers with any one flaw, who
# may get a name, at the most. The default embedder refuses as many of those pictures, which are
# small and old ones too, and 2 % of LFW's. On LFW (`quality.enrolled` of 75 + 75 people) the edge
# embedder refuses 17 % with its answers as they are, moved by .4, .6 and .85 it refuses 7, 5 and
# 4 %, and .97, 1.1 and 1.5 % of masked strangers get a name; here .31, .35 and .41 %.
REFUSED, PASSING = 0.23, 0.0036
SPLITS = 400  # of people into residents and strangers
STEP = 0.1  # of the logit, by which a smaller move is tried


def eased(
    made: Recogniser,
    features: Array,
    rows: Array,
    kind: NDArray[np.int64],
    limit: Callable[[int], float],
) -> tuple[Recogniser, float]:
    """The measure with its answers moved up, and by how much (logit, 0 or more).

    Args:
        features, rows: (n, f) and unit (n, d) of held-out people's faces, a person once per kind.
        kind: (n,) which flaw they have, 0 for none.
        limit: the threshold for a gallery of so many people.
    """
    logits = made.answers(features)[:, 0]
    floor = _logit(ENROLLED)
    move = max(0.0, floor - float(np.quantile(logits[kind == 0], REFUSED)))
    while move > 0 and _passing(logits + move, rows, kind, limit) > PASSING:
        move = max(0.0, move - STEP)
    second = made.second.copy()
    second[-1, 0] += move
    return replace(made, second=second), move


def _passing(
    logits: Array, rows: Array, kind: NDArray[np.int64], limit: Callable[[int], float]
) -> float:
    """The largest share of strangers with one flaw who get a name."""
    enrolled, named = logits >= _logit(ENROLLED), logits >= _logit(NAMED)
    worst = 0.0
    for flaw in np.unique(kind[kind > 0]):
        rng, shares = np.random.default_rng(int(flaw)), []
        people = np.flatnonzero(kind == flaw)
        for _ in range(SPLITS):
            a, b = np.array_split(rng.permutation(people), 2)
            shares.append(named_share(rows[a], enrolled[a], rows[b], named[b], limit, rng, draws=1))
        worst = max(worst, float(np.mean(shares)))
    return worst


def _logit(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))
