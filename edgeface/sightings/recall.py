"""Was this face ever here? The templates of all appearances in memory, scored exactly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeface.score import QuantizedRows, quantize, topk
from edgeface.types import Array

if TYPE_CHECKING:
    from edgeface.sightings.store import Sightings

TAIL = 20_000  # templates scored as they are until they are quantised with the others
_READ = "SELECT id, run, track, template FROM appearance"


class Recall:
    """Loads what has ended once and what is new before every question; tracks that are still there
    are read each time. 384 bytes of memory per appearance at 128 dimensions."""

    def __init__(self, store: Sightings) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ids = np.empty(0, np.int64)
        self._exact = np.empty((0, store.gallery.size), np.float16)
        self._bulk: QuantizedRows | None = None  # of the first rows of `_exact`

    def search(self, embedding: Array, threshold: float, k: int) -> list[tuple[int, float]]:
        """Id and cosine of the `k` most similar templates, from `threshold` on, best first."""
        probe = np.ascontiguousarray(embedding, np.float32)[None]
        with self._lock:
            live_ids, live = self._load()
            found = list(zip(live_ids, (live @ probe[0]).tolist(), strict=True))
            bulk = 0 if self._bulk is None else len(self._bulk)
            if self._bulk is not None and bulk:
                found += _best(probe, self._bulk, self._ids[:bulk], k)
            if len(self._ids) > bulk:
                found += _best(probe, self._exact[bulk:], self._ids[bulk:], k)
        found = [(i, s) for i, s in found if s >= threshold]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]

    def _load(self) -> tuple[list[int], Array]:
        """Take in what has come and gone; returns the tracks that are still there."""
        last = int(self._ids[-1]) if len(self._ids) else 0
        with self._store.file.read() as execute:
            ((there,),) = execute(
                "SELECT count(*) FROM appearance WHERE ended AND template IS NOT NULL AND id <= ?",
                (last,),
            )
            if there != len(self._ids):  # some were erased, or ended late: begin anew
                self._ids, self._exact = self._ids[:0], self._exact[:0]
                self._bulk, last = None, 0
            new = execute(
                f"{_READ} WHERE ended AND template IS NOT NULL AND id > ? ORDER BY id", (last,)
            )
            living = execute(f"{_READ} WHERE NOT ended")
        if new:
            ids, rows = self._store.templates(new)
            self._ids = np.concatenate([self._ids, np.array(ids, np.int64)])
            self._exact = np.concatenate([self._exact, rows.astype(np.float16)])
        bulk = 0 if self._bulk is None else len(self._bulk)
        if len(self._ids) - bulk > TAIL:
            self._bulk = quantize(self._exact)
        return self._store.templates(living)


def _best(
    probe: Array, rows: QuantizedRows | NDArray[np.float16], ids: NDArray[np.int64], k: int
) -> list[tuple[int, float]]:
    found, similarity = topk(probe, rows, min(k, len(rows)), threads=2)
    return list(zip(ids[found[0]].tolist(), similarity[0].tolist(), strict=True))
