"""The graph steps in plain Python and numpy: the definition that `_graph` is tested against, and
what runs where the extension was not built. Same arithmetic in the same order."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgeface.types import Array

PAD = np.iinfo(np.int32).max
Indices = NDArray[np.int32]


def overlap(ids: Indices, amounts: Array, nodes: Indices, targets: Indices, *, mean: bool) -> Array:
    """See `edgeface_overlap` in native/graph/graph.h."""
    channels, _, k = amounts.shape
    out = np.zeros((channels, len(nodes), k), np.float32)
    for row, node in enumerate(nodes):
        for place, target in enumerate(targets[row]):
            if target < 0:
                continue
            common, here, there = np.intersect1d(ids[node], ids[target], return_indices=True)
            here, there = here[common != PAD], there[common != PAD]
            a, b = amounts[:, node, here], amounts[:, target, there]
            terms = np.float32(0.5) * (a + b) if mean else a * b
            if terms.size:
                # cumsum adds from left to right as the C loop does; sum would add in pairs.
                out[:, row, place] = np.cumsum(terms, axis=1, dtype=np.float32)[:, -1]
    return out


def lookup(ids: Indices, amounts: Array, nodes: Indices, targets: Indices, absent: float) -> Array:
    """See `edgeface_lookup` in native/graph/graph.h."""
    out = np.full(targets.shape, absent, np.float32)
    for row, node in enumerate(nodes):
        valid = np.flatnonzero(targets[row] >= 0)
        where = ids[targets[row, valid]] == node
        listed = where.any(axis=1)
        place = where.argmax(axis=1)
        out[row, valid[listed]] = amounts[targets[row, valid], place][listed]
    return out


def partition(start: NDArray[np.int64], targets: Indices, weights: Array) -> tuple[Indices, float]:
    """See `edgeface_partition` in native/graph/graph.h."""
    n = len(start) - 1
    labels = list(range(n))
    if not n or not len(targets):
        return np.arange(n, dtype=np.int32), 0.0
    leaves = _Graph.of_leaves(start, targets, weights)
    leaf_terms = 0.0
    for rate in leaves.visit:
        leaf_terms += _plogp(rate)
    length, best = math.inf, labels
    for _ in range(16):
        best, shorter = _descend(leaves, best, leaf_terms)
        if not shorter < length - 1e-9:
            break
        length, labels = shorter, best
    return np.array(_renumbered(labels)[0], np.int32), length


def _plogp(p: float) -> float:
    return p * math.log2(p) if p > 0.0 else 0.0


def _terms(out: float, visit: float) -> float:
    return _plogp(out + visit) - 2.0 * _plogp(out)


def _renumbered(module: list[int]) -> tuple[list[int], int]:
    names: dict[int, int] = {}
    return [names.setdefault(m, len(names)) for m in module], len(names)


class _Graph:
    """Nodes with visit rates, the flow that leaves them, and their edges."""

    def __init__(self, edges: list[list[tuple[int, float]]], visit: list[float], out: list[float]):
        self.edges, self.visit, self.out = edges, visit, out

    @classmethod
    def of_leaves(cls, start: NDArray[np.int64], targets: Indices, weights: Array) -> _Graph:
        total = 0.0
        for weight in weights.tolist():
            total += weight
        flows = [w / total for w in weights.tolist()]
        ends, to = start.tolist(), targets.tolist()
        edges = [list(zip(to[a:b], flows[a:b], strict=True)) for a, b in pairwise(ends)]
        visit = []
        for row in edges:
            rate = 0.0
            for _, flow in row:
                rate += flow
            visit.append(rate)
        return cls(edges, visit, list(visit))

    def aggregated(self, module: list[int], count: int) -> _Graph:
        members: list[list[int]] = [[] for _ in range(count)]
        for node, m in enumerate(module):
            members[m].append(node)
        edges, visits, outs = [], [], []
        for m, nodes in enumerate(members):
            flows: dict[int, float] = {}
            visit = out = 0.0
            for node in nodes:
                for target, flow in self.edges[node]:
                    other = module[target]
                    if other != m:
                        flows[other] = flows.get(other, 0.0) + flow
                        out += flow
                visit += self.visit[node]
            edges.append(list(flows.items()))
            visits.append(visit)
            outs.append(out)
        return _Graph(edges, visits, outs)


class _Partition:
    """The modules of a graph while its nodes move."""

    def __init__(self, graph: _Graph, module: list[int]) -> None:
        n = len(graph.visit)
        self.graph, self.module = graph, list(module)
        self.visit, self.out, self.members = [0.0] * n, [0.0] * n, [0] * n
        for i, m in enumerate(module):
            self.visit[m] += graph.visit[i]
            self.members[m] += 1
            for target, flow in graph.edges[i]:
                if module[target] != m:
                    self.out[m] += flow
        self.total = 0.0
        self.empty: list[int] = []
        for m in range(n - 1, -1, -1):
            self.total += self.out[m]
            if not self.members[m]:
                self.empty.append(m)

    def sweep(self) -> int:
        n = len(self.module)
        order, dirty, moved_in_all = _shuffled(n), [True] * n, 0
        for _ in range(64):
            moved = 0
            for i in order:
                if dirty[i]:
                    dirty[i] = False
                    if self._try(i):
                        moved += 1
                        for target, _ in self.graph.edges[i]:
                            dirty[target] = True
            moved_in_all += moved
            if not moved:
                break
        return moved_in_all

    def _try(self, i: int) -> bool:
        own = self.module[i]
        towards: dict[int, float] = {}
        for target, flow in self.graph.edges[i]:
            m = self.module[target]
            towards[m] = towards.get(m, 0.0) + flow
        if self.members[own] > 1 and self.empty:
            towards[self.empty[-1]] = 0.0
        out, visit, to_own = self.graph.out[i], self.graph.visit[i], towards.get(own, 0.0)
        own_out = self.out[own] - out + 2.0 * to_own
        own_change = _terms(own_out, self.visit[own] - visit) - _terms(
            self.out[own], self.visit[own]
        )
        best_change, best = -1e-12, own
        for m, to_m in towards.items():
            if m == own:
                continue
            m_out = self.out[m] + out - 2.0 * to_m
            total = self.total + own_out + m_out - self.out[own] - self.out[m]
            change = (
                _plogp(total)
                - _plogp(self.total)
                + own_change
                + _terms(m_out, self.visit[m] + visit)
                - _terms(self.out[m], self.visit[m])
            )
            if change < best_change:
                best_change, best = change, m
        if best == own:
            return False
        self._move(i, best, own_out, self.out[best] + out - 2.0 * towards[best])
        return True

    def _move(self, i: int, target: int, own_out: float, target_out: float) -> None:
        own, visit = self.module[i], self.graph.visit[i]
        if not self.members[target]:
            self.empty.pop()
        self.total += own_out + target_out - self.out[own] - self.out[target]
        self.members[own] -= 1
        self.members[target] += 1
        self.out[own] = own_out if self.members[own] else 0.0
        self.visit[own] = self.visit[own] - visit if self.members[own] else 0.0
        self.out[target] = target_out
        self.visit[target] += visit
        self.module[i] = target
        if not self.members[own]:
            self.empty.append(own)

    def length(self, leaf_terms: float) -> float:
        total = modules = 0.0
        for out, visit in zip(self.out, self.visit, strict=True):
            total += out
            modules += _terms(out, visit)
        return _plogp(total) + modules - leaf_terms


def _shuffled(n: int) -> list[int]:
    state, wrap, order = 0x9E3779B97F4A7C15, (1 << 64) - 1, list(range(n))
    for i in range(n - 1, 0, -1):
        state ^= (state << 13) & wrap
        state ^= state >> 7
        state ^= (state << 17) & wrap
        j = state % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def _descend(leaves: _Graph, start: list[int], leaf_terms: float) -> tuple[list[int], float]:
    graph, module, labels = leaves, start, start
    while True:
        state = _Partition(graph, module)
        moved = state.sweep()
        length = state.length(leaf_terms)
        found, count = _renumbered(state.module)
        labels = found if graph is leaves else [found[m] for m in labels]
        if count == len(found) or (graph is not leaves and not moved):
            return labels, length
        graph = graph.aggregated(found, count)
        module = list(range(count))
