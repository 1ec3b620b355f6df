"""The clusterings that `bench clustering` compares with ours, each written on a shared kNN graph or
taken from scikit-learn and infomap. One free parameter each, chosen on training identities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster import density_peaks, diffusion_density, graph
from edgeface.cluster.neighbours import Neighbours

Labels = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """One set of faces: unit `embeddings`, their raw-cosine kNN graph and the number of people."""

    embeddings: Floats
    near: Neighbours
    people: int


Method = Callable[[Faces, float], Labels]


def _links(faces: Faces, keep: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    keep = keep & (faces.near.indices >= 0)
    keep[:, 0] = False
    sources = np.repeat(np.arange(len(keep), dtype=np.int32), keep.sum(axis=1))
    return sources, faces.near.indices[keep]


def _components(n: int, a: NDArray[np.int32], b: NDArray[np.int32]) -> Labels:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], np.int32)


def original(faces: Faces, threshold: float) -> Labels:
    """The original project's recipe: 30 neighbours, directed links at a cosine of `threshold` or
    more, two-level directed Infomap (the package infomap, GPL: here only)."""
    from infomap import Infomap

    keep = faces.near.similarities >= threshold
    keep[:, 30:] = False
    a, b = _links(faces, keep)
    weights = faces.near.similarities[keep & _not_self(keep)]
    labels = np.arange(len(keep), dtype=np.int32) + len(keep)
    if len(a):
        im = Infomap("--two-level --directed --silent --seed 1")
        for i, j, w in zip(a.tolist(), b.tolist(), weights.tolist(), strict=True):
            im.add_link(i, j, w)
        im.run()
        for node, module in im.get_modules().items():
            labels[node] = module
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


def _not_self(keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
    mask = np.ones(keep.shape, bool)
    mask[:, 0] = False
    return mask


def cosine_map_equation(faces: Faces, threshold: float) -> Labels:
    """Our partition on plain cosine links: what the edge model adds is the difference to ours."""
    keep = faces.near.similarities >= threshold
    a, b = _links(faces, keep)
    weights = faces.near.similarities[keep & _not_self(keep)]
    return graph.partition(graph.Edges.of(len(keep), a, b, weights))[0]


def _transitions(faces: Faces, sigma: float, squares: bool) -> Floats:
    distances = (2 - 2 * np.clip(faces.near.similarities, 0, 1)) / (1 if squares else 2)
    weights = np.exp(-distances / sigma)
    unit: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return unit


def hard_clusters(faces: Faces, threshold: float) -> Labels:
    """NDDe and TPDi of Chen et al. 2022 with cosines for the learned similarity; the scale of TPDi
    is 0.25, since the published 0.05 leaves every face alone on cosines."""
    all_of = np.arange(len(faces.embeddings), dtype=np.int32)
    density = diffusion_density(
        faces.near.indices[:, :20], _transitions(faces, 0.5, squares=False)[:, :20]
    )
    amounts = np.sqrt(_transitions(faces, 0.25, squares=False))
    rows = graph.Rows.of(faces.near.indices, [amounts.__getitem__])
    distances = 1 - graph.overlap(rows, all_of, faces.near.indices)[0]
    return density_peaks(faces.near.indices, distances, density, threshold=threshold)


def early_stop(faces: Faces, threshold: float) -> Labels:
    """Overlap weights with early stop and the map equation, after FC-ES (arXiv 2408.13431)."""
    all_of = np.arange(len(faces.embeddings), dtype=np.int32)
    amounts = _transitions(faces, 0.5, squares=True)
    rows = graph.Rows.of(faces.near.indices, [amounts.__getitem__])
    weights = graph.overlap(rows, all_of, faces.near.indices, mean=True)[0]
    keep = np.logical_and.accumulate(weights >= threshold, axis=1)
    a, b = _links(faces, keep)
    return graph.partition(graph.Edges.of(len(keep), a, b, weights[keep & _not_self(keep)]))[0]


def dbscan(faces: Faces, threshold: float) -> Labels:
    """DBSCAN with 3 points to a core, on the kNN graph; noise is left as single faces."""
    keep = faces.near.similarities >= threshold
    core = keep.sum(axis=1) >= 3
    a, b = _links(faces, keep & core[:, None] & core[np.maximum(faces.near.indices, 0)])
    labels = _components(len(core), a, b)
    nearest_core = keep & core[np.maximum(faces.near.indices, 0)]
    nearest_core[:, 0] = False
    for i in np.flatnonzero(~core & nearest_core.any(axis=1)):
        labels[i] = labels[faces.near.indices[i, nearest_core[i].argmax()]]
    return labels


def hdbscan(faces: Faces, samples: float) -> Labels:
    """scikit-learn's HDBSCAN with clusters of 2 and more."""
    from sklearn.cluster import HDBSCAN

    labels = HDBSCAN(min_cluster_size=2, min_samples=int(samples), copy=True).fit_predict(
        faces.embeddings
    )
    return np.asarray(labels, np.int32)


