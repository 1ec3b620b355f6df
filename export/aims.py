"""What a student is aimed at: one joint space of several teachers, as wide as its own embedding.

The teachers' unit embeddings of the undegraded pictures (`export targets`) side by side have the
mean of the teachers' cosines, weighted if so wished, as their cosine. Their leading principal
directions, uncentred, are the space of the student's width that keeps most of it (Eckart and Young
1936), so every picture has a fixed aim of that width and pictures can be compared with any others'
aims at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.teachers import target_file

Floats = NDArray[np.float32]


def units(rows: Floats) -> Floats:
    """Rows of length one; rows of zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def joint(pack: Path, teachers: list[Path], weights: Sequence[float] = ()) -> Floats:
    """(n, sum of widths) float32 unit rows: the teachers' cached targets side by side, so that the
    cosine of two rows is the mean of the teachers' cosines by `weights` (all alike where none)."""
    share = np.asarray(weights or [1.0] * len(teachers))
    parts = [
        units(np.load(target_file(pack, teacher)).astype(np.float32)) * np.float32(np.sqrt(part))
        for teacher, part in zip(teachers, share / share.sum(), strict=True)
    ]
    return np.concatenate(parts, axis=1)


def reduce(rows: Floats, fit: NDArray[np.int64], width: int) -> Floats:
    """(n, width) unit rows: `rows` on the leading directions of `rows[fit]`."""
    moment = rows[fit].T.astype(np.float64) @ rows[fit]
    _, vectors = np.linalg.eigh(moment)
    return units(rows @ vectors[:, ::-1][:, :width].astype(np.float32))


def prototypes(aims: Floats, identity: NDArray[np.int64], rows: NDArray[np.int64]) -> Floats:
    """(identities, width) unit mean aim of every identity over `rows`; zeros where it has none."""
    known = rows[identity[rows] >= 0]
    total = np.zeros((int(identity.max(initial=-1)) + 1, aims.shape[1]), np.float32)
    np.add.at(total, identity[known], aims[known])
    return units(total)
