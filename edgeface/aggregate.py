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


@dataclass(frozen=True, slots=True)
class Policy:
    """When a track's face is worth an embedding, which is where the time goes.

    `fresh`: faces gathered frame by frame at first, then one every `refresh` seconds. Faces below
    `min_quality` say too little. A face less similar than `foreign` to what was gathered,
    `foreign_run` times in a row, is somebody else's: the track has changed hands.
    """

    fresh: int = 8
    refresh: float = 0.4
    min_quality: float = 0.05
    foreign: float = 0.15
    foreign_run: int = 2


class Evidence:
    """What one track has gathered about who it shows."""

    def __init__(self, aggregator: Aggregator, policy: Policy) -> None:
        self._aggregator, self._policy = aggregator, policy
        self._state = aggregator.empty()
        self._last = float("-inf")
        self._foreign_run = 0

    def due(self, time: float) -> bool:
        """Whether a face at `time` (s) should be looked at."""
        return (
            self.doubtful
            or self._state.count < self._policy.fresh
            or time - self._last >= self._policy.refresh
        )

    def accepts(self, quality: float) -> bool:
        """Whether a face of this quality says enough to be embedded."""
        return quality >= self._policy.min_quality

    def add(self, embedding: Array, quality: float, time: float) -> bool:
        """Take one face; False, and nothing taken, while it looks like somebody else's."""
        self._last = time
        template = self.template()
        if template.weight > 0 and float(template.embedding @ embedding) < self._policy.foreign:
            self._foreign_run += 1
            return False
        self._foreign_run = 0
        row, weight = embedding[None], np.array([quality], np.float32)
        self._state = self._aggregator.add(self._state, row, weight)
        return True

    @property
    def doubtful(self) -> bool:
        """Whether the last face looked at was foreign, so that a name may not be this face's."""
        return self._foreign_run > 0

    @property
    def changed_hands(self) -> bool:
        """Whether so many faces in a row were foreign that the track now shows another person."""
        return self._foreign_run >= self._policy.foreign_run

    def template(self) -> Template:
        """The template so far; weight 0 while there is none."""
        return self._aggregator.read(self._state)
