"""Faces that a seed brings back, and who is in a gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeface.gallery import Gallery

MEMORY = Path("/dev/shm")  # a test need not wait for a disk
SIZE = 32
MODEL = "sha256:" + "a" * 8


def faces(seed: int, n: int = 1, size: int = SIZE) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(gallery: Gallery) -> list[str]:
    return [p.name for p in gallery.people()]
