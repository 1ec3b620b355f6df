"""Indexes that look at every sample: exactly, or through a sketch with an exact second look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeface.gallery.index.numbers import Ids
from edgeface.score import QuantizedRows, quantize, topk
from edgeface.types import Array

Fetch = Callable[[Ids], tuple[Ids, Array]]

THREADS = 2
BITS = 512  # of a sketch: 64 bytes per sample
LOOK_AGAIN = 128  # candidates of a sketch whose float32 rows decide
_BLOCK = 1 << 15  # sketches compared at once, to stay in the cache


class Searcher(Protocol):
    """Samples by id; `search` gives ids and exact cosines (q, k), best first, k <= len."""

    def __len__(self) -> int: ...
    def __contains__(self, sample: int) -> bool: ...
    def add(self, ids: Ids, rows: Array) -> None: ...
    def remove(self, ids: Ids) -> None: ...
    def search(self, probes: Array, k: int) -> tuple[Ids, Array]: ...


class _Flat:
    """Values of samples in arrays without gaps: the last takes the place of a deleted one."""

    def __init__(self, *columns: tuple[type, tuple[int, ...]]) -> None:
        self._columns: list[NDArray[Any]] = [np.empty((0, *shape), of) for of, shape in columns]
        self._ids = np.empty(0, np.int64)
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, sample: int) -> bool:
        return sample in self._place

    def remove(self, ids: Ids) -> None:
        for i in ids.tolist():
            here, last = self._place.pop(i), len(self._place)
            if here != last:
                self._ids[here] = self._ids[last]
                self._place[int(self._ids[here])] = here
            for column in self._columns:
                column[here] = column[last]
                column[last] = 0  # a forgotten face does not linger in memory

    def _append(self, ids: Ids, *values: NDArray[Any]) -> None:
        n, total = len(self), len(self) + len(ids)
        if total > len(self._ids):
            room = max(64, total, 3 * len(self._ids) // 2)
            self._columns = [_longer(column, n, room) for column in self._columns]
            self._ids = _longer(self._ids, n, room)
        for column, new in zip(self._columns, values, strict=True):
            column[n:total] = new
        self._ids[n:total] = ids
        self._place.update(zip(ids.tolist(), range(n, total), strict=True))


def _longer(values: NDArray[Any], used: int, room: int) -> NDArray[Any]:
    longer = np.zeros((room, *values.shape[1:]), values.dtype)
    longer[:used] = values[:used]
    return longer


class Exact(_Flat):
    """Every probe is compared with every row, of which a quarter is read: their int8 codes say
    which of them can be the nearest."""

    def __init__(self, size: int) -> None:
        codes = quantize(np.empty((0, size), np.float32)).codes
        super().__init__(
            (np.float32, (size,)), (np.uint8, codes.shape[1:]), (np.float32, ()), (np.float32, ())
        )
        self._norm = self._error = 0.0  # the greatest so far

    def add(self, ids: Ids, rows: Array) -> None:
        made = quantize(rows)
        self._append(ids, rows, made.codes, made.scale, made.error)
        self._norm = max(self._norm, made.norm)
        self._error = max(self._error, made.error_max)

    def search(self, probes: Array, k: int) -> tuple[Ids, Array]:
        rows, codes, scale, error = (column[: len(self)] for column in self._columns)
        held = QuantizedRows(codes, scale, error, rows, self._norm, self._error)
        places, sims = topk(probes, held, k, threads=THREADS)
        return self._ids[places], sims

    def contents(self) -> tuple[Ids, Array]:
        """Ids (n,) and rows (n, d)."""
        return self._ids[: len(self)].copy(), self._columns[0][: len(self)].copy()


class Sketch(_Flat):
    """The signs of random projections propose (Charikar 2002), the stored rows decide.

    Needs no training and 64 bytes per sample, so it serves while a graph is being built. `fetch`
    gives the rows of some samples, possibly fewer and in another order.
    """

    def __init__(self, size: int, fetch: Fetch) -> None:
        super().__init__((np.uint64, (BITS // 64,)))
        self._fetch = fetch
        rng = np.random.default_rng(0)
        # Orthogonal directions within each block of `size` spread better than independent ones.
        blocks = [
            np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(-(-BITS // size))
        ]
        self._directions = np.concatenate(blocks, axis=1)[:, :BITS].astype(np.float32)

    def add(self, ids: Ids, rows: Array) -> None:
        self._append(ids, self._codes(rows))

    def search(self, probes: Array, k: int) -> tuple[Ids, Array]:
        ids = np.empty((len(probes), k), np.int64)
        sims = np.full((len(probes), k), -1.0, np.float32)
        take = min(len(self), max(LOOK_AGAIN, 4 * k))
        for i, (probe, code) in enumerate(zip(probes, self._codes(probes), strict=True)):
            near = self._ids[np.argpartition(self._distances(code), take - 1)[:take]]
            found, rows = self._fetch(near)
            # Rows deleted since by another process keep a place at the end, as no match.
            order = np.argsort(-(exact := rows @ probe), kind="stable")[:k]
            missing = near[~np.isin(near, found)][: k - len(order)]
            ids[i] = np.concatenate([found[order], missing])
            sims[i, : len(order)] = exact[order]
        return ids, sims

    def _distances(self, code: NDArray[np.uint64]) -> NDArray[np.uint16]:
        distances = np.empty(len(self), np.uint16)
        for start in range(0, len(self), _BLOCK):
            here = slice(start, min(start + _BLOCK, len(self)))
            differing = np.bitwise_count(self._columns[0][here] ^ code)
            distances[here] = differing.sum(axis=1, dtype=np.uint16)
        return distances

    def _codes(self, rows: Array) -> NDArray[np.uint64]:
        return np.packbits(rows @ self._directions > 0, axis=1).view(np.uint64)
