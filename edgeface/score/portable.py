"""The portable kernels: numba or numpy find candidates in float32, float64 decides.

The rounding error of the float32 pass is bounded (N. Higham, Accuracy and Stability of Numerical
Algorithms, 2002, eq. 3.5), and where the candidates do not prove the answer every row that could
still be among the k best is rescored.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError
from edgeface.score.records import ROW_BLOCK, UNIT_NORM, Request, Rows, SubmodelScores, Votes

_QUERY_BLOCK = 256
_SPARE = 8


def mixmaxsim(probes: NDArray[np.float32], weights: Rows, centres: Rows, request: Request) -> Votes:
    ids = np.arange(len(weights)) if request.ids is None else request.ids
    wide = probes.astype(np.float64)

    def winner(rows: Rows) -> NDArray[np.int64]:
        return topk(probes, rows, 1, request.threads, ids)[0][:, 0]

    def cosine(rows: Rows, which: NDArray[np.int64]) -> NDArray[np.float32]:
        exact: NDArray[np.float64] = (rows[which].astype(np.float64) * wide).sum(axis=1)
        return exact.astype(np.float32)

    A, B = winner(weights), winner(centres)
    found = None
    if request.offsets is not None:
        found = _submodels_numpy(probes, weights, ids, request.offsets, request.scale)
    return Votes(
        ids[A], ids[B], cosine(weights, A), cosine(weights, B), cosine(centres, B),
        cosine(centres, A), found,
    )  # fmt: skip


def _submodels_numpy(
    probes: NDArray[np.float32],
    weights: Rows,
    ids: NDArray[np.int64],
    offsets: NDArray[np.int64],
    scale: float,
) -> SubmodelScores:
    shape = (len(probes), len(offsets) - 1)
    maximum = np.full(shape, -np.inf, np.float32)
    argmax, total = np.full(shape, -1, np.int64), np.zeros(shape, np.float64)
    columns = np.arange(len(probes))
    for k, (begin, end) in enumerate(itertools.pairwise(offsets)):
        for s in range(begin, end, ROW_BLOCK):
            stop = min(s + ROW_BLOCK, end)
            cosines = probes @ weights[s:stop].astype(np.float32, copy=False).T
            best = cosines.argmax(axis=1)
            value = cosines[columns, best]
            argmax[:, k] = np.where(value > maximum[:, k], ids[s + best], argmax[:, k])
            maximum[:, k] = np.maximum(maximum[:, k], value)
            total[:, k] += np.exp(scale * cosines.astype(np.float64)).sum(axis=1)
    with np.errstate(divide="ignore"):
        return SubmodelScores(maximum, argmax, np.log(total))


def topk(
    probes: NDArray[np.float32],
    rows: Rows,
    k: int,
    threads: int,
    ids: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """numpy, or numba with `threads` > 0: float32 candidates, resolved in float64."""
    n = len(rows)
    compiled = numba_candidates() if threads and rows.dtype == np.float32 else None
    indices = np.empty((len(probes), k), dtype=np.int64)
    similarities = np.empty((len(probes), k), dtype=np.float32)
    for start in range(0, len(probes), _QUERY_BLOCK):
        block = probes[start : start + _QUERY_BLOCK]
        m = min(k + _SPARE, n)
        if compiled is not None:
            found, values = compiled(block, rows, m, threads)
        else:
            found, values = _candidates_numpy(block, rows, m)
        for i, probe in enumerate(block):
            best = _resolve(probe, rows, found[i], values[i], k=k, ids=ids)
            indices[start + i], similarities[start + i] = best
    return indices, similarities


def _candidates_numpy(
    probes: NDArray[np.float32], rows: Rows, m: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The m best rows by float32 score, in no particular order."""
    best = np.full((len(probes), 0), -np.inf, dtype=np.float32)
    where = np.full((len(probes), 0), -1, dtype=np.int64)
    for start in range(0, len(rows), ROW_BLOCK):
        block = rows[start : start + ROW_BLOCK].astype(np.float32, copy=False)
        scores = probes @ block.T
        near = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        if scores.shape[1] > m:
            near = np.argpartition(scores, scores.shape[1] - m, axis=1)[:, -m:]
            scores = np.take_along_axis(scores, near, axis=1)
        best = np.concatenate([best, scores], axis=1)
        where = np.concatenate([where, near + start], axis=1)
        if best.shape[1] > m:
            keep = np.argpartition(best, best.shape[1] - m, axis=1)[:, -m:]
            best, where = np.take_along_axis(best, keep, 1), np.take_along_axis(where, keep, 1)
    return where, best


def _resolve(
    probe: NDArray[np.float32],
    rows: Rows,
    found: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    k: int,
    ids: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of the candidates in float64; of all rows where the candidates prove nothing."""
    if not np.isfinite(scores).all():
        raise ArgumentError("rows hold NaN; check what filled them")
    wide = probe.astype(np.float64)
    exact = rows[found].astype(np.float64) @ wide
    floor = np.partition(exact, len(exact) - k)[len(exact) - k]
    error = (len(probe) + 16) * 2.0**-24 * UNIT_NORM * float(np.linalg.norm(wide))
    if len(found) < len(rows) and float(scores.min()) + error >= floor:
        parts = [
            np.flatnonzero(rows[s : s + ROW_BLOCK].astype(np.float32) @ probe + error >= floor) + s
            for s in range(0, len(rows), ROW_BLOCK)
        ]
        found = np.concatenate(parts)
        exact = rows[found].astype(np.float64) @ wide
    order = np.lexsort((found if ids is None else ids[found], -exact))[:k]
    return found[order], exact[order].astype(np.float32)


@functools.cache
def numba_candidates() -> Any:
    """The numba version of `_candidates_numpy`, compiled once; None where numba is missing."""
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(parallel=True, fastmath=True, nogil=True, cache=True)  # type: ignore[misc, unused-ignore]
    def scan(probes: Any, rows: Any, m: int, parts: int, best: Any, where: Any) -> None:
        q, d = probes.shape
        n = rows.shape[0]
        for part in numba.prange(parts):
            for i in range(n * part // parts, n * (part + 1) // parts):
                row = rows[i]
                for j in range(q):
                    probe = probes[j]
                    score = np.float32(0)
                    for c in range(d):
                        score += row[c] * probe[c]
                    if score > best[part, j, 0]:
                        # A min-heap of m: replace the least, sink.
                        heap, names, at = best[part, j], where[part, j], 0
                        while True:
                            least = 2 * at + 1
                            if least >= m:
                                break
                            if least + 1 < m and heap[least + 1] < heap[least]:
                                least += 1
                            if heap[least] >= score:
                                break
                            heap[at], names[at] = heap[least], names[least]
                            at = least
                        heap[at], names[at] = score, i

    def candidates(
        probes: NDArray[np.float32], rows: NDArray[np.float32], m: int, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        before = numba.get_num_threads()
        parts = min(threads, before, max(1, len(rows) // 1024))
        numba.set_num_threads(parts)
        best = np.full((parts, len(probes), m), -np.inf, dtype=np.float32)
        where = np.full((parts, len(probes), m), -1, dtype=np.int64)
        scan(probes, rows, m, parts, best, where)
        numba.set_num_threads(before)
        best, where = np.concatenate(best, axis=1), np.concatenate(where, axis=1)
        if parts > 1:
            keep = np.argpartition(best, best.shape[1] - m, axis=1)[:, -m:]
            best, where = np.take_along_axis(best, keep, 1), np.take_along_axis(where, keep, 1)
        return where, best

    return candidates
