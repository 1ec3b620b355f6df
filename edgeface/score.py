"""Exact scoring of unit probes against unit rows: one signature, three kernels.

`topk` finds the k most similar rows, `mixmaxsim` both winners and all four scores of the MixMaxSim
decision, in one pass over memory. The native kernel (`native/`) is used where it was built, numba
where it is installed, numpy everywhere else; the environment variable EDGEFACE_KERNEL = native |
numba | numpy, or the name of one native kernel such as avx2, forces one, and forcing what cannot
run raises KernelError.

All kernels give the same answer, the ranking of the float64 dot products of the float rows, equal
values ordered by the smaller id: a fast pass finds candidates, the rounding error of that pass is
bounded (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.5; Cauchy-Schwarz
for int8), and every row that could still be among the k best is rescored in float64.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import KernelError

try:
    from edgeface import _native
except ImportError:  # built without a compiler; kernel() says so
    _native = None  # type: ignore[assignment, unused-ignore]

Rows = NDArray[np.float32] | NDArray[np.float16]
_UNIT_NORM = 1.01  # greatest norm of a "unit" row, float16 rounding included
_ROW_BLOCK = 8192
_QUERY_BLOCK = 256
_SPARE = 8
_STORAGE = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}
_INT8 = 2
_log = logging.getLogger("edgeface")


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedRows:
    """Unit rows as int8 with all that is needed to prove an answer exact.

    `codes` (n, d rounded up to 64) uint8, value (code - 128) * scale; `scale` (n,) float32;
    `error` (n,) float32 upper bounds of |row - dequantised row|; `exact` (n, d) float32 or float16
    rows that answers are computed from, which may be memory-mapped: a handful per probe is read.
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    error: NDArray[np.float32]
    exact: Rows
    norm: float
    error_max: float

    def __len__(self) -> int:
        return len(self.exact)


@dataclass(frozen=True, slots=True, eq=False)
class Cost:
    """What certainty cost: rows rescored in float64, and candidate lists that overflowed."""

    rescored: int
    overflows: int


@dataclass(frozen=True, slots=True, eq=False)
class SubmodelScores:
    """Per probe and submodel, (q, K): `maximum` cosine float32, its class `argmax` int64 (-1 in an
    empty submodel) and `log_sum_exp` of scale * cosine, float64. The softmax probability of a
    submodel's best class is exp(scale * maximum - log_sum_exp)."""

    maximum: NDArray[np.float32]
    argmax: NDArray[np.int64]
    log_sum_exp: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Both winners of MixMaxSim and their four scores, (q,) each, cosines float32.

    `maxmax` is A = argmax w.x and `sim` is B = argmax c.x; `a` = w_A.x, `a_prime` = w_B.x,
    `b` = c_B.x, `b_prime` = c_A.x. `submodels` is there when offsets were given.
    """

    maxmax: NDArray[np.int64]
    sim: NDArray[np.int64]
    a: NDArray[np.float32]
    a_prime: NDArray[np.float32]
    b: NDArray[np.float32]
    b_prime: NDArray[np.float32]
    submodels: SubmodelScores | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """What `mixmaxsim` was asked beyond its arrays."""

    ids: NDArray[np.int64] | None
    offsets: NDArray[np.int64] | None
    scale: float
    threads: int


def kernel() -> str:
    """The kernel that runs: `native:avx2` and the like, `numba` or `numpy`."""
    return _choose(os.environ.get("EDGEFACE_KERNEL", ""))


@functools.cache
def _choose(forced: str) -> str:
    built = _native.kernels() if _native is not None else []
    if forced in {"", "native"} and built:
        return f"native:{built[0]}"
    if forced in built:
        return f"native:{forced}"
    if forced == "numpy":
        return "numpy"
    if forced in {"", "numba"} and _numba_candidates() is not None:
        choice = "numba"
    elif not forced:
        choice = "numpy"
    else:
        raise KernelError(
            f"EDGEFACE_KERNEL={forced} cannot run here; this machine runs "
            f"{', '.join([*built, 'numba', 'numpy'])}: unset it, or build the extension "
            "(pip install . with a C compiler) or install numba"
        )
    if not forced:
        _log.warning("edgeface was built without its C kernel: scoring runs on %s", choice)
    return choice


def quantize(rows: Rows) -> QuantizedRows:
    """Unit rows (n, d) float32 or float16 as int8, rounded to the nearest of 255 steps per row."""
    n, d = rows.shape
    codes = np.full((n, -(-d // 64) * 64), 128, dtype=np.uint8)
    scale, error = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    norm = 0.0
    for s in range(0, n, _ROW_BLOCK):
        block = rows[s : s + _ROW_BLOCK].astype(np.float32)
        if not np.isfinite(block).all():
            raise ValueError("rows hold NaN or infinity and cannot be quantized")
        step = np.maximum(np.abs(block).max(axis=1), np.float32(1e-30)) / np.float32(127)
        code = np.clip(np.rint(block / step[:, None]), -127, 127)
        rest = block.astype(np.float64) - code.astype(np.float64) * step[:, None]
        codes[s : s + len(block), :d] = (code + 128).astype(np.uint8)
        scale[s : s + len(block)] = step
        # The factor covers the rounding of the bound itself to float32.
        error[s : s + len(block)] = np.linalg.norm(rest, axis=1) * (1 + 1e-6)
        norm = max(norm, float(np.linalg.norm(block.astype(np.float64), axis=1).max()))
    return QuantizedRows(codes, scale, error, rows, norm * (1 + 1e-6), float(error.max()))


def topk(
    probes: NDArray[np.float32],
    rows: Rows | QuantizedRows,
    k: int,
    *,
    threads: int = 2,
    ids: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` rows most similar to each probe, exactly.

    `probes` (q, d) are float32, `rows` (n, d) float32 or float16 unit rows, C-contiguous so that
    nothing is copied, or `quantize` of them: faster, the same answer. Returns row indices (q, m)
    int64 and similarities (q, m) float32 in descending order, m = min(k, n); equal similarities
    come in the order of their rows. With `ids` (n,) int64 the answer names those instead of rows,
    and equal similarities come in their order. Memory beyond the result does not grow with q times
    n. Raises ValueError for wrong shapes, k < 1, or NaN.
    """
    return topk_with_cost(probes, rows, k, threads=threads, ids=ids)[:2]


