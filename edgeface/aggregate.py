"""Faces of one person become one template.

The state is a set of sums, so adding is associative and commutative: any order and any chunking
give the same template, two states merge by addition, a wrong face leaves by subtraction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeface.models import ModelCard, check_file
from edgeface.runtime import Session, open_session
from edgeface.types import Array, Template

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Sums over faces, float64: `total` (m, d) of embeddings and `mass` (m,) of weights by centre,
    `tokens` (m, w) of what a network notes about them, `moment` (d, d) of weighted outer products,
    `weight` of qualities, `count`."""

    total: Sums
    mass: Sums
    tokens: Sums
    moment: Sums
    weight: float
    count: int

    def __add__(self, other: State) -> State:
        return State(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(State)))

    def __sub__(self, other: State) -> State:
        return State(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(State)))


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What faces add to a state, a row each: `shares` (n, m) among the centres, `tokens` (n, w),
    `weights` (n,) in the second moment."""

    shares: Sums
    tokens: Sums
    weights: Sums


class Head(Protocol):
    """What tells how much each face has to say. A face is looked at alone, which is what makes the
    state additive."""

    centres: int
    width: int

    def look(self, embeddings: Array, qualities: Array) -> Looks:
        """Unit rows (n, d) and their qualities (n,) in (0, 1]."""
        ...

    def mean(self, state: State) -> Sums:
        """The first estimate (d,) of the template of a state that has mass."""
        ...


class Weighted:
    """The closed form: the mean weighted by quality, the one that every learned fusion has to beat
    (norm-weighted in AdaFace, Kim et al., CVPR 2022)."""

    centres, width = 1, 0

    def look(self, embeddings: Array, qualities: Array) -> Looks:
        """See `Head.look`."""
        weights = qualities.astype(np.float64)
        return Looks(weights[:, None], np.empty((len(weights), 0)), weights)

    def mean(self, state: State) -> Sums:
        """See `Head.mean`."""
        return np.asarray(state.total[0] / state.mass[0])


class Learned:
    """Cluster and aggregate (CAFace, Kim et al., NeurIPS 2022): a network deals each face out among
    learned centres by what it looks like, another weighs the centres, channel by channel. Trained
    by `python -m export fusion`.
    """

    def __init__(self, update: Session, readout: Session, *, centres: int, width: int) -> None:
        self._update, self._readout = update, readout
        self.centres, self.width = centres, width

    @classmethod
    def beside(cls, card: ModelCard) -> Self | None:
        """The networks that an embedder's card names, None where it names none.

        Raises:
            ModelError: one is missing, damaged or was replaced.
        """
        spec = card.fusion
        if spec is None:
            return None
        sessions = []
        for file in (spec.update, spec.readout):
            check_file(card, file)
            # Two calls of a few microseconds each: a second thread would only cost time.
            sessions.append(open_session(file.path, runtime="onnxruntime", threads=1))
        return cls(*sessions, centres=spec.centres, width=spec.width)

    def look(self, embeddings: Array, qualities: Array) -> Looks:
        """See `Head.look`."""
        found = self._update.run(
            {"embedding": embeddings.astype(np.float32), "quality": qualities.astype(np.float32)}
        )
        shares, tokens, weights = (
            found[name].astype(np.float64) for name in ("share", "token", "weight")
        )
        return Looks(shares, tokens, weights[:, 0])

    def mean(self, state: State) -> Sums:
        """See `Head.mean`."""
        inputs = {"total": state.total, "mass": state.mass, "tokens": state.tokens}
        found = self._readout.run({k: v[None].astype(np.float32) for k, v in inputs.items()})
        return np.asarray(found["template"][0], np.float64)


class Aggregator:
    """Additive fusion of faces.

    A head gives a first estimate, then one power iteration of the weighted second moment weighs
    every face by its agreement with that: v = sum(w_i f_i (f_i . m)) / |...|. The leading axis of
    the second moment is the maximum-likelihood axis of directional data (Watson distribution,
    Mardia and Jupp 2000), and leaves out who does not belong: faces of another person count the
    less the less they resemble the rest.
    """

    def __init__(self, size: int, head: Head | None = None) -> None:
        self.size = size
        self._head = head or Weighted()

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """For the embeddings of a model: learned where its card names networks, else closed."""
        return cls(card.size, Learned.beside(card))

    def empty(self) -> State:
        """The state of no faces, the neutral element of `+`."""
        m, d = self._head.centres, self.size
        return State(
            np.zeros((m, d)), np.zeros(m), np.zeros((m, self._head.width)), np.zeros((d, d)), 0.0, 0
        )

    def add(self, state: State, embeddings: Array, qualities: Array) -> State:
        """The state with more faces in it.

        Args:
            state: what was gathered so far; it is not changed.
            embeddings: (n, d) unit rows; n may be 0.
            qualities: (n,) in [0, 1]; a face of quality 0 counts but has no say.
        """
        quality = np.asarray(qualities, np.float32)
        heard = quality > 0
        if not heard.any():
            return replace(state, count=state.count + len(quality))
        rows = embeddings[heard].astype(np.float64)
        looks = self._head.look(embeddings[heard], quality[heard])
        return state + State(
            looks.shares.T @ rows,
            looks.shares.sum(axis=0),
            looks.shares.T @ looks.tokens,
            (rows * looks.weights[:, None]).T @ rows,
            float(quality[heard].sum(dtype=np.float64)),
            len(quality),
        )

    def read(self, state: State) -> Template:
        """The template of a state; zero embedding and confidence while no face had a say."""
        mass = float(state.mass.sum())
        length = float(np.linalg.norm(state.total.sum(axis=0)))
        if mass <= 1e-9 or length <= 1e-12:
            return Template(np.zeros(self.size, np.float32), 0.0, 0.0, state.count)
        agreed = state.moment @ self._head.mean(state)
        embedding = (agreed / np.linalg.norm(agreed)).astype(np.float32)
        return Template(embedding, length / mass, state.weight, state.count)

    def shares(self, embeddings: Array, qualities: Array) -> Array:
        """What each of a set of faces (n, d) contributes to its template (n,), sum 1; negative for
        a face that contradicts the others, 0 for one without a say."""
        heard = np.asarray(qualities) > 0
        state = self.add(self.empty(), embeddings, qualities)
        result = np.zeros(len(embeddings), np.float32)
        if heard.any():
            mean = self._head.mean(state)
            looks = self._head.look(embeddings[heard], np.asarray(qualities, np.float32)[heard])
            says = looks.weights * (embeddings[heard].astype(np.float64) @ mean)
            result[heard] = says / max(float(says.sum()), 1e-12)
        return result


@dataclass(frozen=True, slots=True)
class Policy:
    """When a track's face is worth an embedding, which is where the time goes."""

    fresh: int = 8  # faces gathered frame by frame at first; more: slower and surer of new people
    refresh: float = 0.4  # seconds from then on between faces; more: faster, later corrections
    min_quality: float = 0.05  # [0, 1] from which a face is embedded; more: fewer doubtful faces
    foreign: float = 0.15  # cosine to the track below which a face is another's; more: parts sooner
    foreign_run: int = 2  # such faces in a row until a track changed hands; more: parts later


class Evidence:
    """What one track has gathered about who it shows."""

    def __init__(self, aggregator: Aggregator, policy: Policy) -> None:
        self._aggregator, self._policy = aggregator, policy
        self._state = aggregator.empty()
        self._template: Template | None = None  # of `_state`, once it was asked for
        self._last = float("-inf")
        self._foreign_run = 0
        self._unfit = 0

    def due(self, time: float) -> bool:
        """Whether a face at `time` (s) should be looked at."""
        return (
            self.doubtful
            or self._state.count + self._unfit < self._policy.fresh
            or time - self._last >= self._policy.refresh
        )

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
        self._template = None
        return True

    def pass_over(self, time: float) -> None:
        """A face was looked at that cannot be recognised: it says nothing."""
        self._last = time
        self._unfit += 1

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
        if self._template is None:
            self._template = self._aggregator.read(self._state)
        return self._template
