"""What a student is aimed at: one joint space of several teachers, as wide as its own embedding.

The teachers' unit embeddings of the undegraded pictures (`export targets`) side by side have the
mean of the teachers' cosines as their cosine. Their leading principal directions, uncentred, are
the space of the student's width that keeps most of it (Eckart and Young 1936), so every picture has
a fixed aim of that width and pictures can be compared with any others' aims at no cost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.teachers import target_file

Floats = NDArray[np.float32]


def units(rows: Floats) -> Floats:
    """Rows of length one; rows of zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def joint(pack: Path, teachers: list[Path]) -> Floats:
    """(n, sum of widths) float32 unit rows: the teachers' cached targets side by side."""
    parts = [units(np.load(target_file(pack, t)).astype(np.float32)) for t in teachers]
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))


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