def topk_with_cost(
    probes: NDArray[np.float32],
    rows: Rows | QuantizedRows,
    k: int,
    *,
    threads: int = 2,
    ids: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], Cost]:
    """`topk`, and what proving it cost (native kernels only, else zeros)."""
    probes, rows = _probes(probes), _rows(rows)
    _check(probes, rows, threads)
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    k = min(k, len(rows))
    ids = _checked_ids(ids, len(rows))
    name = kernel()
    cost = Cost(0, 0)
    if not len(probes) or not k:
        return np.empty((len(probes), k), np.int64), np.empty((len(probes), k), np.float32), cost
    if name.startswith("native:"):
        found = np.empty((len(probes), k), dtype=np.int64)
        similarities = np.empty((len(probes), k), dtype=np.float32)
        described = _native_rows(rows, ids)
        spent = _native.topk(
            name[7:], described, probes, len(probes), k, threads, found, similarities
        )
        if not np.isfinite(similarities).all():
            raise ValueError("rows hold NaN; check what filled them")
        return found, similarities, Cost(*spent)
    compiled = threads if name == "numba" else 0
    found, similarities = _topk_portable(probes, _exact(rows), k, compiled, ids)
    return found if ids is None else ids[found], similarities, cost


def mixmaxsim(
    probes: NDArray[np.float32],
    weights: Rows | QuantizedRows,
    centres: Rows | QuantizedRows,
    *,
    ids: NDArray[np.int64] | None = None,
    offsets: NDArray[np.int64] | None = None,
    scale: float = 64.0,
    threads: int = 2,
) -> Votes:
    """MaxMax class and Sim class of each probe with all four scores, in one pass over memory.

    `weights` and `centres` hold the same n classes in the same order as unit rows; `ids` (n,) int64
    are the classes' names for the answer and for ties, by default their row. With `offsets`
    (K + 1,), submodel s being rows offsets[s] : offsets[s + 1] with ascending ids, the votes
    carry each submodel's maximum, argmax and log-sum-exp of `scale` (at most 80) times cosine;
    those read float rows, since int8 cannot bound an exponential. Raises ValueError as `topk` does.
    """
    probes, weights, centres = _probes(probes), _rows(weights), _rows(centres)
    _check(probes, weights, threads)
    _check(probes, centres, threads)
    if len(weights) != len(centres) or not len(weights):
        raise ValueError(f"{len(weights)} weights and {len(centres)} centres must match, not empty")
    ids = _checked_ids(ids, len(weights))
    if offsets is not None:
        offsets = _checked_offsets(offsets, len(weights), scale)
        weights = weights.exact if isinstance(weights, QuantizedRows) else weights
    name = kernel()
    if name.startswith("native:"):
        request = _Request(ids, offsets, scale, threads)
        return _mixmaxsim_native(name[7:], probes, weights, centres, request)
    request = _Request(ids, offsets, scale, threads if name == "numba" else 0)
    return _mixmaxsim_portable(probes, _exact(weights), _exact(centres), request)


def _exact(rows: Rows | QuantizedRows) -> Rows:
    return rows.exact if isinstance(rows, QuantizedRows) else rows


def _probes(probes: NDArray[np.float32]) -> NDArray[np.float32]:
    probes = np.ascontiguousarray(probes, dtype=np.float32)
    if not np.isfinite(probes).all():
        raise ValueError("probes hold NaN or infinity; check the embedder's input")
    return probes


def _rows(rows: Rows | QuantizedRows) -> Rows | QuantizedRows:
    if isinstance(rows, QuantizedRows):
        return rows
    return np.ascontiguousarray(rows, dtype=None if rows.dtype in _STORAGE else np.float32)