def chinese_whispers(faces: Faces, threshold: float) -> Labels:
    """Chinese whispers (Biemann 2006), 20 passes in a fixed random order."""
    keep = faces.near.similarities >= threshold
    a, b = _links(faces, keep)
    edges = graph.Edges.of(len(keep), a, b, faces.near.similarities[keep & _not_self(keep)])
    labels = np.arange(len(keep), dtype=np.int32)
    order = np.random.default_rng(0).permutation(len(keep))
    order = order[np.diff(edges.start)[order] > 0]
    for _ in range(20):
        changed = False
        for i in order:
            span = slice(edges.start[i], edges.start[i + 1])
            names, where = np.unique(labels[edges.targets[span]], return_inverse=True)
            best = names[np.bincount(where, weights=edges.weights[span]).argmax()]
            changed |= bool(best != labels[i])
            labels[i] = best
        if not changed:
            break
    return labels


def finch(faces: Faces, level: float) -> Labels:
    """First-neighbour chains (FINCH, Sarfraz, Sharma, Stiefelhagen 2019), after `level` merges."""
    from edgeface.score import topk

    labels, rows = np.arange(len(faces.embeddings), dtype=np.int32), faces.embeddings
    for _ in range(int(level)):
        if len(rows) < 3:
            break
        first = topk(rows, rows, 2)[0]
        own = np.arange(len(rows))
        first = np.where(first[:, 0] == own, first[:, 1], first[:, 0])
        labels = _components(len(rows), own.astype(np.int32), first.astype(np.int32))[labels]
        sums = np.zeros((int(labels.max()) + 1, rows.shape[1]), np.float32)
        np.add.at(sums, labels, faces.embeddings)
        rows = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return labels


def k_means(faces: Faces, _: float) -> Labels:
    """Spherical k-means told the true number of people."""
    from edgeface.cluster.neighbours import cells_of
    from edgeface.score import topk

    shuffled = faces.embeddings[np.random.default_rng(0).permutation(len(faces.embeddings))]
    centres = cells_of(np.ascontiguousarray(shuffled), count=faces.people, rounds=15)
    return topk(faces.embeddings, centres, 1)[0][:, 0].astype(np.int32)


def agglomerative(faces: Faces, thresholds: list[float]) -> Iterator[Labels]:
    """Average linkage on cosine distances, cut at every similarity of `thresholds`."""
    from scipy.cluster.hierarchy import average, fcluster

    n = len(faces.embeddings)
    distances = np.empty(n * (n - 1) // 2, np.float32)
    place = 0
    for i in range(n - 1):
        row = 1 - faces.embeddings[i + 1 :] @ faces.embeddings[i]
        distances[place : place + len(row)] = np.maximum(row, 0)
        place += len(row)
    tree = average(distances)
    tree[:, 2] = np.maximum.accumulate(np.maximum(tree[:, 2], 0))
    for threshold in thresholds:
        yield fcluster(tree, 1 - threshold, "distance").astype(np.int32) - 1


COSINES = [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
# Every method with the values tried for its parameter; one value = nothing to choose.
METHODS: dict[str, tuple[Method, list[float]]] = {
    "infomap_0_8": (original, [0.8]),
    "infomap_tuned": (original, COSINES),
    "cosine_map_equation": (cosine_map_equation, COSINES),
    "ndde_tpdi": (hard_clusters, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
    "early_stop": (early_stop, [0.15, 0.22, 0.3, 0.4, 0.5]),
    "dbscan": (dbscan, COSINES),
    "chinese_whispers": (chinese_whispers, COSINES[2::2]),
    "finch": (finch, [1, 2, 3]),
    "k_means": (k_means, [0]),
    "hdbscan": (hdbscan, [1, 3]),
}
