"""A kNN graph that grows: new faces enter others' lists, and what changed is looked at alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster.edges import Neighbourhoods, least_link
from edgeface.cluster.graph import Indices
from edgeface.cluster.model import EdgeModel
from edgeface.cluster.neighbours import Neighbours
from edgeface.cluster.space import Frame, Strangers
from edgeface.score import topk
from edgeface.types import Array

BLOCK = 4096


def with_new(near: Neighbours, rows: Array, old: int, k: int) -> tuple[Neighbours, Indices]:
    """The kNN graph of `rows` (n, d) from that of the first `old`: lists of the new faces, and
    their places in others' lists. Also the faces whose lists are not what they were (m,) int32."""
    n, k = len(rows), min(k, len(rows))
    indices = np.full((n, k), -1, np.int32)
    similarities = np.full((n, k), -1.0, np.float32)
    width = near.indices.shape[1]
    indices[:old, :width], similarities[:old, :width] = near.indices, near.similarities
    if old == n:
        return Neighbours(indices, similarities), np.empty(0, np.int32)
    found, values = topk(rows[old:], rows, k)
    _own_first(indices, similarities, found, values, old)
    # An old face lists a new one that is nearer than its last neighbour.
    worst = np.where(indices[:old, -1] >= 0, similarities[:old, -1], -np.inf)
    spots: list[NDArray[np.int64]] = []
    for start in range(0, old, BLOCK):
        part = slice(start, min(start + BLOCK, old))
        closeness = rows[part] @ rows[old:].T
        entered = np.flatnonzero((closeness > worst[part, None]).any(axis=1))
        if len(entered):
            spots.append(entered + start)
            _enter(indices, similarities, spots[-1], closeness[entered], old)
    changed = np.concatenate([*spots, np.arange(old, n)]).astype(np.int32)
    return Neighbours(indices, similarities), changed


def without(near: Neighbours, first: Array, kept: NDArray[np.int64]) -> tuple[Neighbours, Array]:
    """A kNN graph and its edges' first probabilities (n, k), of the faces `kept` (m,) ascending.
    Lists get shorter where they held others; -1 marks the end."""
    place = np.full(len(near.indices), -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    given = near.indices[kept]
    indices = np.where(given >= 0, place[np.maximum(given, 0)], np.int32(-1))
    order = np.argsort(indices < 0, axis=1, kind="stable")
    indices = np.take_along_axis(indices, order, axis=1)
    # A list is never longer than there are faces.
    order = order[:, : len(kept)]
    indices = indices[:, : len(kept)]
    absent = indices < 0
    similarities = np.take_along_axis(near.similarities[kept], order, axis=1)
    probabilities = np.take_along_axis(first[kept], order, axis=1)
    similarities[absent], probabilities[absent] = -1.0, 0.0
    return Neighbours(indices, similarities), probabilities


def _enter(
    indices: Indices, similarities: Array, spots: NDArray[np.int64], closeness: Array, old: int
) -> None:
    n, k = indices.shape
    fresh = np.broadcast_to(np.arange(old, n, dtype=np.int32), (len(spots), n - old))
    both = np.concatenate([indices[spots], fresh], axis=1)
    near = np.concatenate([similarities[spots], closeness], axis=1)
    key = np.where(both < 0, -np.inf, near)
    key[:, 0] = np.inf
    best = np.argsort(-key, axis=1, kind="stable")[:, :k]
    indices[spots] = np.take_along_axis(both, best, axis=1)
    similarities[spots] = np.take_along_axis(near, best, axis=1)


def _own_first(
    indices: Indices, similarities: Array, found: NDArray[np.int64], values: Array, old: int
) -> None:
    n, k = indices.shape
    own = np.arange(old, n)[:, None]
    missing = ~(found == own).any(axis=1)
    found[missing, k - 1] = own[missing, 0]
    key = np.where(found == own, np.inf, values)
    best = np.argsort(-key, axis=1, kind="stable")
    indices[old:] = np.take_along_axis(found, best, axis=1)
    similarities[old:] = np.take_along_axis(values, best, axis=1)
    similarities[old:, 0] = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some faces of a graph with all their neighbours: `faces` (m,) ascending, numbered 0..m-1
    inside, where `around` describes them; `frame` and `near` of the whole graph."""

    faces: Indices
    around: Neighbourhoods
    frame: Frame
    near: Neighbours

    @classmethod
    def of(cls, nodes: Indices, near: Neighbours, frame: Frame, strangers: Strangers) -> Self:
        """The part in which edges of `nodes` look as they do in the whole graph."""
        targets = near.indices[nodes]
        faces = np.union1d(nodes, targets[targets >= 0]).astype(np.int32)
        indices = near.indices[faces]
        # Neighbours outside keep distinct numbers from m on: overlaps count them too.
        known = np.concatenate([faces, np.setdiff1d(indices[indices >= 0], faces)])
        order = np.argsort(known, kind="stable")
        where = np.searchsorted(known[order], np.maximum(indices, known[order][0]))
        inside = np.where(indices >= 0, order[where], -1).astype(np.int32)
        part = Neighbours(inside, near.similarities[faces])
        return cls(faces, Neighbourhoods.around(frame.part(faces), part, strangers), frame, near)

    def first_pass(self, nodes: Indices, model: EdgeModel) -> Array:
        """First probabilities of the edges of `nodes` (m, k)."""
        return self.around.first_pass(model.first, self._rows(nodes))

    def second_pass(self, nodes: Indices, model: EdgeModel, first: Array) -> Array:
        """Final probabilities of the edges of `nodes` (m, k), `first` (n, k) being everyone's."""
        least = least_link(self.frame, self.near, self.around.strangers, first)
        rows = self._rows(nodes)
        return self.around.second_pass(model.second, first[self.faces], rows, least=least)

    def _rows(self, nodes: Indices) -> Indices:
        return np.searchsorted(self.faces, nodes).astype(np.int32)
