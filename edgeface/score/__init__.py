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
import logging
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError, KernelError
from edgeface.score import portable
from edgeface.score.records import (
    UNIT_NORM,
    Cost,
    QuantizedRows,
    Request,
    Rows,
    SubmodelScores,
    Votes,
    quantize,
)

try:
    from edgeface import _native
except ImportError:  # built without a compiler; kernel() says so
    _native = None  # type: ignore[assignment, unused-ignore]

__all__ = ["Cost", "QuantizedRows", "Rows", "SubmodelScores", "Votes", "kernel", "kernels",
           "mixmaxsim", "quantize", "topk", "topk_with_cost"]  # fmt: skip
_STORAGE = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}
_INT8 = 2
_log = logging.getLogger("edgeface")


def kernel() -> str:
    """The kernel that runs: `native:avx2` and the like, `numba` or `numpy`."""
    return _choose(os.environ.get("EDGEFACE_KERNEL", ""))


def kernels() -> list[str]:
    """The native kernels that this machine runs, best first; none where they were not built."""
    return list(_native.kernels()) if _native is not None else []


@functools.cache
def _choose(forced: str) -> str:
    built = kernels()
    if forced in {"", "native"} and built:
        return f"native:{built[0]}"
    if forced in built:
        return f"native:{forced}"
    if forced == "numpy":
        return "numpy"
    if forced in {"", "numba"} and portable.numba_candidates() is not None:
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
    n. Raises ArgumentError for wrong shapes, k < 1, or NaN.
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
        raise ArgumentError(f"k is {k}, expected at least 1")
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
            raise ArgumentError("rows hold NaN; check what filled them")
        return found, similarities, Cost(*spent)
    compiled = threads if name == "numba" else 0
    found, similarities = portable.topk(probes, _exact(rows), k, compiled, ids)
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
    those read float rows, since int8 cannot bound an exponential. Raises ArgumentError as `topk`
    does.
    """
    probes, weights, centres = _probes(probes), _rows(weights), _rows(centres)
    _check(probes, weights, threads)
    _check(probes, centres, threads)
    if len(weights) != len(centres) or not len(weights):
        raise ArgumentError(
            f"{len(weights)} weights and {len(centres)} centres must match, not empty"
        )
    ids = _checked_ids(ids, len(weights))
    if offsets is not None:
        offsets = _checked_offsets(offsets, len(weights), scale)
        weights = weights.exact if isinstance(weights, QuantizedRows) else weights
    name = kernel()
    if name.startswith("native:"):
        request = Request(ids, offsets, scale, threads)
        return _mixmaxsim_native(name[7:], probes, weights, centres, request)
    request = Request(ids, offsets, scale, threads if name == "numba" else 0)
    return portable.mixmaxsim(probes, _exact(weights), _exact(centres), request)


def _exact(rows: Rows | QuantizedRows) -> Rows:
    return rows.exact if isinstance(rows, QuantizedRows) else rows


def _probes(probes: NDArray[np.float32]) -> NDArray[np.float32]:
    probes = np.ascontiguousarray(probes, dtype=np.float32)
    if not np.isfinite(probes).all():
        raise ArgumentError("probes hold NaN or infinity; check the embedder's input")
    return probes


def _rows(rows: Rows | QuantizedRows) -> Rows | QuantizedRows:
    if isinstance(rows, QuantizedRows):
        return rows
    return np.ascontiguousarray(rows, dtype=None if rows.dtype in _STORAGE else np.float32)


def _check(probes: NDArray[np.float32], rows: Rows | QuantizedRows, threads: int) -> None:
    shape = _exact(rows).shape
    if probes.ndim != 2 or len(shape) != 2 or probes.shape[1] != shape[1] or not shape[1]:
        raise ArgumentError(
            f"probes {probes.shape} and rows {shape} must be (q, d) and (n, d) of the same d"
        )
    if threads < 1:
        raise ArgumentError(f"threads is {threads}, expected at least 1")


def _checked_ids(ids: NDArray[np.int64] | None, n: int) -> NDArray[np.int64] | None:
    if ids is None:
        return None
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    if ids.shape != (n,):
        raise ArgumentError(f"ids {ids.shape} must name the {n} rows")
    return ids


def _checked_offsets(offsets: NDArray[np.int64], n: int, scale: float) -> NDArray[np.int64]:
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
        raise ArgumentError(f"offsets must ascend from 0 to the {n} classes")
    if not 0 < scale <= 80:
        raise ArgumentError(f"scale is {scale}, expected more than 0 and at most 80")
    return offsets


def _native_rows(rows: Rows | QuantizedRows, ids: NDArray[np.int64] | None = None) -> Any:
    n, d = _exact(rows).shape
    if isinstance(rows, QuantizedRows):
        storage = _STORAGE[rows.exact.dtype]
        return (rows.codes, rows.exact, rows.scale, rows.error, ids, n, d, _INT8, storage,
                rows.norm, rows.error_max)  # fmt: skip
    storage = _STORAGE[rows.dtype]
    return rows, rows, None, None, ids, n, d, storage, storage, UNIT_NORM, 0.0


def _mixmaxsim_native(
    name: str,
    probes: NDArray[np.float32],
    weights: Rows | QuantizedRows,
    centres: Rows | QuantizedRows,
    request: Request,
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
            raise ArgumentError("weights or centres hold NaN; check what filled them")
    a, a_prime, b, b_prime = np.ascontiguousarray(scores.T)
    return Votes(classes[:, 0], classes[:, 1], a, a_prime, b, b_prime, found)
