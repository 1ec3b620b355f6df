"""Faces of one picture are different people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster.graph import Indices, blocks
from edgeface.types import Array

PICTURELESS = -1  # the picture of a face nobody said anything about


def cut(indices: Indices, probabilities: Array, pictures: NDArray[np.int64]) -> None:
    """Set the probability of edges between two faces of one picture to 0, in place.

    `indices`, `probabilities` (n, k) of a kNN graph, oneself in front; `pictures` (n,).
    """
    if (pictures < 0).all():
        return
    for part in blocks(len(indices)):
        own = pictures[part, None]
        shared = (pictures[np.maximum(indices[part], 0)] == own) & (own >= 0)
        shared[:, 0] = False
        probabilities[part][shared] = 0.0


def kept_apart(
    labels: NDArray[np.int32],
    pictures: NDArray[np.int64],
    sources: Indices,
    targets: Indices,
    weights: Array,
) -> NDArray[np.int32]:
    """Divide the clusters that hold two faces of one picture.

    Inside such a cluster faces are joined along its edges, strongest first, and never two that
    would bring faces of one picture together. The largest piece keeps the label, the others get
    new ones. `labels` (n,) is not changed; edges are `sources`, `targets` (e,), `weights` (e,).
    """
    known = np.flatnonzero((labels >= 0) & (pictures >= 0))
    pairs = np.stack([labels[known], pictures[known]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    crowded = np.unique(found[counts > 1, 0])
    if not len(crowded):
        return labels
    out, following = labels.copy(), int(labels.max()) + 1
    inside = np.flatnonzero(
        (labels[sources] == labels[targets]) & np.isin(labels[sources], crowded)
    )
    # Ties in the order of the faces, so that equal input gives equal output.
    order = inside[np.lexsort((targets[inside], sources[inside], -weights[inside]))]
    joined = _Groups(pictures)
    for edge in order.tolist():
        joined.join(int(sources[edge]), int(targets[edge]))
    for label in crowded.tolist():
        members = np.flatnonzero(labels == label)
        heads = np.array([joined.head(i) for i in members.tolist()])
        pieces, firsts, sizes = np.unique(heads, return_index=True, return_counts=True)
        keeps = pieces[np.lexsort((firsts, -sizes))[0]]
        for piece in pieces[np.argsort(firsts)]:
            if piece != keeps:
                out[members[heads == piece]] = following
                following += 1
    return out


class _Groups:
    """Disjoint sets of faces that never hold two of one picture."""

    def __init__(self, pictures: NDArray[np.int64]) -> None:
        self._pictures = pictures
        self._parent: dict[int, int] = {}
        self._seen: dict[int, set[int]] = {}

    def head(self, face: int) -> int:
        while (parent := self._parent.get(face, face)) != face:
            self._parent[face] = self._parent.get(parent, parent)
            face = parent
        return face

    def join(self, one: int, other: int) -> None:
        a, b = self.head(one), self.head(other)
        if a == b:
            return
        here, there = self._of(a), self._of(b)
        if not here.isdisjoint(there):
            return
        if len(here) < len(there):
            a, b, here, there = b, a, there, here
        self._parent[b] = a
        here |= there

    def _of(self, head: int) -> set[int]:
        own = int(self._pictures[head])
        return self._seen.setdefault(head, {own} if own >= 0 else set())
