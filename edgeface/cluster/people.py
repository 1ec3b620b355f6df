"""Faces into people without labels.

kNN graph, probability of every edge in two passes over what the neighbourhoods of its ends have in
common, two-level map-equation partition. Nothing is tuned per data set: similarities count in units
of the set's own spread, neighbourhoods in every face's own scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.cluster import graph
from edgeface.cluster.apart import PICTURELESS, cut, kept_apart
from edgeface.cluster.density import diffusion_density
from edgeface.cluster.edges import Neighbourhoods
from edgeface.cluster.model import EdgeModel
from edgeface.cluster.neighbours import Neighbours, self_first
from edgeface.cluster.space import Space, Strangers
from edgeface.errors import ArgumentError
from edgeface.types import Array

# Neighbours per face, itself included; the edge model was trained with this many.
K = 64
# Faces of lower quality do not take part in the partition. `edgeface.quality` gives about 0 to
# crops nobody could recognise.
MIN_QUALITY = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """The people found.

    `labels` (n,) int32: cluster of a face, 0 the largest, -1 noise (too poor to place);
    `certainty` (n,) float32 in [0, 1]: share of a face's links that stay in its cluster times the
    probability of the strongest, for a face alone 1 minus the probability of its strongest link;
    `exemplars` (c,) int64: the most typical face of every cluster.
    """

    labels: NDArray[np.int32]
    certainty: Array
    exemplars: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.exemplars)

    def members(self, label: int) -> NDArray[np.int64]:
        """Indices of the faces of a cluster, -1 for noise."""
        return np.flatnonzero(self.labels == label)


def cluster(
    embeddings: ArrayLike,
    *,
    quality: ArrayLike | None = None,
    pictures: ArrayLike | None = None,
    fitness: ArrayLike | None = None,
    model: EdgeModel | None = None,
    near: Neighbours | None = None,
) -> Clusters:
    """Group faces by person.

    Args:
        embeddings: (n, d) floats, one row per face, any length but not zero.
        quality: (n,) in [0, 1]; faces below MIN_QUALITY join a cluster afterwards or are noise.
        pictures: (n,) integers, equal for the faces of one picture, who are then different people;
            negative where it is not known. Default: nothing is known.
        fitness: (n,) in [0, 1], how far a face can be trusted to say who it is: links and certainty
            are weighed by it. Default: 1.
        model: the edge model, by default the shipped one, which serves any embedder.
        near: neighbours found before, over the same rows (`edgeface.cluster.files` reads them).

    Returns:
        the clusters. Equal input gives equal output, and its order does not matter.

    Raises:
        ArgumentError: wrong shapes, NaN or zero rows.
    """
    rows, gate = checked(embeddings, quality)
    n = len(rows)
    taken_from, trust = checked_pictures(pictures, n), checked_fitness(fitness, n)
    if n < 2:
        return Clusters(
            np.where(gate, np.int32(-1), np.int32(0)),
            np.ones(n, np.float32),
            np.flatnonzero(~gate),
        )
    # Everything below happens in an order that the rows themselves define.
    order = _canonical(rows, gate)
    rows, gate, taken_from, trust = rows[order], gate[order], taken_from[order], trust[order]
    space = Space.of(rows)
    del rows
    if near is None:
        around = Neighbourhoods.of(space, K)
    else:
        strangers = Strangers.of(space)
        around = Neighbourhoods.around(space.frame, _reordered(near, order, space), strangers)
    del space
    model = model or EdgeModel.load()
    probabilities = around.probabilities(model)
    indices = around.near.indices
    del around
    cut(indices, probabilities, taken_from)
    weigh(indices, probabilities, trust)
    labels = divide(indices, probabilities, gate, model.threshold, taken_from)
    found = described(indices, probabilities, labels, trust)
    certainty, original = np.empty(n, np.float32), np.empty(n, np.int32)
    certainty[order], original[order] = found.certainty, found.labels
    return Clusters(original, certainty, order[found.exemplars])


def divide(
    indices: graph.Indices,
    probabilities: Array,
    gate: NDArray[np.bool_],
    threshold: float,
    pictures: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """Labels (n,) int32 from a kNN graph's edge probabilities (n, k); -1 for gated faces (`gate`)
    that nothing places. No two faces of one of the `pictures` (n,) get one label."""
    n = len(indices)
    links = linked(indices, probabilities, gate, threshold)
    labels = graph.partition(graph.Edges.of(n, *links))[0]
    labels[gate] = -1
    for node in np.flatnonzero(gate):
        labels[node] = _placed(indices[node], probabilities[node], labels, threshold)
    return labels if pictures is None else kept_apart(labels, pictures, *links)


def linked(
    indices: graph.Indices, probabilities: Array, gate: NDArray[np.bool_], threshold: float
) -> tuple[graph.Indices, graph.Indices, Array]:
    """What is partitioned: sources, targets (e,) int32 and weights (e,) float32 of the edges from
    `threshold` on whose ends are not gated."""
    link = (probabilities >= threshold) & (indices >= 0)
    link[gate] = False
    link[gate[np.maximum(indices, 0)]] = False
    link[:, 0] = False
    sources = np.repeat(np.arange(len(indices), dtype=np.int32), link.sum(axis=1))
    return sources, indices[link], probabilities[link]


def _placed(
    targets: graph.Indices, probabilities: Array, labels: NDArray[np.int32], threshold: float
) -> int:
    # Attached when most of the linked, recognisable neighbours agree; gated faces cannot vote.
    linked = (probabilities >= threshold) & (targets >= 0)
    found = labels[targets[linked]]
    votes = np.bincount(found[found >= 0], weights=probabilities[linked][found >= 0])
    if not len(votes) or votes.max() * 2 < votes.sum():
        return -1
    return int(votes.argmax())


def weigh(indices: graph.Indices, probabilities: Array, trust: Array) -> None:
    """Multiply the probability of every edge of a kNN graph (n, k) with what its two ends are
    trusted (n,), in place: faces that are hard to recognise have to look the same all the more."""
    if (trust == 1.0).all():
        return
    for part in graph.blocks(len(indices)):
        both = trust[part, None] * trust[np.maximum(indices[part], 0)]
        both[:, 0] = 1.0
        probabilities[part] *= both


def described(
    indices: graph.Indices,
    probabilities: Array,
    labels: NDArray[np.int32],
    trust: Array | None = None,
) -> Clusters:
    """Number clusters by size, largest first, then by first face; rate faces and pick exemplars.
    A face without a link is as certain as it is alone and trusted (n,)."""
    noise = labels < 0
    _, compact = np.unique(labels[~noise], return_inverse=True)
    sizes = np.bincount(compact)
    firsts = np.unique(compact, return_index=True)[1]
    rank = np.empty(len(sizes), np.int32)
    rank[np.lexsort((firsts, -sizes))] = np.arange(len(sizes))
    numbered = np.full(len(labels), -1, np.int32)
    numbered[~noise] = rank[compact]

    others = np.where(indices >= 0, probabilities, 0.0)
    others[:, 0] = 0.0
    inside = np.where(numbered[np.maximum(indices, 0)] == numbered[:, None], others, 0.0)
    inside[noise] = 0.0
    strongest, total = others.max(axis=1), others.sum(axis=1)
    alone = inside.max(axis=1) == 0.0
    certainty = np.where(
        alone,
        (1.0 - strongest) * (1.0 if trust is None else trust),
        inside.max(axis=1) * inside.sum(axis=1) / np.maximum(total, 1e-12),
    ).astype(np.float32)
    inside[:, 0] = 1.0
    density = diffusion_density(indices, inside)
    density[noise] = -1.0
    best = np.lexsort((-density, numbered))
    exemplars = best[np.searchsorted(numbered[best], np.arange(len(sizes)))]
    return Clusters(numbered, certainty, exemplars.astype(np.int64))


def checked(embeddings: ArrayLike, quality: ArrayLike | None) -> tuple[Array, NDArray[np.bool_]]:
    """Unit rows (n, d) float32 and which of them are gated (n,) bool, or ArgumentError."""
    rows = np.ascontiguousarray(embeddings, np.float32)
    if rows.ndim != 2:
        raise ArgumentError(f"embeddings are {rows.shape}; an (n, d) array is needed")
    lengths = np.linalg.norm(rows, axis=1)
    bad = ~np.isfinite(lengths) | (lengths == 0.0)
    if bad.any():
        raise ArgumentError(f"embedding {int(bad.argmax())} is zero or not finite; drop such rows")
    rows = rows / lengths[:, None]
    if quality is None:
        return rows, np.zeros(len(rows), bool)
    values = np.asarray(quality, np.float32)
    if values.shape != (len(rows),):
        raise ArgumentError(f"quality is {values.shape}; ({len(rows)},) is needed")
    # A face whose quality nobody rated (NaN) takes part.
    return rows, values < MIN_QUALITY


def checked_pictures(pictures: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """The pictures that n faces are from (n,) int64, PICTURELESS where nobody said."""
    if pictures is None:
        return np.full(n, PICTURELESS, np.int64)
    values = np.asarray(pictures)
    if values.shape != (n,) or (n and values.dtype.kind not in "iu"):
        raise ArgumentError(
            f"pictures are {values.dtype} {values.shape}; ({n},) integers are needed"
        )
    return np.maximum(values.astype(np.int64), PICTURELESS)


def checked_fitness(fitness: ArrayLike | None, n: int) -> Array:
    """What n faces are trusted (n,) float32, 1 where nobody said."""
    if fitness is None:
        return np.ones(n, np.float32)
    values = np.asarray(fitness, np.float32)
    if values.shape != (n,) or not ((values >= 0) & (values <= 1)).all():
        raise ArgumentError(f"fitness is {values.shape}; ({n},) numbers in [0, 1] are needed")
    return values


def _canonical(rows: Array, gate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An order of the rows that does not depend on the order they came in."""
    keys = rows.view(np.dtype((np.void, rows.shape[1] * 4))).ravel()
    order = np.argsort(keys, kind="stable")
    return order[np.argsort(gate[order], kind="stable")].astype(np.int64)


def _reordered(near: Neighbours, order: NDArray[np.int64], space: Space) -> Neighbours:
    """Given neighbours, renamed to the canonical order and measured in the centred space."""
    if near.indices.shape[0] != len(order):
        raise ArgumentError(f"neighbours of {len(near.indices)} faces, expected {len(order)}")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    given = near.indices[order][:, :K]
    indices = np.where(given >= 0, place[np.maximum(given, 0)], -1).astype(np.int32)
    similarities = np.empty(indices.shape, np.float32)
    for start in range(0, len(indices), 1024):
        part = slice(start, start + 1024)
        similarities[part] = np.einsum("nd,nkd->nk", space.rows[part], space.rows[indices[part]])
    similarities[indices < 0] = -1.0
    return self_first(indices, similarities)
