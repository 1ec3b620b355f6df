"""A pile of faces that grows: new ones join, people keep their ids, every change is journaled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.cluster import Clusters, K, checked, described, divide
from edgeface.cluster.edges import EdgeModel, Neighbourhoods, Space, mean_face, strangers
from edgeface.cluster.neighbours import Neighbours, neighbours
from edgeface.errors import SourceError
from edgeface.score import topk
from edgeface.types import Array

VERSION = 1


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did to the people.

    `created`: person `to` is new; `joined`: `faces` came to person `to`; `merged`: the people
    `people` became `to`; `split`: faces of person `people[0]` left for `to`.
    """

    kind: Literal["created", "joined", "merged", "split"]
    to: int
    people: tuple[int, ...] = ()
    faces: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of the journal."""
        return json.dumps(
            {"event": self.kind, "to": self.to, "people": self.people, "faces": self.faces},
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pile:
    """Faces with the people found among them.

    `names` (n) say which face a row is; `people` (n,) int64 are stable ids, -1 noise; `embeddings`
    (n, d) float32 unit rows; `near` their kNN graph around `mean` (d,); `scale` the similarities
    between strangers, measured when the pile began; `gate` (n,) bool the faces too poor to vote;
    `next_id` the id a new person gets.
    """

    names: tuple[str, ...]
    people: NDArray[np.int64]
    embeddings: Array
    near: Neighbours
    mean: Array
    scale: tuple[float, float, float, float]
    gate: NDArray[np.bool_]
    next_id: int

    @classmethod
    def of(
        cls,
        embeddings: ArrayLike,
        names: Sequence[str],
        *,
        quality: ArrayLike | None = None,
        model: EdgeModel | None = None,
    ) -> Self:
        """Start a pile: people are numbered by size. Arguments as for `cluster`.

        Raises:
            ValueError: wrong shapes, or a name twice.
        """
        rows, gate = checked(embeddings, quality)
        _check_names(names, len(rows))
        mean = mean_face(rows) if len(rows) else np.zeros(rows.shape[1], np.float32)
        space = Space.of(rows, mean)
        scale = strangers(space) if len(rows) > 1 else (0.0, 0.1, 0.0, 0.1)
        around = Neighbourhoods.around(space, neighbours(space.rows, K), scale)
        model = model or EdgeModel.load()
        probabilities = around.probabilities(model)
        labels = divide(around.near.indices, probabilities, gate, model.threshold)
        found = described(around.near.indices, probabilities, labels)
        people = found.labels.astype(np.int64)
        return cls(tuple(names), people, rows, around.near, mean, scale, gate, len(found))

    def add(
        self,
        embeddings: ArrayLike,
        names: Sequence[str],
        *,
        quality: ArrayLike | None = None,
        model: EdgeModel | None = None,
    ) -> tuple[Self, list[Change]]:
        """The pile with new faces in it, and what that changed.

        Only the people that new faces are linked to are divided anew, over the neighbourhoods as
        they are with the new faces; everyone else stays. Ids follow the largest share of faces.

        Raises:
            ValueError: wrong shapes, another length d, or a name that is in the pile.
        """
        rows, gate = checked(embeddings, quality)
        _check_names(names, len(rows), self.names)
        if rows.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"embeddings have {rows.shape[1]} numbers, those of the pile "
                f"{self.embeddings.shape[1]}: use the embedder that the pile was made with"
            )
        model = model or EdgeModel.load()
        old, n = len(self.people), len(self.people) + len(rows)
        everyone = np.concatenate([self.embeddings, rows])
        space = Space.of(everyone, self.mean)
        grown = replace(
            self,
            names=(*self.names, *names),
            embeddings=everyone,
            near=_with_new(self.near, space.rows, old),
            gate=np.concatenate([self.gate, gate]),
            people=np.concatenate([self.people, np.full(len(rows), -1)]),
        )
        touched = grown._touched(space, np.arange(old, n, dtype=np.int32), model)
        indices, probabilities = grown._edges(space, touched, model)
        labels = divide(indices, probabilities, grown.gate[touched], model.threshold)
        return grown._renamed(touched, labels, old)

    def clusters(self, *, model: EdgeModel | None = None) -> Clusters:
        """The people as `cluster` describes them, labels and exemplars numbered
        by size as there."""
        space = Space.of(self.embeddings, self.mean)
        around = Neighbourhoods.around(space, self.near, self.scale)
        probabilities = around.probabilities(model or EdgeModel.load())
        return described(self.near.indices, probabilities, self.people.astype(np.int32))

    def _touched(
        self, space: Space, fresh: NDArray[np.int32], model: EdgeModel
    ) -> NDArray[np.int32]:
        """New faces and all members of the people they are linked to, in either direction."""
        back = np.isin(self.near.indices, fresh).any(axis=1)
        asked = np.unique(np.concatenate([fresh, np.flatnonzero(back).astype(np.int32)]))
        targets, probabilities = self._neighbourhoods(space, asked).near_of(asked, model)
        linked = (probabilities >= model.threshold) & (targets >= 0)
        new_end = np.isin(targets, fresh) | np.isin(asked, fresh)[:, None]
        ends = np.concatenate(
            [targets[linked & new_end], asked[(linked & np.isin(targets, fresh)).any(axis=1)]]
        )
        people = np.unique(self.people[ends])
        members = np.isin(self.people, people[people >= 0])
        members[fresh] = True
        members[ends] = True
        return np.flatnonzero(members).astype(np.int32)

    def _edges(
        self, space: Space, touched: NDArray[np.int32], model: EdgeModel
    ) -> tuple[NDArray[np.int32], Array]:
        """The edges among `touched`, numbered within it."""
        targets, probabilities = self._neighbourhoods(space, touched).near_of(touched, model)
        place = np.full(len(self.people), -1, np.int32)
        place[touched] = np.arange(len(touched), dtype=np.int32)
        inside = np.where(targets >= 0, place[np.maximum(targets, 0)], -1).astype(np.int32)
        return inside, probabilities

    def _neighbourhoods(self, space: Space, nodes: NDArray[np.int32]) -> _Part:
        targets = self.near.indices[nodes]
        return _Part.of(space, self.near, np.union1d(nodes, targets[targets >= 0]), self.scale)

    def _renamed(
        self, touched: NDArray[np.int32], labels: NDArray[np.int32], old: int
    ) -> tuple[Self, list[Change]]:
        """Give modules the ids of the people most of whose faces they hold."""
        before = self.people[touched]
        known = (labels >= 0) & (before >= 0)
        pairs, counts = np.unique(
            np.stack([labels[known], before[known]], axis=1), axis=0, return_counts=True
        )
        given: dict[int, int] = {}
        for pick in np.lexsort((pairs[:, 1], pairs[:, 0], -counts)) if len(pairs) else []:
            module, person = int(pairs[pick, 0]), int(pairs[pick, 1])
            if module not in given and person not in given.values():
                given[module] = person
        changes, next_id = [], self.next_id
        for module in np.unique(labels[labels >= 0]).tolist():
            if module not in given:
                given[module], next_id = next_id, next_id + 1
                changes.append(Change("created", given[module]))
        people = self.people.copy()
        people[touched] = [given[m] if m >= 0 else -1 for m in labels.tolist()]
        changes += _moves(self.people, people, old)
        changes += [
            Change("joined", int(person), faces=tuple(self.names[i] for i in rows))
            for person, rows in _grouped(people, range(old, len(people)))
            if person >= 0
        ]
        return replace(self, people=people, next_id=next_id), changes

    def save(self, path: str | Path) -> None:
        """Write the pile as one .npz, atomically."""
        temporary = Path(f"{path}.part")
        with temporary.open("wb") as file:
            np.savez(
                file,
                version=VERSION,
                names=np.array(self.names, dtype=np.str_),
                people=self.people,
                embeddings=self.embeddings,
                indices=self.near.indices,
                similarities=self.near.similarities,
                mean=self.mean,
                scale=np.array(self.scale),
                gate=self.gate,
                next_id=self.next_id,
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            SourceError: missing, damaged, or of another version.
        """
        try:
            with np.load(path, allow_pickle=False) as raw:
                if int(raw["version"]) != VERSION:
                    raise ValueError(f"version {int(raw['version'])}, expected {VERSION}")
                scale: Any = tuple(float(v) for v in raw["scale"])
                pile = cls(
                    tuple(raw["names"].tolist()),
                    raw["people"],
                    raw["embeddings"],
                    Neighbours(raw["indices"], raw["similarities"]),
                    raw["mean"],
                    scale,
                    raw["gate"],
                    int(raw["next_id"]),
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise SourceError(f"{path}: not a pile of faces ({error}); cluster anew") from error
        if len({len(pile.names), len(pile.people), len(pile.embeddings), len(pile.gate)}) != 1:
            raise SourceError(f"{path}: its parts differ in length; cluster anew")
        return pile


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Neighbourhoods of some faces only: `faces` (m,) ascending, numbered 0..m-1 inside."""

    faces: NDArray[np.int32]
    around: Neighbourhoods

    @classmethod
    def of(
        cls,
        space: Space,
        near: Neighbours,
        faces: NDArray[np.int32],
        scale: tuple[float, float, float, float],
    ) -> Self:
        indices = near.indices[faces]
        # Neighbours outside keep distinct numbers from m on: overlaps count them too.
        outside = np.setdiff1d(indices[indices >= 0], faces)
        known = np.concatenate([faces, outside])
        order = np.argsort(known, kind="stable")
        where = np.searchsorted(known[order], np.maximum(indices, known[order][0]))
        inside = np.where(indices >= 0, order[where], -1).astype(np.int32)
        part = Space(space.rows[faces], space.lengths[faces], space.along[faces], space.offset)
        return cls(
            faces, Neighbourhoods.around(part, Neighbours(inside, near.similarities[faces]), scale)
        )

    def near_of(
        self, nodes: NDArray[np.int32], model: EdgeModel
    ) -> tuple[NDArray[np.int32], Array]:
        """Neighbours of `nodes`, by their numbers in the pile, and edge probabilities."""
        rows = np.searchsorted(self.faces, nodes).astype(np.int32)
        targets = self.around.near.indices[rows]
        named = np.where(targets >= 0, self.faces[np.maximum(targets, 0)], -1).astype(np.int32)
        return named, self.around.probabilities(model, rows)


def _with_new(near: Neighbours, rows: Array, old: int) -> Neighbours:
    """The kNN graph with the new rows in: their own lists, and their places in others' lists."""
    n, k = len(rows), min(K, len(rows))
    indices = np.full((n, k), -1, np.int32)
    similarities = np.full((n, k), -1.0, np.float32)
    width = near.indices.shape[1]
    indices[:old, :width], similarities[:old, :width] = near.indices, near.similarities
    if old == n:
        return Neighbours(indices, similarities)
    found, values = topk(rows[old:], rows, k)
    _own_first(indices, similarities, found, values, old)
    # An old face lists a new one that is nearer than its last neighbour.
    worst = np.where(indices[:old, -1] >= 0, similarities[:old, -1], -np.inf)
    for start in range(0, old, 4096):
        part = slice(start, min(start + 4096, old))
        closeness = rows[part] @ rows[old:].T
        changed = np.flatnonzero((closeness > worst[part, None]).any(axis=1))
        if not len(changed):
            continue
        fresh = np.broadcast_to(np.arange(old, n, dtype=np.int32), (len(changed), n - old))
        spots = changed + start
        both = np.concatenate([indices[spots], fresh], axis=1)
        sims = np.concatenate([similarities[spots], closeness[changed]], axis=1)
        key = np.where(both < 0, -np.inf, sims)
        key[:, 0] = np.inf
        best = np.argsort(-key, axis=1, kind="stable")[:, :k]
        indices[spots] = np.take_along_axis(both, best, axis=1)
        similarities[spots] = np.take_along_axis(sims, best, axis=1)
    return Neighbours(indices, similarities)


def _own_first(
    indices: NDArray[np.int32],
    similarities: Array,
    found: NDArray[np.int64],
    values: Array,
    old: int,
) -> None:
    n, k = indices.shape
    own = np.arange(old, n)[:, None]
    missing = ~(found == own).any(axis=1)
    found[missing, k - 1] = own[missing, 0]
    key = np.where(found == own, np.inf, values)
    best = np.argsort(-key, axis=1, kind="stable")
    indices[old:] = np.take_along_axis(found, best, axis=1)
    similarities[old:] = np.take_along_axis(values, best, axis=1)
    similarities[old:, 0] = 1.0


def _moves(before: NDArray[np.int64], after: NDArray[np.int64], old: int) -> list[Change]:
    """Merges and splits among the faces that were there before."""
    moved = np.flatnonzero((before[:old] != after[:old]) & (before[:old] >= 0))
    changes = []
    stay = set(after[:old].tolist())
    for to, rows in _grouped(after, moved):
        sources = sorted(set(before[rows].tolist()))
        gone = tuple(p for p in sources if p not in stay)
        if gone and to >= 0:
            changes.append(Change("merged", int(to), (*gone,)))
        changes += [Change("split", int(to), (p,)) for p in sources if p in stay]
    return changes


def _grouped(
    people: NDArray[np.int64], rows: Sequence[int] | range | NDArray[np.int64]
) -> list[tuple[int, list[int]]]:
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(people[row]), []).append(int(row))
    return sorted(groups.items())


def _check_names(names: Sequence[str], n: int, taken: Sequence[str] = ()) -> None:
    if len(names) != n:
        raise ValueError(f"{len(names)} names for {n} faces")
    twice = sorted(set(names) & set(taken))
    twice = twice or [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} names two faces; every face needs a name of its own")
