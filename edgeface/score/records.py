"""What scoring takes and gives: rows as they are stored, winners, votes, statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError

Rows = NDArray[np.float32] | NDArray[np.float16]
UNIT_NORM = 1.01  # greatest norm of a "unit" row, float16 rounding included
ROW_BLOCK = 8192  # rows worked on at a time where they need a copy


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
class Request:
    """What `mixmaxsim` was asked beyond its arrays."""

    ids: NDArray[np.int64] | None
    offsets: NDArray[np.int64] | None
    scale: float
    threads: int


def quantize(rows: Rows) -> QuantizedRows:
    """Unit rows (n, d) float32 or float16 as int8, rounded to the nearest of 255 steps per row."""
    n, d = rows.shape
    codes = np.full((n, -(-d // 64) * 64), 128, dtype=np.uint8)
    scale, error = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    norm = 0.0
    for s in range(0, n, ROW_BLOCK):
        block = rows[s : s + ROW_BLOCK].astype(np.float32)
        if not np.isfinite(block).all():
            raise ArgumentError("rows hold NaN or infinity and cannot be quantized")
        step = np.maximum(np.abs(block).max(axis=1), np.float32(1e-30)) / np.float32(127)
        code = np.clip(np.rint(block / step[:, None]), -127, 127)
        rest = block.astype(np.float64) - code.astype(np.float64) * step[:, None]
        codes[s : s + len(block), :d] = (code + 128).astype(np.uint8)
        scale[s : s + len(block)] = step
        # The factor covers the rounding of the bound itself to float32.
        error[s : s + len(block)] = np.linalg.norm(rest, axis=1) * (1 + 1e-6)
        norm = max(norm, float(np.linalg.norm(block.astype(np.float64), axis=1).max()))
    return QuantizedRows(
        codes, scale, error, rows, norm * (1 + 1e-6), float(error.max(initial=0.0))
    )
