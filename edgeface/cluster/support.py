"""What the first pass over the edges says around each of them, for the second.

In a neighbourhood of 64 most faces are strangers when a person has three pictures; among the edges
that the first pass holds likely they are not, so overlaps tell there what they cannot tell before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from edgeface.cluster import graph
from edgeface.cluster.graph import Indices
from edgeface.cluster.model import SUPPORT
from edgeface.types import Array

# Edges below this probability after the first pass are given up.
LIKELY = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """The likely edges of a graph: `rows` sorted with their amounts, `mass` (n,) the number of
    faces that a face expects to be its person, `rivals` (n, 2) its two largest probabilities."""

    indices: Indices
    first: Array
    rows: graph.Rows
    mass: Array
    rivals: Array

    @classmethod
    def of(cls, indices: Indices, first: Array) -> Self:
        """From a kNN graph (n, k), oneself in front, and its edges' first probabilities."""

        def likely(part: slice) -> Array:
            found = np.where(first[part] >= LIKELY, first[part], np.float32(0.0))
            found[:, 0] = 1.0
            return found

        def shares(part: slice) -> Array:
            return np.asarray(np.sqrt(likely(part) / mass[part, None]))

        n = len(first)
        mass, rivals = np.empty(n, np.float32), np.zeros((n, 2), np.float32)
        kept = np.empty_like(indices)
        for part in graph.blocks(n):
            found = likely(part)
            mass[part] = found.sum(axis=1)
            kept[part] = np.where(found > 0, indices[part], -1)
            others = -np.sort(-found[:, 1:], axis=1)[:, :2]
            rivals[part, : others.shape[1]] = others
        rows = graph.Rows.of(kept, [shares, likely])
        return cls(indices, first, rows, mass, rivals)

    def features(self, nodes: Indices) -> Array:
        """(m, k, f) float32 for the edges of `nodes` (m,) int32; meaningless for unlikely ones.

        Overlaps are the Bhattacharyya coefficient of the two rows of probabilities and the expected
        number of common faces, as a share of the smaller and of the larger mass. A rival is the
        best other edge of an end.
        """
        targets, first = self.indices[nodes], self.first[nodes]
        asked = np.where(first >= LIKELY, targets, -1).astype(np.int32)
        common = graph.overlap(self.rows, nodes, asked)
        here, there = self.mass[nodes][:, None], self.mass[targets]
        small, large = np.minimum(here, there), np.maximum(here, there)
        rivals = [_rival(first, r) for r in (self.rivals[nodes][:, None], self.rivals[targets])]
        found = [
            _logit(first),
            common[0],
            common[1] / small,
            common[1] / large,
            np.log(small),
            np.log(large),
            _logit(np.maximum(*rivals)),
            _logit(np.minimum(*rivals)),
        ]
        assert len(found) == len(SUPPORT)
        return np.stack(found, axis=2).astype(np.float32)


def expected_people(first: Array) -> float:
    """How many people a set holds: every face counts as its share of the faces that it expects to
    be its person. `first` (n, k) are the edges' first probabilities, oneself in front."""
    total = 0.0
    for part in graph.blocks(len(first)):
        found = np.where(first[part] >= LIKELY, first[part], 0.0)
        found[:, 0] = 1.0
        total += float((1.0 / found.sum(axis=1)).sum())
    return total


def _rival(first: Array, rivals: Array) -> Array:
    best, second = rivals[..., 0], rivals[..., 1]
    return np.asarray(np.where(first >= best - 1e-7, second, best))


def _logit(probabilities: Array) -> Array:
    held = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(held / (1 - held)))
