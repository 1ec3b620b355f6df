"""Was this face ever here? The templates of all appearances in memory, scored exactly."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeface.score import QuantizedRows, quantize, topk
from edgeface.sightings.rows import BLOCK
from edgeface.types import Array

if TYPE_CHECKING:
    from edgeface.sightings.store import Sightings

TAIL = 20_000  # templates scored as they are until they are quantised with the others
_READ = "SELECT id, run, track, template, ended FROM appearance"


class Recall:
    """Loads what has ended once and what is new before every question; tracks that are still there
    are read each time. 384 bytes of memory per appearance at 128 dimensions."""

    def __init__(self, store: Sightings) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ids = np.empty(0, np.int64)
        self._exact = np.empty((0, store.gallery.size), np.float16)
        self._bulk: QuantizedRows | None = None  # of the first rows of `_exact`
        self._top, self._living = 0, list[int]()  # the newest id read; tracks that were there
        self._erased: str | None = None  # the count of erased rows when it was read

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
        with self._store.file.read() as execute:
            ((erased,),) = execute("SELECT value FROM about WHERE key = 'erased'")
            if erased != self._erased:
                self._erased = erased
                if self._top:
                    self._keep(execute("SELECT id FROM appearance"))
            living = execute(
                f"{_READ} WHERE id IN ({{among}}) ORDER BY id", (json.dumps(self._living),)
            )
            self._living = []
            ids, new = [self._ids], [self._exact]
            live = self._sort(living, ids, new)
            while rows := execute(f"{_READ} WHERE id > ? ORDER BY id LIMIT ?", (self._top, BLOCK)):
                live += self._sort(rows, ids, new)
                self._top = rows[-1][0]
        if len(ids) > 1:
            self._ids, self._exact = np.concatenate(ids), np.concatenate(new)
        bulk = 0 if self._bulk is None else len(self._bulk)
        if len(self._ids) - bulk > TAIL:
            self._bulk = quantize(self._exact)
        return self._store.templates(live)

    def _sort(
        self,
        rows: list[tuple[Any, ...]],
        ids: list[NDArray[np.int64]],
        new: list[NDArray[np.float16]],
    ) -> list[tuple[Any, ...]]:
        """Put ids and templates of the rows that have ended into the lists; returns the others."""
        ended, templates = self._store.templates(row[:4] for row in rows if row[4])
        if ended:
            ids.append(np.array(ended, np.int64))
            new.append(templates.astype(np.float16))
        live = [row[:4] for row in rows if not row[4]]
        self._living += [row[0] for row in live]
        return live

    def _keep(self, rows: list[tuple[int]]) -> None:
        """Let go of what was erased."""
        left = np.fromiter((i for (i,) in rows), np.int64, len(rows))
        stays = np.isin(self._ids, left)
        self._living = sorted({*self._living} & {*left.tolist()})
        if not stays.all():
            self._ids, self._exact = self._ids[stays], self._exact[stays]
            self._bulk = quantize(self._exact) if len(self._ids) > TAIL else None


def _best(
    probe: Array, rows: QuantizedRows | NDArray[np.float16], ids: NDArray[np.int64], k: int
) -> list[tuple[int, float]]:
    found, similarity = topk(probe, rows, min(k, len(rows)), threads=2)
    return list(zip(ids[found[0]].tolist(), similarity[0].tolist(), strict=True))
