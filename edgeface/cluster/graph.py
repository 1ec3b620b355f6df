"""Steps on the kNN graph, in C where the extension was built and in Python where it was not.

EDGEFACE_KERNEL chooses as it does for scoring: the name of a native kernel runs the step of those
instructions, `numba` and `numpy` run the definition in Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface import score
from edgeface.cluster import reference
from edgeface.types import Array

Indices = NDArray[np.int32]
THREADS = 2
BLOCK = 16_384


def _extension() -> Any:
    """The C steps, or None where the package was installed without a compiler."""
    try:
        return importlib.import_module("edgeface._graph")
    except ModuleNotFoundError:
        return None


_graph = _extension()


def blocks(n: int) -> Iterator[slice]:
    """Slices that cover n rows, so that a step need not hold its temporaries for all of them."""
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def path() -> str:
    """What runs the graph steps: `avx2`, `scalar` (both C) or `python`.

    Raises:
        KernelError: EDGEFACE_KERNEL names what cannot run here.
    """
    kernel = score.kernel()
    if not _graph or not kernel.startswith("native:"):
        return "python"
    return "scalar" if kernel == "native:scalar" else str(_graph.path())


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Neighbour rows sorted by id: `ids` (n, k) int32 ascending, padded with the largest int32;
    `amounts` (channels, n, k) float32 at the same places."""

    ids: Indices
    amounts: Array

    @classmethod
    def of(cls, indices: Indices, amounts: Sequence[Callable[[slice], Array]]) -> Rows:
        """Sort rows of neighbours; -1 marks a missing one. The amounts of a channel are asked for
        some rows at a time."""
        n, k = indices.shape
        ids = np.empty((n, k), np.int32)
        sorted_amounts = np.empty((len(amounts), n, k), np.float32)
        for part in blocks(n):
            padded = np.where(indices[part] < 0, reference.PAD, indices[part])
            order = np.argsort(padded, axis=1)
            ids[part] = np.take_along_axis(padded, order, axis=1)
            for channel, amount in enumerate(amounts):
                sorted_amounts[channel, part] = np.take_along_axis(amount(part), order, axis=1)
        return cls(ids, sorted_amounts)


def overlap(rows: Rows, nodes: Indices, targets: Indices, *, mean: bool = False) -> Array:
    """What the neighbourhoods at both ends of edges have in common.

    For each edge from nodes[r] to targets[r, e] and each channel, the sum over common neighbours of
    the product (or `mean`) of their amounts. `nodes` (m,), `targets` (m, k) int32, negative = no
    edge. Returns (channels, m, k) float32.
    """
    runs = path()
    if runs == "python":
        return reference.overlap(rows.ids, rows.amounts, nodes, targets, mean=mean)
    channels, n, k = rows.amounts.shape
    out = np.empty((channels, len(nodes), k), np.float32)

    def part(span: slice) -> None:
        few, some = np.ascontiguousarray(nodes[span]), np.ascontiguousarray(targets[span])
        result = np.empty((channels, len(few), k), np.float32)
        _graph.overlap(
            n, k, channels, len(few), 0 if mean else 1, runs == "scalar",
            rows.ids, rows.amounts, few, some, result,
        )  # fmt: skip
        out[:, span] = result

    half = (len(nodes) + THREADS - 1) // THREADS
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(part, (slice(i * half, (i + 1) * half) for i in range(THREADS))))
    return out


def lookup(rows: Rows, nodes: Indices, targets: Indices, *, absent: float) -> Array:
    """The amount (channel 0) at which the other end of an edge lists this one, else `absent`.

    Shapes as in `overlap`; returns (m, k) float32.
    """
    if path() == "python":
        return reference.lookup(rows.ids, rows.amounts[0], nodes, targets, absent)
    n, k = rows.ids.shape
    out = np.empty((len(nodes), k), np.float32)
    _graph.lookup(
        n,
        k,
        len(nodes),
        absent,
        rows.ids,
        np.ascontiguousarray(rows.amounts[0]),
        np.ascontiguousarray(nodes),
        np.ascontiguousarray(targets),
        out,
    )
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """An undirected weighted graph, every edge stored from both ends: `start` (n + 1) int64,
    `targets` int32 and `weights` float32 > 0."""

    start: NDArray[np.int64]
    targets: Indices
    weights: Array

    @classmethod
    def of(cls, n: int, sources: Indices, targets: Indices, weights: Array) -> Edges:
        """From directed edges: the weight of a pair is the mean of its two directions, a missing
        one counting as 0. Self-loops are dropped."""
        if (sources == targets).any():
            keep = sources != targets
            sources, targets, weights = sources[keep], targets[keep], weights[keep]
        forth, back = _grouped(n, sources), _grouped(n, targets)
        # Room for pairs that are all one-sided; what is not written takes no memory.
        found, totals = np.empty(2 * len(sources), np.int32), np.empty(2 * len(sources), np.float32)
        start = np.zeros(n + 1, np.int64)
        # A block of nodes at a time: sorting the keys of all edges at once takes ten times the
        # memory of the graph.
        for low, high in ((rows.start, rows.stop) for rows in blocks(n)):
            one, other = forth.of(low, high), back.of(low, high)
            keys = np.concatenate(
                [_keys(sources, targets, one, low, n), _keys(targets, sources, other, low, n)]
            )
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            both = np.concatenate([weights[one], weights[other]])[order]
            firsts = np.flatnonzero(np.diff(keys, prepend=-1))
            keys = keys[firsts]
            part = slice(start[low], start[low] + len(firsts))
            found[part] = keys % n
            if len(firsts):
                totals[part] = np.add.reduceat(both, firsts) * np.float32(0.5)
            degrees = np.bincount(keys // n, minlength=high - low)
            start[low + 1 : high + 1] = start[low] + np.cumsum(degrees)
        return cls(start, found[: start[n]], totals[: start[n]])


@dataclass(frozen=True, slots=True, eq=False)
class _Grouped:
    """Edges in the `order` of one of their ends (None: they lie so); node i's from bounds[i]."""

    order: Indices | None
    bounds: NDArray[np.int64]

    def of(self, low: int, high: int) -> slice | Indices:
        part = slice(self.bounds[low], self.bounds[high])
        return part if self.order is None else self.order[part]


def _grouped(n: int, ends: Indices) -> _Grouped:
    bounds = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=n), out=bounds[1:])
    if (ends[1:] >= ends[:-1]).all():
        return _Grouped(None, bounds)
    return _Grouped(np.argsort(ends, kind="stable").astype(np.int32), bounds)


def _keys(a: Indices, b: Indices, edges: slice | Indices, low: int, n: int) -> NDArray[np.int64]:
    """Numbers by which edges from nodes `a` - `low` to `b` sort."""
    return (a[edges].astype(np.int64) - low) * n + b[edges]


def partition(edges: Edges) -> tuple[Indices, float]:
    """Two-level map-equation modules (Rosvall and Bergstrom 2008) of an undirected graph.

    Returns labels (n,) int32 numbered by first node, and the code length in bits per step.
    """
    if path() == "python":
        return reference.partition(edges.start, edges.targets, edges.weights)
    n = len(edges.start) - 1
    labels = np.empty(n, np.int32)
    length = _graph.partition(
        n, len(edges.targets), edges.start, edges.targets, edges.weights, labels
    )
    return labels, float(length)
