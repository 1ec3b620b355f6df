"""Faces of one person become one template.

The state is a set of sums, so adding is associative and commutative: any order and any chunking
give the same template, two states merge by addition, a wrong face leaves by subtraction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.types import Array, Template


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Sums over faces: `total` (d,) float64 of weighted embeddings, their `weight`, `count`."""

    total: NDArray[np.float64]
    weight: float
    count: int

    def __add__(self, other: State) -> State:
        return State(self.total + other.total, self.weight + other.weight, self.count + other.count)

    def __sub__(self, other: State) -> State:
        return State(self.total - other.total, self.weight - other.weight, self.count - other.count)


class Aggregator:
    """Quality-weighted additive fusion: template = sum(q_i v_i) / |sum(q_i v_i)|, the closed form
    every learned fusion has to beat (norm-weighted mean, AdaFace, Kim et al., CVPR 2022)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def empty(self) -> State:
        """The state of no faces, the neutral element of `+`."""
        return State(np.zeros(self.size), 0.0, 0)

    def add(self, state: State, embeddings: Array, qualities: Array) -> State:
        """The state with more faces in it.

        Args:
            state: what was gathered so far; it is not changed.
            embeddings: (n, d) unit rows; n may be 0.
            qualities: (n,) in [0, 1]; a face of quality 0 counts but has no say.
        """
        weights = np.asarray(qualities, np.float64)
        total = weights @ embeddings.astype(np.float64)
        return state + State(total, float(weights.sum()), len(weights))

    def read(self, state: State) -> Template:
        """The template of a state; zero embedding and confidence while no face had a say."""
        length = float(np.linalg.norm(state.total))
        if state.weight <= 1e-9 or length <= 1e-12:
            return Template(np.zeros(self.size, np.float32), 0.0, 0.0, state.count)
        embedding = (state.total / length).astype(np.float32)
        return Template(embedding, length / state.weight, state.weight, state.count)
