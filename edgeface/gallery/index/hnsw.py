"""An hnswlib graph of samples (Malkov and Yashunin 2018), with what hnswlib leaves to its users.

hnswlib keeps float32 vectors, so its inner products are exact. It allows no search during an
insert (the caller holds a lock), does not grow by itself, refuses to find more neighbours than it
reaches, forgets `ef` when saved, and only marks what is deleted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeface.gallery.index import hnswfile
from edgeface.gallery.index.numbers import Ids, Numbers
from edgeface.gallery.index.scan import THREADS
from edgeface.score import topk
from edgeface.types import Array

if TYPE_CHECKING:
    import hnswlib

M, EF_CONSTRUCTION = 16, 100


def breadth(samples: int) -> int:
    """hnswlib's `ef`, how many candidates a search follows, for a recall@1 of .99 and more: 64 give
    .998 among 100,000 samples and .937 among 1,000,000, where 192 give .992 (`python -m bench
    gallery`)."""
    return max(64, round(64 * math.sqrt(samples / 100_000)))


class Hnsw:
    """Samples labelled by their ids. An id stands for one vector for ever, so a saved graph stays
    valid whatever happens to the gallery: what is missing is added, what is gone removed."""

    def __init__(self, size: int, graph: hnswlib.Index, alive: Numbers) -> None:
        self._size, self._graph, self._alive = size, graph, alive
        graph.set_num_threads(THREADS)
        graph.set_ef(breadth(len(alive)))

    @classmethod
    def empty(cls, size: int, room: int) -> Hnsw:
        """A graph without samples, with room for some."""
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=size)
        graph.init_index(
            max_elements=max(64, room),
            M=M,
            ef_construction=EF_CONSTRUCTION,
            allow_replace_deleted=True,
        )
        return cls(size, graph, Numbers())

    @classmethod
    def load(cls, path: Path, size: int, wanted: Ids) -> Hnsw:
        """A saved graph of which only the samples `wanted` are kept. GalleryError when the file
        is no graph."""
        graph, held = hnswfile.read(path, size)
        held = np.sort(held, kind="stable")  # most of them are in order
        # Most of the time all are there, and of a million, comparing takes time.
        gone = held[:0] if np.array_equal(held, wanted) else np.setdiff1d(held, wanted)
        loaded = cls(size, graph, Numbers.of(np.setdiff1d(held, gone) if len(gone) else held))
        for sample in gone.tolist():
            try:
                loaded._erase(np.array([sample], np.int64))
            except RuntimeError:  # deleted before it was saved
                continue
        return loaded

    def save(self, path: Path) -> None:
        """Write to `path`, in place."""
        self._graph.save_index(str(path))

    def __len__(self) -> int:
        return len(self._alive)

    def __contains__(self, sample: int) -> bool:
        return sample in self._alive

    def ids(self) -> Ids:
        """The samples it holds."""
        return self._alive.keys()

    def add(self, ids: Ids, rows: Array) -> None:
        nodes, most = self._graph.get_current_count(), self._graph.get_max_elements()
        if nodes + len(ids) > most:
            self._graph.resize_index(max(nodes + len(ids), most * 3 // 2))
        if nodes > len(self._alive):  # take the places of deleted nodes first
            self._graph.add_items(rows, ids, num_threads=1, replace_deleted=True)
        else:
            self._graph.add_items(rows, ids)
        self._alive.put(ids)
        self._graph.set_ef(breadth(len(self._alive)))

    def remove(self, ids: Ids) -> None:
        self._erase(ids)
        self._alive.drop(ids)

    def _erase(self, ids: Ids) -> None:
        # Overwrite the vectors before marking them, so that a forgotten face is gone.
        noise = np.random.default_rng(len(self._alive)).standard_normal((len(ids), self._size))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        self._graph.add_items(noise.astype(np.float32), ids)
        for sample in ids.tolist():
            self._graph.mark_deleted(sample)

    def search(self, probes: Array, k: int) -> tuple[Ids, Array]:
        try:
            ids, distances = self._graph.knn_query(probes, k)
        except RuntimeError:  # fewer than k reached, as happens among many deleted nodes
            kept, rows = self.contents()
            places, sims = topk(probes, rows, k, threads=THREADS)
            return kept[places], sims
        return ids.view(np.int64), 1.0 - distances

    def contents(self) -> tuple[Ids, Array]:
        """Ids (n,) and rows (n, d), copied out of the graph."""
        ids = self.ids()
        return ids, np.asarray(self._graph.get_items(ids, return_type="numpy"), np.float32)
