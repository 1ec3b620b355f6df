"""The searchable copy of a gallery's embeddings: a cache, rebuilt from the rows at any time.

Up to `EXACT_LIMIT` samples every search compares with every sample; above, hnswlib proposes
(Malkov and Yashunin 2018). hnswlib keeps float32 vectors, so its inner products are exact too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import hnswlib
import numpy as np
from numpy.typing import NDArray

from edgeface.score import topk
from edgeface.types import Array, Match

Ids = NDArray[np.int64]

EXACT_LIMIT = 20_000  # samples; measured by `python -m bench gallery`
M, EF_CONSTRUCTION, EF = 16, 100, 64  # recall@1 >= .99 up to a million, same bench
THREADS = 2
SPARE_DEAD = 0.3  # share of deleted nodes at which the graph is built anew


class Searcher(Protocol):
    """Samples by id; `search` gives ids and similarities (q, k), best first, k <= len."""

    def __len__(self) -> int: ...
    def add(self, ids: Ids, rows: Array) -> None: ...
    def remove(self, ids: Ids) -> None: ...
    def search(self, probes: Array, k: int) -> tuple[Ids, Array]: ...
    def contents(self) -> tuple[Ids, Array]: ...


class Exact:
    """Rows in one array without gaps: the last row moves into the place of a deleted one."""

    def __init__(self, size: int) -> None:
        self._rows = np.empty((0, size), np.float32)
        self._ids = np.empty(0, np.int64)
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def add(self, ids: Ids, rows: Array) -> None:
        n, total = len(self), len(self) + len(ids)
        if total > len(self._ids):
            room = max(64, total, 2 * len(self._ids))
            self._rows = np.concatenate(
                [self._rows[:n], np.empty((room - n, self._rows.shape[1]), np.float32)]
            )
            self._ids = np.concatenate([self._ids[:n], np.empty(room - n, np.int64)])
        self._rows[n:total], self._ids[n:total] = rows, ids
        self._place.update(zip(ids.tolist(), range(n, total), strict=True))

    def remove(self, ids: Ids) -> None:
        for i in ids.tolist():
            here, last = self._place.pop(i), len(self._place)
            if here != last:
                self._rows[here], self._ids[here] = self._rows[last], self._ids[last]
                self._place[int(self._ids[here])] = here
            self._rows[last] = 0.0  # a forgotten face does not linger in memory

    def search(self, probes: Array, k: int) -> tuple[Ids, Array]:
        places, sims = topk(probes, self._rows[: len(self)], k, threads=THREADS)
        return self._ids[places], sims

    def contents(self) -> tuple[Ids, Array]:
        return self._ids[: len(self)].copy(), self._rows[: len(self)].copy()


class Hnsw:
    """An hnswlib graph labelled by sample id. hnswlib itself allows neither search during insert,
    nor more neighbours than it reaches, nor growth without being told; this does."""

    def __init__(self, size: int, room: int) -> None:
        self._size = size
        self._alive: set[int] = set()
        self._graph = self._empty(room)

    def _empty(self, room: int) -> hnswlib.Index:
        graph = hnswlib.Index(space="ip", dim=self._size)
        graph.init_index(max_elements=max(64, room), M=M, ef_construction=EF_CONSTRUCTION)
        graph.set_num_threads(THREADS)
        graph.set_ef(EF)
        return graph

    def __len__(self) -> int:
        return len(self._alive)

    def add(self, ids: Ids, rows: Array) -> None:
        total = self._graph.get_current_count() + len(ids)
        if total > self._graph.get_max_elements():
            self._graph.resize_index(max(total, self._graph.get_max_elements() * 3 // 2))
        self._graph.add_items(rows, ids)
        self._alive.update(ids.tolist())

    def remove(self, ids: Ids) -> None:
        # hnswlib only marks: overwrite the vector first, so that a forgotten face is gone.
        noise = np.random.default_rng(0).standard_normal((len(ids), self._size), np.float32)
        self._graph.add_items(noise / np.linalg.norm(noise, axis=1, keepdims=True), ids)
        for i in ids.tolist():
            self._graph.mark_deleted(i)
        self._alive.difference_update(ids.tolist())
        nodes = self._graph.get_current_count()
        if nodes - len(self) > SPARE_DEAD * nodes:
            kept, rows = self.contents()
            self._graph = self._empty(len(kept) * 5 // 4)
            self._graph.add_items(rows, kept)

    def search(self, probes: Array, k: int) -> tuple[Ids, Array]:
        try:
            ids, distances = self._graph.knn_query(probes, k)
        except RuntimeError:  # fewer than k reached, as happens among many deleted nodes
            kept, rows = self.contents()
            places, sims = topk(probes, rows, k, threads=THREADS)
            return kept[places], sims
        return ids.astype(np.int64), np.asarray(1.0 - distances, np.float32)

    def contents(self) -> tuple[Ids, Array]:
        ids = np.fromiter(self._alive, np.int64, len(self))
        return ids, np.asarray(self._graph.get_items(ids, return_type="numpy"), np.float32)


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = self._waiting = 0
        self._writing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold off writers for the block."""
        with self._condition:
            self._condition.wait_for(lambda: not (self._writing or self._waiting))
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off everybody for the block."""
        with self._condition:
            self._waiting += 1
            self._condition.wait_for(lambda: not (self._writing or self._readers))
            self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()


class Index:
    """Best sample per person, safe to search from many threads while it changes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = ReadWriteLock()
        self._owner: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._searcher: Searcher = Exact(size)

    def __len__(self) -> int:
        return len(self._searcher)

    def rename(self, names: dict[int, str]) -> None:
        """Set the names of people by id; to be called before their samples are added."""
        with self._lock.writing():
            self._names.update(names)

    def remove(self, ids: Ids) -> None:
        """Drop samples; those it does not hold are ignored."""
        with self._lock.writing():
            gone = np.array([i for i in ids.tolist() if i in self._owner], np.int64)
            if len(gone):
                self._searcher.remove(gone)
                for i in gone.tolist():
                    del self._owner[i]

    def add(self, ids: Ids, owners: Ids, rows: Array) -> None:
        """Add samples (n,) of people `owners` (n,) with unit `rows` (n, d); samples it already
        holds only change their owner, as embeddings never change."""
        with self._lock.writing():
            new = np.array([i not in self._owner for i in ids.tolist()], bool)
            if new.any():
                self._make_room(int(new.sum()))
                self._searcher.add(ids[new], rows[new])
            self._owner.update(zip(ids.tolist(), owners.tolist(), strict=True))

    def _make_room(self, n: int) -> None:
        """Change from the exact scan to the graph when `n` more samples cross the limit."""
        total = len(self._searcher) + n
        if total > EXACT_LIMIT and isinstance(self._searcher, Exact):
            graph = Hnsw(self._size, total * 5 // 4)
            if len(self._searcher):
                graph.add(*self._searcher.contents())
            self._searcher = graph

    def search(self, probes: Array, k: int) -> list[list[Match]]:
        """For each probe (q, d) the `k` nearest people, each by its most similar sample."""
        with self._lock.reading():
            found: list[list[Match]] = [[] for _ in probes]
            pending = np.arange(len(probes))
            take = min(4 * k, len(self._searcher))
            while len(pending) and take:
                ids, sims = self._searcher.search(probes[pending], take)
                for i, some_ids, some_sims in zip(
                    pending.tolist(), ids.tolist(), sims.tolist(), strict=True
                ):
                    found[i] = self._people(some_ids, some_sims, k)
                if take == len(self._searcher):
                    break
                # A person with many samples may fill the answer: look further for these probes.
                pending = np.array([i for i in pending.tolist() if len(found[i]) < k], np.int64)
                take = min(4 * take, len(self._searcher))
            return found

    def _people(self, ids: list[int], sims: list[float], k: int) -> list[Match]:
        best: dict[int, float] = {}
        for i, similarity in zip(ids, sims, strict=True):
            best.setdefault(self._owner[i], similarity)
            if len(best) == k:
                break
        return [Match(person, self._names[person], sim) for person, sim in best.items()]
