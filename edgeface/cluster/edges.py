"""How likely the two ends of a kNN edge are one person, judged in two passes.

The first pass sees the similarity and the two neighbourhoods (`FEATURES`), the second what the
first found around the edge (`SUPPORT`). None of it depends on the embedder's scale of cosines:
similarities count in units of this set's own spread between strangers, neighbourhoods are weighed
with every face's own scale, and an edge is compared with the other edges of its ends.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster import graph
from edgeface.cluster.attention import Transformer
from edgeface.cluster.graph import Indices
from edgeface.cluster.model import FEATURES, EdgeModel, Network
from edgeface.cluster.neighbours import Neighbours, neighbours
from edgeface.cluster.space import Frame, Space, Strangers
from edgeface.cluster.support import LIKELY, Support, expected_people
from edgeface.types import Array

# The neighbour whose distances set a face's own scale (Zelnik-Manor and Perona 2004 use the 7th).
LOCAL = 7
# Neighbours from this rank on are taken for strangers when an edge's standing is measured, or the
# last three quarters of a shorter list.
COHORT = 16
# Raw cosine from which two pictures are one person whatever else the set holds: copies, and frames
# of one take. Of the pairs of training people at this cosine 1,533 are of one person, 4 are not.
TWIN = 0.9
CHUNK = 2048
# Faces that a transformer looks at together: its scores of so many fit a processor's cache.
ATTENDED = 64

DRAWN = 1500  # faces whose edges say what is usual


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhoods:
    """A kNN graph with what its edges are described by."""

    frame: Frame
    near: Neighbours
    strangers: Strangers
    rows: graph.Rows
    ranks: graph.Rows
    ends: Array

    @classmethod
    def of(cls, space: Space, k: int) -> Self:
        """Search the k nearest neighbours and prepare their description."""
        return cls.around(space.frame, neighbours(space.rows, k), Strangers.of(space))

    @classmethod
    def around(cls, frame: Frame, near: Neighbours, strangers: Strangers) -> Self:
        """From neighbours found before, and strangers measured before."""
        n, k = near.indices.shape
        ranks = np.broadcast_to(np.arange(k, dtype=np.float32), (n, k))
        amounts = [own_scale_amounts(near), _first(n, k, 5), _first(n, k, 20), ranks]
        rows = graph.Rows.of(near.indices, [amount.__getitem__ for amount in amounts])
        present = np.maximum(near.similarities, -1.0)
        cohort = present[:, min(COHORT, k // 4) :]
        # A cohort of a few alike faces is no reason for certainty: its spread has a floor.
        floor = 0.15 * strangers.spread
        spread = np.sqrt(np.maximum(cohort.std(axis=1), 0.02) ** 2 + floor**2)
        best = present[:, min(1, k - 1)]
        ends = [
            present[:, -1],
            present[:, 1:6].mean(axis=1) if k > 1 else present[:, 0],
            cohort.mean(axis=1),
            spread,
            best,
            present[:, 2] if k > 2 else best,
        ]
        return cls(
            frame,
            near,
            strangers,
            graph.Rows(rows.ids, rows.amounts[:3]),
            graph.Rows(rows.ids, rows.amounts[3:]),
            np.stack(ends, axis=1).astype(np.float32),
        )

    def features(self, nodes: Indices, asked: NDArray[np.bool_] | None = None) -> Array:
        """(m, k, f) float32 for the edges of `nodes` (m,) int32, in their neighbours' order.

        With `asked` (m, k) only the edges it marks get overlaps, which cost the most.
        Symmetric in the two ends. Standing is the similarity against the strangers around one end,
        in their standard deviations (the adaptive s-norm of Matejka et al. 2017); lead is that
        against the best other neighbour, in the set's spread; commonness how much an end is like
        the mean face.
        """
        targets, similarity = self.near.indices[nodes], self.near.similarities[nodes]
        k, by = targets.shape[1], self.strangers
        here, there = self.ends[nodes][:, None], self.ends[targets]
        out = np.empty((*targets.shape, len(FEATURES)), np.float32)
        out[..., 0] = (similarity - by.middle) / by.spread
        out[..., 1] = self.frame.raw(nodes, targets, similarity)
        out[..., 1] = (out[..., 1] - by.raw_middle) / by.raw_spread
        common = targets if asked is None else np.where(asked, targets, np.int32(-1))
        out[..., 2:5] = np.moveaxis(graph.overlap(self.rows, nodes, common), 0, 2)
        out[..., 5:7] = ((here[..., :2] + there[..., :2]) / 2 - by.middle) / by.spread
        back = np.log1p(graph.lookup(self.ranks, nodes, targets, absent=float(k)))
        forth = np.log1p(np.arange(k, dtype=np.float32))
        _both(out[..., 7:9], back, np.broadcast_to(forth, back.shape))
        _both(out[..., 9:11], *(((similarity - e[..., 2]) / e[..., 3]) for e in (here, there)))
        _both(out[..., 11:13], *(_lead(similarity, e) / by.spread for e in (here, there)))
        along = self.frame.along
        centre, unit = np.float32(self.frame.offset), np.float32(1 / by.raw_spread)
        ordinary = ((along[nodes, None] - centre) * unit, (along[targets] - centre) * unit)
        _both(out[..., 13:15], *ordinary)
        return out

    def closeness(self, nodes: Indices) -> Array:
        """(m, k, k) float32: how alike the neighbours of `nodes` (m,) int32 are among themselves,
        in the set's spread above its strangers. Of two of whom neither lists the other it is known
        only that they are at most as alike as the last in the shorter list: they get that."""
        targets = np.maximum(self.near.indices[nodes], 0)
        m, k = targets.shape
        others = np.repeat(targets, k, axis=0)
        place = graph.lookup(self.ranks, targets.ravel(), others, absent=-1.0).reshape(m, k, k)
        place = place.astype(np.int32)
        known = self.near.similarities[targets[:, None], np.maximum(place, 0)]
        known = np.where(place >= 0, known, np.float32(-np.inf))
        known = np.maximum(known, known.swapaxes(1, 2))
        last = self.ends[targets, 0]
        most = np.minimum(last[:, None], last[:, :, None])
        alike = np.where(np.isfinite(known), known, most)
        return np.asarray((alike - self.strangers.middle) / self.strangers.spread, np.float32)

    def first_pass(self, network: Network | Transformer, nodes: Indices | None = None) -> Array:
        """(m, k) float32 probabilities of the edges of `nodes` (default all); 1 to itself."""
        chosen = _all(self.near) if nodes is None else nodes
        out = np.empty((len(chosen), self.near.indices.shape[1]), np.float32)

        def judge(part: slice) -> None:
            some = chosen[part]
            seen = self.features(some)
            if isinstance(network, Transformer):
                present = self.near.indices[some] >= 0
                out[part] = network(seen, self.closeness(some), present)
            else:
                out[part] = network(seen)

        _each_chunk(judge, len(chosen), ATTENDED if isinstance(network, Transformer) else CHUNK)
        out[self.near.indices[chosen] < 0] = 0.0
        out[:, 0] = 1.0
        return out

    def second_pass(
        self,
        network: Network,
        first: Array,
        nodes: Indices | None = None,
        *,
        least: float | None = None,
    ) -> Array:
        """(m, k) float32 like `first_pass`, with what `first` (n, k), the first pass of every face
        here, says. Edges it held unlikely are 0, and so are those below the raw cosine
        `least` (default: see `least_link`); pairs as alike as TWIN are 1."""
        if least is None:
            least = least_link(self.frame, self.near, self.strangers, first)
        chosen = _all(self.near) if nodes is None else nodes
        support = Support.of(self.near.indices, first)
        out = np.zeros((len(chosen), self.near.indices.shape[1]), np.float32)

        def judge(part: slice) -> None:
            some = chosen[part]
            likely = first[some] >= LIKELY
            described = [self.features(some, likely)[likely], support.features(some)[likely]]
            found = np.zeros(likely.shape, np.float32)
            found[likely] = network(np.concatenate(described, axis=1))
            targets = self.near.indices[some]
            raw = self.frame.raw(some, targets, self.near.similarities[some])
            found[raw < least] = 0.0
            found[(raw >= TWIN) & (targets >= 0)] = 1.0
            out[part] = found

        _each_chunk(judge, len(chosen))
        out[:, 0] = 1.0
        return out

    def probabilities(self, model: EdgeModel) -> Array:
        """(n, k) float32: that edges join one person, after both passes."""
        return self.second_pass(model.second, self.first_pass(model.first))


def least_link(frame: Frame, near: Neighbours, strangers: Strangers, first: Array) -> float:
    """The raw cosine that a link needs: that of the likest strangers among as many people as
    `first` (n, k), the first pass of all faces, expects; but no more than the median of the edges
    it holds likely, over evenly drawn faces. An embedder whose strangers are widely spread would
    otherwise have hardly a link left."""
    n = len(first)
    drawn = np.unique(np.linspace(0, max(n - 1, 0), min(n, DRAWN)).astype(np.int32))
    targets = near.indices[drawn]
    likely = (first[drawn] > 0.5) & (targets >= 0)
    likely[:, :1] = False
    raw = frame.raw(drawn, np.maximum(targets, 0), near.similarities[drawn])[likely]
    reach = strangers.reach(expected_people(first))
    return min(reach, float(np.median(raw))) if raw.size else reach


def own_scale_amounts(near: Neighbours) -> Array:
    """Square roots of transition probabilities P_ij ~ exp(-2 d_ij^2 / s_i), d^2 = 2 - 2 cos.

    s_i is the mean d^2 of the LOCAL nearest neighbours, so a sparse neighbourhood is read with a
    coarser scale than a dense one. The product of two such rows sums to their Bhattacharyya
    coefficient, 1 minus the transition-probability distance (TPDi) of Chen et al., On Mitigating
    Hard Clusters for Face Clustering, ECCV 2022.
    """
    squares = 2.0 - 2.0 * np.clip(near.similarities, 0.0, 1.0)
    local = squares[:, 1 : 1 + LOCAL]
    scale = np.maximum(local.mean(axis=1) if local.size else squares[:, 0], 1e-3)
    squares *= (-2.0 / scale)[:, None]
    weights = np.exp(squares, out=squares)
    weights[near.indices < 0] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.sqrt(weights, out=weights), np.float32)


def _all(near: Neighbours) -> Indices:
    return np.arange(len(near.indices), dtype=np.int32)


def _each_chunk(work: Callable[[slice], None], n: int, size: int = CHUNK) -> None:
    # numpy and the extension release the GIL; every chunk writes rows of its own.
    with ThreadPoolExecutor(graph.THREADS) as pool:
        chunks = (slice(start, min(start + size, n)) for start in range(0, n, size))
        for _ in pool.map(work, chunks):
            pass


def _both(out: Array, here: Array, there: Array) -> None:
    np.maximum(here, there, out=out[..., 0])
    np.minimum(here, there, out=out[..., 1])


def _lead(similarity: Array, ends: Array) -> Array:
    """The similarity less that of the end's best other neighbour."""
    best, second = ends[..., 4], ends[..., 5]
    return np.asarray(similarity - np.where(similarity >= best - 1e-7, second, best))


def _first(n: int, k: int, count: int) -> Array:
    # Products of these sum to the share of `count` first neighbours that two faces have in common.
    row = np.zeros(k, np.float32)
    row[:count] = 1.0 / np.sqrt(count)
    return np.broadcast_to(row, (n, k))
