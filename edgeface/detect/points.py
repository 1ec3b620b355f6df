"""Landmarks read more closely: each step looks at the network's inner maps where the points are and
moves them by a linear rule, as in the supervised descent method (Xiong and De la Torre, CVPR 2013).

The rules are fitted by `python -m export detector-points` for one network and lie beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from edgeface.errors import ModelError
from edgeface.types import Array

STRIDES = (8, 16)  # px per cell of the maps that are read, `near_8` and `near_16`
UNIT = 16.0  # px: what a rule's answer of one means


def sample(maps: Mapping[str, Array], landmarks: Array) -> Array:
    """What the maps `near_8` and `near_16` (1, c, H/s, W/s) show at (5, 2) landmarks in pixels of
    the network's input, between cells bilinear: (2 * 5 * c,) float32."""
    parts = []
    for stride in STRIDES:
        grid = maps[f"near_{stride}"][0]
        limit = np.array([grid.shape[2], grid.shape[1]], np.float32) - 1.001
        place = np.clip(landmarks / stride - 0.5, 0, np.maximum(limit, 0))
        corner = place.astype(int)
        (x, y), (u, v) = corner.T, (place - corner).T
        right, below = np.minimum(x + 1, grid.shape[2] - 1), np.minimum(y + 1, grid.shape[1] - 1)
        upper = grid[:, y, x] * (1 - u) + grid[:, y, right] * u
        lower = grid[:, below, x] * (1 - u) + grid[:, below, right] * u
        parts.append((upper * (1 - v) + lower * v).T.ravel())
    return np.concatenate(parts).astype(np.float32)


class Cascade:
    """Rules applied one after the other; `weights` (steps, 2 * 5 * c, 10), `biases` (steps, 10)."""

    def __init__(self, weights: Array, biases: Array) -> None:
        self.weights, self.biases = weights, biases

    @classmethod
    def beside(cls, model: Path, digest: str) -> Self | None:
        """The rules that lie beside a model file of this sha256; None where there are none.

        Raises:
            ModelError: they are damaged or of another network.
        """
        file = model.with_suffix(".points.npz")
        if not file.is_file():
            return None
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                weights, biases = (stored[k].astype(np.float32) for k in ("weights", "biases"))
                of = str(stored["model"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ModelError(f"{file} holds no rules for landmarks; reinstall it") from error
        if of != digest:
            raise ModelError(f"{file} was fitted for another network than {model}; reinstall both")
        if weights.ndim != 3 or weights.shape[2] != 10 or biases.shape != weights.shape[::2]:
            raise ModelError(f"{file} holds rules of shape {weights.shape}; reinstall it")
        return cls(weights, biases)

    def __call__(self, maps: Mapping[str, Array], landmarks: Array) -> Array:
        """Landmarks (5, 2) in pixels of the network's input, moved by every rule."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            step = sample(maps, landmarks) @ weight + bias
            landmarks = landmarks + UNIT * step.reshape(5, 2)
        return landmarks.astype(np.float32)
