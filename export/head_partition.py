"""Which submodel a class belongs to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.submodels import unit

PARTITIONS = ("kmeans", "random", "single")


def partition(
    centres: NDArray[np.float32],
    submodels: int,
    *,
    method: str = "kmeans",
    seed: int = 0,
    iterations: int = 50,
) -> NDArray[np.int64]:
    """The submodel of each class (n,). `random` is as balanced as `kmeans`: sizes differ by one.
    `kmeans` ends after so many `iterations` at the latest."""
    n = len(centres)
    if method not in PARTITIONS:
        raise ValueError(f"partition {method!r} is none of {', '.join(PARTITIONS)}")
    if not 1 <= submodels <= n:
        raise ValueError(f"{submodels} submodels for {n} classes; expected 1 to {n}")
    if method == "single":
        return np.zeros(n, dtype=np.int64)
    rng = np.random.default_rng(seed)
    if method == "random":
        return rng.permutation(np.arange(n) % submodels).astype(np.int64)
    return _balanced_kmeans(centres, submodels, rng, iterations)


def _balanced_kmeans(
    centres: NDArray[np.float32], k: int, rng: np.random.Generator, iterations: int
) -> NDArray[np.int64]:
    """Spherical k-means (Dhillon & Modha, 2001) with k-means++ seeds and at most ceil(1.05 n / k)
    classes per cell; no cell is empty."""
    capacity = int(np.ceil(1.05 * len(centres) / k))
    means = centres[_plusplus(centres, k, rng)]
    cells = np.full(len(centres), -1)
    for _ in range(iterations):
        before, cells = cells, _assign(centres @ means.T, capacity)
        for empty in np.flatnonzero(np.bincount(cells, minlength=k) == 0):
            fit = (centres * means[cells]).sum(axis=1)
            fit[np.bincount(cells, minlength=k)[cells] < 2] = np.inf
            cells[fit.argmin()] = empty
        if (cells == before).all():
            break
        sums = np.zeros_like(means, dtype=np.float64)
        np.add.at(sums, cells, centres)
        # A cell whose classes cancel out has no direction: it keeps its mean.
        means = np.where(np.linalg.norm(sums, axis=1, keepdims=True) > 1e-9, sums, means)
        means = unit(means)
    return cells.astype(np.int64)


def _plusplus(centres: NDArray[np.float32], k: int, rng: np.random.Generator) -> list[int]:
    """k-means++ (Arthur & Vassilvitskii, 2007): the next seed by squared chord distance."""
    chosen = [int(rng.integers(len(centres)))]
    distance = np.full(len(centres), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(2 - 2 * centres @ centres[chosen[-1]], 0))
        distance[chosen] = 0
        total = distance.sum()
        left = np.setdiff1d(np.arange(len(centres)), chosen)
        pick = rng.choice(len(centres), p=distance / total) if total > 0 else rng.choice(left)
        chosen.append(int(pick))
    return chosen


def _assign(similarity: NDArray[np.float32], capacity: int) -> NDArray[np.int64]:
    """Each class to its most similar cell with room; full cells keep the most similar askers."""
    n, k = similarity.shape
    cells = np.full(n, -1, dtype=np.int64)
    room = np.full(k, capacity)
    while (waiting := np.flatnonzero(cells < 0)).size:
        open_ = np.where(room > 0, similarity[waiting], -np.inf)
        wanted = open_.argmax(axis=1)
        for cell in np.unique(wanted):
            askers = waiting[wanted == cell]
            order = np.argsort(-similarity[askers, cell], kind="stable")[: room[cell]]
            cells[askers[order]] = cell
            room[cell] -= len(order)
    return cells
