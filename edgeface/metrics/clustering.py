"""Clustering: how well groups agree with the truth. Each measure names its source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a clustering agrees with the truth: `precision`, `recall` and their harmonic mean
    `f` in [0, 1]."""

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        total = self.precision + self.recall
        return 2.0 * self.precision * self.recall / total if total > 0.0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Contingency:
    """The non-empty cells of the table truth x clusters.

    `cells`, `truth_of`, `cluster_of` (m,) int64: samples in a cell, its row and its column;
    `truth_sizes` (t,) and `cluster_sizes` (c,) int64: row and column sums.
    """

    cells: NDArray[np.int64]
    truth_of: NDArray[np.int64]
    cluster_of: NDArray[np.int64]
    truth_sizes: NDArray[np.int64]
    cluster_sizes: NDArray[np.int64]


def _classes(labels: ArrayLike, what: str) -> NDArray[np.int64]:
    """Labels as 0..c-1; -1 (noise) counts as one cluster of its own per sample."""
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ArgumentError(
            f"{what}: expected one-dimensional integer labels, got shape {values.shape} "
            f"of {values.dtype}; pass an (n,) integer array"
        )
    values = values.astype(np.int64)
    noise = values < 0
    if noise.any():
        values[noise] = values.max(initial=0) + 1 + np.arange(int(noise.sum()))
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def contingency(truth: ArrayLike, clusters: ArrayLike) -> Contingency:
    """The contingency table of two labelings of the same (n,) samples.

    Negative labels are noise: every such sample is a class of its own, so leaving a sample out
    never helps or hurts more than making it a singleton. Raises ArgumentError on labels that are
    not one-dimensional integers or differ in length.
    """
    rows, columns = _classes(truth, "truth"), _classes(clusters, "clusters")
    if len(rows) != len(columns):
        raise ArgumentError(f"{len(rows)} true labels but {len(columns)} cluster labels")
    width = int(columns.max(initial=-1)) + 1
    keys, cells = np.unique(rows * max(width, 1) + columns, return_counts=True)
    return Contingency(
        cells.astype(np.int64),
        keys // max(width, 1),
        keys % max(width, 1),
        np.bincount(rows).astype(np.int64),
        np.bincount(columns).astype(np.int64),
    )


def pairwise(truth: ArrayLike, clusters: ArrayLike) -> Agreement:
    """Pairwise precision, recall and F over all pairs of different samples.

    P = pairs together in both / pairs together in `clusters`; R = … / pairs together in `truth`
    (Manning, Raghavan, Schuetze, Introduction to Information Retrieval, 16.3). A ratio without
    pairs is 1: a clustering that joins nothing joins nothing wrongly.
    """
    table = contingency(truth, clusters)
    both = _pairs(table.cells)
    predicted, true = _pairs(table.cluster_sizes), _pairs(table.truth_sizes)
    return Agreement(both / predicted if predicted else 1.0, both / true if true else 1.0)


def bcubed(truth: ArrayLike, clusters: ArrayLike) -> Agreement:
    """BCubed precision, recall and F: the mean over samples of the share of its cluster (of its
    class) that has its class (its cluster), itself included (Bagga and Baldwin 1998; Amigo et al.
    2009, without multiplicity)."""
    table = contingency(truth, clusters)
    precision, recall = _bcubed_sums(table)
    total = int(table.cells.sum())
    return Agreement(float(precision.sum()) / total, float(recall.sum()) / total)


def bcubed_by_size(
    truth: ArrayLike, clusters: ArrayLike, *, bins: tuple[tuple[int, int], ...] | None = None
) -> dict[str, Agreement]:
    """BCubed of the samples whose true class has a size within each bin.

    `bins` are inclusive (low, high) sizes, by default 1, 2, 3-5, 6-20 and above 20. Keys are `1`,
    `2`, `3-5`, `6-20`, `21+`; bins without samples are absent.
    """
    chosen = bins or ((1, 1), (2, 2), (3, 5), (6, 20), (21, np.iinfo(np.int64).max))
    table = contingency(truth, clusters)
    precision, recall = _bcubed_sums(table)
    sizes = table.truth_sizes[table.truth_of]
    scores = {}
    for low, high in chosen:
        inside = (sizes >= low) & (sizes <= high)
        total = int(table.cells[inside].sum())
        if total:
            name = str(low) if low == high else f"{low}-{high}" if high < 2**62 else f"{low}+"
            scores[name] = Agreement(
                float(precision[inside].sum()) / total, float(recall[inside].sum()) / total
            )
    return scores


def normalized_mutual_information(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Mutual information over the arithmetic mean of the two entropies, in [0, 1] (Vinh, Epps and
    Bailey 2010); 1 when both labelings have one class."""
    table = contingency(truth, clusters)
    total = float(table.cells.sum())
    joint = table.cells / total
    rows, columns = table.truth_sizes / total, table.cluster_sizes / total
    expected = rows[table.truth_of] * columns[table.cluster_of]
    information = float(np.sum(joint * np.log(joint / expected)))
    entropy = -float(np.sum(rows * np.log(rows))) - float(np.sum(columns * np.log(columns)))
    return min(max(2.0 * information / entropy, 0.0), 1.0) if entropy > 0.0 else 1.0


def adjusted_rand_index(truth: ArrayLike, clusters: ArrayLike) -> float:
    """The Rand index corrected for chance (Hubert and Arabie 1985, eq. 5): 1 = equal, 0 chance."""
    table = contingency(truth, clusters)
    total = int(table.cells.sum())
    both, true = _pairs(table.cells), _pairs(table.truth_sizes)
    predicted = _pairs(table.cluster_sizes)
    pairs = total * (total - 1) // 2
    expected = true * predicted / pairs if pairs else 0.0
    highest = (true + predicted) / 2.0
    return (both - expected) / (highest - expected) if highest != expected else 1.0


def fowlkes_mallows(truth: ArrayLike, clusters: ArrayLike) -> float:
    """Geometric mean of pairwise precision and recall (Fowlkes and Mallows 1983); never below the
    pairwise F, with which it is sometimes confused."""
    score = pairwise(truth, clusters)
    return float(np.sqrt(score.precision * score.recall))


def singleton_rate(clusters: ArrayLike) -> float:
    """The share of samples that are alone in their cluster, noise included, in [0, 1]."""
    sizes = np.bincount(_classes(clusters, "clusters"))
    return float((sizes == 1).sum() / max(int(sizes.sum()), 1))


def _pairs(sizes: NDArray[np.int64]) -> int:
    # Python integers: the pairs of a million-sample cluster squared leave float64's exact range.
    return sum(int(s) * (int(s) - 1) // 2 for s in sizes)


def _bcubed_sums(table: Contingency) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    squares = table.cells.astype(np.float64) ** 2
    return (
        squares / table.cluster_sizes[table.cluster_of],
        squares / table.truth_sizes[table.truth_of],
    )
