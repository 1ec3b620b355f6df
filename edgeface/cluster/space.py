"""Embeddings prepared for comparison within one set: centred on its mean face, with the measure of
what similarities between its strangers are like."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from edgeface.cluster.graph import Indices
from edgeface.types import Array

# Statistics of fewer faces than this are mostly drawn from PRIOR: no mean, and the spread between
# strangers that two embedders of 128 and 512 numbers show on training identities.
FEW = 100
PRIOR = 0.09
# Pairs of strangers above the least similarity of a link. The more people, the more alike are the
# two that are most alike; neighbourhoods cannot tell, as every one of them holds the same number of
# faces. On held-back training people in sets of 24 to 2,700, two embedders: without the limit mean
# BCubed F 0.9589; with a limit of 0.01, 0.03 and 0.1 pairs per person 0.9593, 0.9595 and 0.9595;
# with 0.5 and 1.5 in the whole set 0.9589 and 0.9606.
FALSE_PAIRS = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What is kept of every face once its neighbours are known: `lengths` (n,) of the centred
    embeddings and `along` (n,) the embeddings' product with the mean, from which raw cosines
    follow; `offset` is the mean's product with itself."""

    lengths: Array
    along: Array
    offset: float

    def part(self, faces: Indices) -> Frame:
        """The frame of some faces."""
        return Frame(self.lengths[faces], self.along[faces], self.offset)

    def raw(self, nodes: Indices, targets: Indices, centred: Array) -> Array:
        """Cosines of the embeddings as they came, from centred ones (m, k)."""
        return (
            self.lengths[nodes, None] * self.lengths[targets] * centred
            + self.along[nodes, None]
            + self.along[targets]
            - np.float32(self.offset)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """`rows` (n, d) centred unit embeddings, and their `frame`."""

    rows: Array
    frame: Frame

    @classmethod
    def of(cls, embeddings: Array, mean: Array | None = None) -> Self:
        """Subtract the mean face: what all faces share tells nobody apart. A mean of few faces is
        mostly those people, so it counts as far as there are more than FEW of them."""
        if mean is None:
            mean = mean_face(embeddings)
        rows = embeddings - mean
        lengths = np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), np.float32(1e-6))
        rows /= lengths[:, None]
        return cls(rows, Frame(lengths, embeddings @ mean, float(mean @ mean)))


@dataclass(frozen=True, slots=True)
class Strangers:
    """The similarities between two different people of a set: `middle` and `spread` of centred
    ones, `raw_middle` and `raw_spread` of the embeddings as they came."""

    middle: float
    spread: float
    raw_middle: float
    raw_spread: float

    def reach(self, people: float) -> float:
        """The raw cosine that FALSE_PAIRS pairs of strangers reach in a set of so many people, were
        their similarities spread like a Gaussian."""
        share = min(0.5, 2 * FALSE_PAIRS / max(people, 1.0) ** 2)
        # The other tail, whose small shares a float can hold.
        return self.raw_middle - self.raw_spread * NormalDist().inv_cdf(share)

    @classmethod
    def of(cls, space: Space) -> Self:
        """The median and its distance to the 16 % quantile, over pairs of evenly drawn faces: pairs
        of one person lie above the median, so they do not widen the spread."""
        n = len(space.rows)
        drawn = np.unique(np.linspace(0, max(n - 1, 0), min(n, 1500)).astype(np.int32))
        centred = space.rows[drawn] @ space.rows[drawn].T
        raw = space.frame.raw(drawn, np.broadcast_to(drawn, centred.shape), centred)
        off = ~np.eye(len(drawn), dtype=bool)
        trust = n / (n + FEW)
        found: list[float] = []
        for values in (centred, raw):
            low, middle = np.quantile(values[off], (0.16, 0.5)) if n > 1 else (-PRIOR, 0.0)
            spread = trust * float(middle - low) + (1.0 - trust) * PRIOR
            found += [trust * float(middle), max(spread, 1e-3)]
        return cls(*found)


def mean_face(embeddings: Array) -> Array:
    """(d,) float32: the mean of the rows, drawn towards zero where they are few."""
    n = len(embeddings)
    if n == 0:
        return np.zeros(embeddings.shape[1], np.float32)
    return np.asarray(embeddings.mean(axis=0, dtype=np.float64) * (n / (n + FEW)), np.float32)
