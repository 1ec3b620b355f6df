"""Density by diffusion and clusters as its peaks, after Chen et al., On Mitigating Hard Clusters
for Face Clustering, ECCV 2022 (arXiv 2207.11895)."""

from __future__ import annotations

import numpy as np

from edgeface.cluster.graph import Indices
from edgeface.types import Array


def diffusion_density(indices: Indices, weights: Array) -> Array:
    """Neighbourhood-diffusion density (NDDe), one step from uniform: (n,) float32.

    `indices` (n, k) int32 with -1 where there is no neighbour, `weights` (n, k) >= 0. Every face
    sends one unit of mass to its neighbours in proportion to the weights and its density is what
    arrives, so the mean over a closed cluster is 1 however small or sparse it is.
    """
    sent = np.where(indices >= 0, weights, 0.0).astype(np.float64)
    sent /= np.maximum(sent.sum(axis=1, keepdims=True), 1e-12)
    arrived = np.bincount(
        np.maximum(indices, 0).ravel(), weights=sent.ravel(), minlength=len(indices)
    )
    return arrived.astype(np.float32)


def density_peaks(
    indices: Indices, distances: Array, density: Array, *, threshold: float
) -> Indices:
    """Labels (n,) int32 of the trees of a density-peak forest.

    The parent of a face is its nearest neighbour by `distances` (n, k) that is denser, equal
    densities in the order of their indices, if nearer than `threshold`; faces without a parent are
    peaks. The order is strict, so the parents form a forest. Labels are numbered by their peaks.
    """
    n = len(indices)
    own = np.arange(n)
    rank = np.empty(n, np.int64)
    rank[np.lexsort((-own, density))] = own
    order = np.lexsort((indices, distances), axis=1)
    near = np.take_along_axis(indices, order, axis=1)
    far = np.take_along_axis(distances, order, axis=1)
    denser = (near >= 0) & (rank[np.maximum(near, 0)] > rank[:, None]) & (far < threshold)
    parent = np.where(denser.any(axis=1), near[own, denser.argmax(axis=1)], own)
    while True:
        grand = parent[parent]
        if np.array_equal(grand, parent):
            return np.unique(parent, return_inverse=True)[1].astype(np.int32)
        parent = grand
