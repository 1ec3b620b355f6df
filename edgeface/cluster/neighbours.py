"""The k most similar faces of every face, exactly or, for many, through cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.score import topk
from edgeface.types import Array

# Above this many faces cells are searched instead of everybody. 10,000 faces of 256 numbers take
# the exact search 0.8 processor seconds, the cells 1.3 and hnswlib (M 16, ef 100) 1.7; 100,000 take
# 35 to 47, 28 and 46, with 93 % of the neighbours found by the cells and 92 % by hnswlib (`bench
# clustering --only scale`): full recall is worth that much. hnswlib built on two threads differs
# from run to run.
EXACT_BELOW = 100_000
# Cells per square root of n, and cells searched per face.
CELLS, PROBES = 4.0, 24
BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """A kNN graph. Row i starts with i itself at similarity 1.

    `indices` (n, k) int32, -1 where a face has fewer than k neighbours; `similarities` (n, k)
    float32 cosines in descending order after the first, -1 where there is none.
    """

    indices: NDArray[np.int32]
    similarities: Array


def neighbours(embeddings: Array, k: int, *, exact_below: int = EXACT_BELOW) -> Neighbours:
    """The k most similar rows of each row, itself included.

    `embeddings` (n, d) float32 unit rows. Exact up to `exact_below` rows; above, rows are searched
    in the cells of a coarse k-means (inverted file, Jegou, Douze and Schmid 2011), exactly within
    the cells. Deterministic: no random numbers, no race between threads.
    """
    n = len(embeddings)
    k = min(k, n)
    if n <= exact_below:
        found = np.empty((n, k), np.int32)
        similarities = np.empty((n, k), np.float32)
        for start in range(0, n, BLOCK):
            rows, values = topk(embeddings[start : start + BLOCK], embeddings, k)
            found[start : start + BLOCK], similarities[start : start + BLOCK] = rows, values
    else:
        found, similarities = _through_cells(embeddings, k)
    return self_first(found, similarities)


def self_first(indices: NDArray[np.int32], similarities: Array) -> Neighbours:
    """Put every row's own index first; where duplicates crowded it out it replaces the last."""
    n, k = indices.shape
    own = np.arange(n, dtype=np.int32)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        found, values = indices[rows], similarities[rows]
        keys = np.where(found < 0, np.float32(-2.0), values)
        missing = ~(found == own[rows, None]).any(axis=1)
        found[missing, k - 1] = own[rows][missing]
        keys[found == own[rows, None]] = np.inf
        order = np.argsort(-keys, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(found, order, axis=1)
        similarities[rows] = np.clip(np.take_along_axis(values, order, axis=1), -1.0, 1.0)
        similarities[rows, 0] = 1.0
    return Neighbours(indices, similarities)


def cells_of(embeddings: Array, *, count: int, rounds: int = 6) -> Array:
    """Unit centres (count, d) of a spherical k-means, started from evenly spaced rows and fitted on
    at most 64 evenly spaced rows per cell."""
    n = len(embeddings)
    sample = embeddings[np.linspace(0, n - 1, min(n, 64 * count)).astype(np.int64)]
    centres = sample[np.linspace(0, len(sample) - 1, count).astype(np.int64)].copy()
    for _ in range(rounds):
        cell = topk(sample, centres, 1)[0][:, 0]
        order = np.argsort(cell, kind="stable")
        present, starts = np.unique(cell[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        centres[present] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _through_cells(embeddings: Array, k: int) -> tuple[NDArray[np.int32], Array]:
    n = len(embeddings)
    centres = cells_of(embeddings, count=max(1, int(CELLS * np.sqrt(n))))
    probes = min(PROBES, len(centres))
    visits = np.empty((n, probes), np.int32)
    for start in range(0, n, BLOCK):
        visits[start : start + BLOCK] = topk(embeddings[start : start + BLOCK], centres, probes)[0]
    members = np.argsort(visits[:, 0], kind="stable").astype(np.int32)
    first = np.searchsorted(visits[members, 0], np.arange(len(centres) + 1))
    visitors = np.argsort(visits, axis=None, kind="stable")
    reach = np.searchsorted(visits.ravel()[visitors], np.arange(len(centres) + 1))
    visitors = (visitors // probes).astype(np.int32)
    del visits

    indices = np.full((n, k), -1, np.int32)
    similarities = np.full((n, k), -2.0, np.float32)
    for cell in range(len(centres)):
        inside = members[first[cell] : first[cell + 1]]
        asking = visitors[reach[cell] : reach[cell + 1]]
        if not len(inside) or not len(asking):
            continue
        local, values = topk(embeddings[asking], embeddings[inside], min(k, len(inside)))
        values = np.concatenate([similarities[asking], values], axis=1)
        found = np.concatenate([indices[asking], inside[local]], axis=1)
        best = np.argpartition(-values, k - 1, axis=1)[:, :k]
        indices[asking] = np.take_along_axis(found, best, axis=1)
        similarities[asking] = np.take_along_axis(values, best, axis=1)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        # Ties in the order of the rows, as the exact search gives them.
        order = np.lexsort((indices[rows], -similarities[rows]), axis=1)
        indices[rows] = np.take_along_axis(indices[rows], order, axis=1)
        similarities[rows] = np.take_along_axis(similarities[rows], order, axis=1)
    return indices, similarities