def _check(probes: NDArray[np.float32], rows: Rows | QuantizedRows, threads: int) -> None:
    shape = _exact(rows).shape
    if probes.ndim != 2 or len(shape) != 2 or probes.shape[1] != shape[1] or not shape[1]:
        raise ValueError(
            f"probes {probes.shape} and rows {shape} must be (q, d) and (n, d) of the same d"
        )
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")


def _checked_ids(ids: NDArray[np.int64] | None, n: int) -> NDArray[np.int64] | None:
    if ids is None:
        return None
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    if ids.shape != (n,):
        raise ValueError(f"ids {ids.shape} must name the {n} rows")
    return ids


def _checked_offsets(offsets: NDArray[np.int64], n: int, scale: float) -> NDArray[np.int64]:
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets must ascend from 0 to the {n} classes")
    if not 0 < scale <= 80:
        raise ValueError(f"scale is {scale}, expected more than 0 and at most 80")
    return offsets


def _native_rows(rows: Rows | QuantizedRows, ids: NDArray[np.int64] | None = None) -> Any:
    n, d = _exact(rows).shape
    if isinstance(rows, QuantizedRows):
        storage = _STORAGE[rows.exact.dtype]
        return (rows.codes, rows.exact, rows.scale, rows.error, ids, n, d, _INT8, storage,
                rows.norm, rows.error_max)  # fmt: skip
    storage = _STORAGE[rows.dtype]
    return rows, rows, None, None, ids, n, d, storage, storage, _UNIT_NORM, 0.0


def _mixmaxsim_native(
    name: str,
    probes: NDArray[np.float32],
    weights: Rows | QuantizedRows,
    centres: Rows | QuantizedRows,
    request: _Request,
) -> Votes:
    q, ids, offsets = len(probes), request.ids, request.offsets
    classes, scores = np.empty((q, 2), np.int64), np.empty((q, 4), np.float32)
    found, extra = None, None
    if offsets is not None:
        shape = (q, len(offsets) - 1)
        found = SubmodelScores(
            np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape, np.float64)
        )
        extra = (offsets, shape[1], request.scale, found.maximum, found.argmax, found.log_sum_exp)
    if q:
        _native.mixmaxsim(
            name, _native_rows(weights, ids), _native_rows(centres, ids), probes, q,
            request.threads, classes, scores, extra,
        )  # fmt: skip
        if not np.isfinite(scores).all():
            raise ValueError("weights or centres hold NaN; check what filled them")
    a, a_prime, b, b_prime = np.ascontiguousarray(scores.T)
    return Votes(classes[:, 0], classes[:, 1], a, a_prime, b, b_prime, found)


def _mixmaxsim_portable(
    probes: NDArray[np.float32], weights: Rows, centres: Rows, request: _Request
) -> Votes:
    ids = np.arange(len(weights)) if request.ids is None else request.ids
    wide = probes.astype(np.float64)

    def winner(rows: Rows) -> NDArray[np.int64]:
        return _topk_portable(probes, rows, 1, request.threads, ids)[0][:, 0]

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
        for s in range(begin, end, _ROW_BLOCK):
            stop = min(s + _ROW_BLOCK, end)
            cosines = probes @ weights[s:stop].astype(np.float32, copy=False).T
            best = cosines.argmax(axis=1)
            value = cosines[columns, best]
            argmax[:, k] = np.where(value > maximum[:, k], ids[s + best], argmax[:, k])
            maximum[:, k] = np.maximum(maximum[:, k], value)
            total[:, k] += np.exp(scale * cosines.astype(np.float64)).sum(axis=1)
    with np.errstate(divide="ignore"):
        return SubmodelScores(maximum, argmax, np.log(total))


def _topk_portable(
    probes: NDArray[np.float32],
    rows: Rows,
    k: int,
    threads: int,
    ids: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """numpy, or numba with `threads` > 0: float32 candidates, resolved in float64."""
    n = len(rows)
    compiled = _numba_candidates() if threads and rows.dtype == np.float32 else None
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
    for start in range(0, len(rows), _ROW_BLOCK):
        block = rows[start : start + _ROW_BLOCK].astype(np.float32, copy=False)
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
        raise ValueError("rows hold NaN; check what filled them")
    wide = probe.astype(np.float64)
    exact = rows[found].astype(np.float64) @ wide
    floor = np.partition(exact, len(exact) - k)[len(exact) - k]
    error = (len(probe) + 16) * 2.0**-24 * _UNIT_NORM * float(np.linalg.norm(wide))
    if len(found) < len(rows) and float(scores.min()) + error >= floor:
        parts = [
            np.flatnonzero(rows[s : s + _ROW_BLOCK].astype(np.float32) @ probe + error >= floor) + s
            for s in range(0, len(rows), _ROW_BLOCK)
        ]
        found = np.concatenate(parts)
        exact = rows[found].astype(np.float64) @ wide
    order = np.lexsort((found if ids is None else ids[found], -exact))[:k]
    return found[order], exact[order].astype(np.float32)


@functools.cache
def _numba_candidates() -> Any:
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
