"""A pile of faces that grows: new ones join, people keep their ids, every change is journaled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.atomic import replacing
from edgeface.cluster.apart import cut
from edgeface.cluster.changes import (
    Change,
    created,
    grouped,
    inherited,
    moves,
    nearest_vouched,
    vouched,
)
from edgeface.cluster.edges import Neighbourhoods
from edgeface.cluster.graph import Indices
from edgeface.cluster.growth import Part, with_new, without
from edgeface.cluster.model import EdgeModel
from edgeface.cluster.neighbours import Neighbours
from edgeface.cluster.people import (
    Clusters,
    K,
    checked,
    checked_fitness,
    checked_pictures,
    described,
    divide,
    weigh,
)
from edgeface.cluster.space import Space, Strangers, mean_face
from edgeface.errors import ArgumentError, DataError
from edgeface.types import Array

VERSION = 3
_PER_FACE = (
    "people",
    "embeddings",
    "gate",
    "pictures",
    "fitness",
    "pinned",
)  # arrays with a row per face


@dataclass(frozen=True, slots=True, eq=False)
class Pile:
    """Faces with the people found among them.

    `names` (n) say which face a row is; `people` (n,) int64 are stable ids, -1 noise; `embeddings`
    (n, d) float32 unit rows; `near` their kNN graph around `mean` (d,) and `first` (n, k) its
    edges' probabilities after the first pass; `strangers` measured when the pile began; `gate`
    (n,) bool the faces too poor to vote; `pictures` (n,) int64 equal for faces of one picture, -1
    unknown; `fitness` (n,) float32 how far a face is trusted; `pinned` (n,) int64 the person that
    somebody said a face is, -1 where nobody did; `next_id` the id a new person gets.
    """

    names: tuple[str, ...]
    people: NDArray[np.int64]
    embeddings: Array
    near: Neighbours
    first: Array
    mean: Array
    strangers: Strangers
    gate: NDArray[np.bool_]
    pictures: NDArray[np.int64]
    fitness: Array
    pinned: NDArray[np.int64]
    next_id: int

    @classmethod
    def of(
        cls,
        embeddings: ArrayLike,
        names: Sequence[str],
        *,
        quality: ArrayLike | None = None,
        pictures: ArrayLike | None = None,
        fitness: ArrayLike | None = None,
        model: EdgeModel | None = None,
        first_id: int = 0,
    ) -> Self:
        """Start a pile: people are numbered by size from `first_id` on. Arguments as for `cluster`.

        Raises:
            ArgumentError: wrong shapes, or a name twice.
        """
        rows, gate = checked(embeddings, quality)
        _check_names(names, len(rows))
        taken_from = checked_pictures(pictures, len(rows))
        trust = checked_fitness(fitness, len(rows))
        model = model or EdgeModel.load()
        mean = mean_face(rows)
        around = Neighbourhoods.of(Space.of(rows, mean), K)
        indices = around.near.indices
        first = around.first_pass(model.first)
        probabilities = around.second_pass(model.second, first)
        cut(indices, probabilities, taken_from)
        weigh(indices, probabilities, trust)
        labels = divide(indices, probabilities, gate, model.threshold, taken_from)
        found = described(indices, probabilities, labels, trust)
        people = np.where(found.labels >= 0, found.labels + np.int64(first_id), -1)
        return cls(
            tuple(names),
            people,
            rows,
            around.near,
            first,
            mean,
            around.strangers,
            gate,
            taken_from,
            trust,
            np.full(len(rows), -1, np.int64),
            first_id + len(found),
        )

    def add(
        self,
        embeddings: ArrayLike,
        names: Sequence[str],
        *,
        quality: ArrayLike | None = None,
        pictures: ArrayLike | None = None,
        fitness: ArrayLike | None = None,
        model: EdgeModel | None = None,
    ) -> tuple[Self, list[Change]]:
        """The pile with new faces in it, and what that changed.

        Only the people that new faces are linked to are divided anew, over the neighbourhoods as
        they are with the new faces; everyone else stays. Ids follow the largest share of faces.
        What somebody said of a face holds, and draws the new faces that look like it.

        Raises:
            ArgumentError: wrong shapes, another length d, or a name that is in the pile.
        """
        rows, gate = checked(embeddings, quality)
        _check_names(names, len(rows), self.names)
        taken_from = checked_pictures(pictures, len(rows))
        trust = checked_fitness(fitness, len(rows))
        if rows.shape[1] != self.embeddings.shape[1]:
            raise ArgumentError(
                f"embeddings have {rows.shape[1]} numbers, those of the pile "
                f"{self.embeddings.shape[1]}: use the embedder that the pile was made with"
            )
        if not len(rows):
            return self, []
        model = model or EdgeModel.load()
        old = len(self.people)
        everyone = np.concatenate([self.embeddings, rows])
        space = Space.of(everyone, self.mean)
        near, changed = with_new(self.near, space.rows, old, K)
        part = Part.of(changed, near, space.frame, self.strangers)
        first = np.zeros(near.indices.shape, np.float32)
        first[:old, : self.first.shape[1]] = self.first
        first[changed] = part.first_pass(changed, model)
        grown = replace(
            self,
            names=(*self.names, *names),
            embeddings=everyone,
            near=near,
            first=first,
            gate=np.concatenate([self.gate, gate]),
            people=np.concatenate([self.people, np.full(len(rows), -1)]),
            pictures=np.concatenate([self.pictures, taken_from]),
            fitness=np.concatenate([self.fitness, trust]),
            pinned=np.concatenate([self.pinned, np.full(len(rows), -1)]),
        )
        touched = grown._touched(part, changed, old, model)
        part = Part.of(touched, near, space.frame, self.strangers)
        probabilities = part.second_pass(touched, model, first)
        place = np.full(len(grown.people), -1, np.int32)
        place[touched] = np.arange(len(touched), dtype=np.int32)
        targets = near.indices[touched]
        inside = np.where(targets >= 0, place[np.maximum(targets, 0)], -1).astype(np.int32)
        taken_from = grown.pictures[touched]
        cut(inside, probabilities, taken_from)
        weigh(inside, probabilities, grown.fitness[touched])
        gate = grown.gate[touched]
        labels = divide(inside, probabilities, gate, model.threshold, taken_from)
        return grown._renamed(touched, labels, old)

    def without(self, names: Collection[str]) -> tuple[Self, list[Change]]:
        """The pile without some of its faces, and whom they left. Nobody else moves."""
        gone = np.array([name in names for name in self.names], bool)
        if not gone.any():
            return self, []
        changes = [
            Change("left", person, faces=tuple(self.names[i] for i in rows))
            for person, rows in grouped(self.people, np.flatnonzero(gone))
        ]
        kept = np.flatnonzero(~gone)
        near, first = without(self.near, self.first, kept)
        smaller = replace(
            self,
            names=tuple(self.names[i] for i in kept),
            near=near,
            first=first,
            **{n: getattr(self, n)[kept] for n in _PER_FACE},
        )
        return smaller, changes

    def clusters(self, *, model: EdgeModel | None = None) -> Clusters:
        """The people as `cluster` describes them, labels and exemplars numbered by size as
        there."""
        model = model or EdgeModel.load()
        frame = Space.of(self.embeddings, self.mean).frame
        around = Neighbourhoods.around(frame, self.near, self.strangers)
        probabilities = around.second_pass(model.second, self.first)
        cut(self.near.indices, probabilities, self.pictures)
        weigh(self.near.indices, probabilities, self.fitness)
        people = self.people.astype(np.int32)
        return described(self.near.indices, probabilities, people, self.fitness)

    def _touched(self, part: Part, changed: Indices, old: int, model: EdgeModel) -> Indices:
        """New faces and all members of the people they are linked to, in either direction."""
        targets = self.near.indices[changed]
        linked = part.second_pass(changed, model, self.first) >= model.threshold
        linked &= targets >= 0
        to_new = linked & (targets >= old)
        from_new = linked & (changed >= old)[:, None]
        ends = np.concatenate([targets[to_new | from_new], changed[to_new.any(axis=1)]])
        people = np.unique(self.people[ends])
        members = np.isin(self.people, people[people >= 0])
        members[old:] = True
        members[ends] = True
        return np.flatnonzero(members).astype(np.int32)

    def _renamed(
        self, touched: Indices, labels: NDArray[np.int32], old: int
    ) -> tuple[Self, list[Change]]:
        """Give modules the ids of the people most of whose faces they hold."""
        pinned = self.pinned[touched]
        given = vouched(labels, pinned)
        given |= inherited(labels, self.people[touched], given)
        next_id = self.next_id
        for module in np.unique(labels[labels >= 0]).tolist():
            if module not in given:
                given[module], next_id = next_id, next_id + 1
        found = np.array([given[m] if m >= 0 else -1 for m in labels.tolist()], np.int64)
        people = self.people.copy()
        people[touched] = nearest_vouched(labels, pinned, found, self.embeddings[touched])
        changes = created(people, self.next_id, next_id) + moves(self.people, people, old)
        changes += [
            Change("joined", int(person), faces=tuple(self.names[i] for i in rows))
            for person, rows in grouped(people, range(old, len(people)))
            if person >= 0
        ]
        return replace(self, people=people, next_id=next_id), changes

    def save(self, path: str | Path) -> None:
        """Write the pile as one .npz, atomically and readable by its owner alone."""
        with replacing(path) as file:
            np.savez(
                file,
                version=VERSION,
                names=np.array(self.names, dtype=np.str_),
                **{n: getattr(self, n) for n in _PER_FACE},
                indices=self.near.indices,
                similarities=self.near.similarities,
                first=self.first,
                mean=self.mean,
                strangers=np.array(astuple(self.strangers)),
                next_id=self.next_id,
            )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: missing, damaged, or of another version.
        """
        try:
            with np.load(path, allow_pickle=False) as raw:
                if int(raw["version"]) != VERSION:
                    raise DataError(f"version {int(raw['version'])}, expected {VERSION}")
                pile = cls(
                    tuple(raw["names"].tolist()),
                    raw["people"],
                    raw["embeddings"],
                    Neighbours(raw["indices"], raw["similarities"]),
                    raw["first"],
                    raw["mean"],
                    Strangers(*raw["strangers"].tolist()),
                    raw["gate"],
                    raw["pictures"],
                    raw["fitness"],
                    raw["pinned"],
                    int(raw["next_id"]),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, DataError) as error:
            raise DataError(f"{path}: not a pile of faces ({error}); cluster anew") from error
        lengths = {len(pile.names), *(len(getattr(pile, n)) for n in _PER_FACE)}
        if len(lengths | {len(pile.near.indices), len(pile.first)}) != 1:
            raise DataError(f"{path}: its parts differ in length; cluster anew")
        return pile


def _check_names(names: Sequence[str], n: int, taken: Sequence[str] = ()) -> None:
    if len(names) != n:
        raise ArgumentError(f"{len(names)} names for {n} faces")
    twice = sorted(set(names) & set(taken))
    twice = twice or [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ArgumentError(f"{twice[0]!r} names two faces; every face needs a name of its own")
