"""Exact search for the most similar rows: one signature, three kernels.

`topk` scores unit probes against unit rows and keeps the k best. The native kernel (`native/`) is
used where it was built, numba where it is installed, numpy everywhere else; the environment
variable EDGEFACE_KERNEL = native | numba | numpy forces one, and forcing what cannot run raises
KernelError. All of them return the same answer: the ranking of the float64 dot products of the
float32 inputs, equal values ordered by the smaller row. A float32 pass finds the candidates; the
rounding error of that pass is bounded, so every row that could still belong to the k best is
rescored in float64 (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROW_BLOCK = 8192
_QUERY_BLOCK = 256
_SPARE = 8


def topk(
    probes: NDArray[np.float32], rows: NDArray[np.float32], k: int, *, threads: int = 2
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` rows most similar to each probe, exactly.

    `probes` (q, d) and `rows` (n, d) are float32 with unit rows. Returns row indices (q, m) int64
    and similarities (q, m) float32 in descending order, m = min(k, n); equal similarities come in
    the order of their rows. Memory beyond the result does not grow with q times n. Raises
    ValueError for wrong shapes, k < 1 or non-finite probes.
    """
    probes, rows = _checked(probes, rows)
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")
    return _topk_numpy(probes, rows, min(k, len(rows)))


def _checked(
    probes: NDArray[np.float32], rows: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    probes = np.ascontiguousarray(probes, dtype=np.float32)
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if probes.ndim != 2 or rows.ndim != 2 or probes.shape[1] != rows.shape[1]:
        raise ValueError(
            f"probes {probes.shape} and rows {rows.shape} must be (q, d) and (n, d) of the same d"
        )
    if not np.isfinite(probes).all():
        raise ValueError("probes hold NaN or infinity; check the embedder's input")
    return probes, rows


def _topk_numpy(
    probes: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    q, n = len(probes), len(rows)
    indices = np.empty((q, k), dtype=np.int64)
    similarities = np.empty((q, k), dtype=np.float32)
    for start in range(0, q, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, q)
        block = probes[start:stop]
        found, values = _candidates_numpy(block, rows, min(k + _SPARE, n))
        for i, probe in enumerate(block):
            best = _resolve(probe, rows, found[i], values[i], k)
            indices[start + i], similarities[start + i] = best
    return indices, similarities


def _candidates_numpy(
    probes: NDArray[np.float32], rows: NDArray[np.float32], m: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The m best rows by float32 score, in no particular order."""
    best = np.full((len(probes), m), -np.inf, dtype=np.float32)
    where = np.full((len(probes), m), -1, dtype=np.int64)
    for start in range(0, len(rows), _ROW_BLOCK):
        scores = probes @ rows[start : start + _ROW_BLOCK].T
        if scores.shape[1] > m:
            near = np.argpartition(scores, scores.shape[1] - m, axis=1)[:, -m:]
            scores = np.take_along_axis(scores, near, axis=1)
        else:
            near = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        best = np.concatenate([best, scores], axis=1)
        where = np.concatenate([where, near + start], axis=1)
        keep = np.argpartition(best, best.shape[1] - m, axis=1)[:, -m:]
        best, where = np.take_along_axis(best, keep, 1), np.take_along_axis(where, keep, 1)
    return where, best


def _resolve(
    probe: NDArray[np.float32],
    rows: NDArray[np.float32],
    found: NDArray[np.int64],
    scores: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of the candidates in float64; all rows where the candidates prove nothing."""
    wide = probe.astype(np.float64)
    exact = rows[found].astype(np.float64) @ wide
    floor = np.partition(exact, len(exact) - k)[len(exact) - k]
    error = (len(probe) + 8) * 2.0**-24 * 1.01 * float(np.linalg.norm(wide))
    if len(found) < len(rows) and float(scores.min()) + error >= floor:
        parts = [
            np.flatnonzero(rows[s : s + _ROW_BLOCK] @ probe + error >= floor) + s
            for s in range(0, len(rows), _ROW_BLOCK)
        ]
        found = np.concatenate(parts)
        exact = rows[found].astype(np.float64) @ wide
    order = np.lexsort((found, -exact))[:k]
    return found[order], exact[order].astype(np.float32)
