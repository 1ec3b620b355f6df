"""What an update did to the people of a pile: the lines of its journal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.types import Array

People = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did to the people.

    `created`: person `to` is new; `joined`: `faces` came to person `to`; `merged`: the people
    `people` became `to`; `split`: faces of person `people[0]` left for `to`; `left`: `faces` of
    person `to` are gone from the pile; `named`: `to` is now called `name`.
    """

    kind: Literal["created", "joined", "merged", "split", "left", "named"]
    to: int
    people: tuple[int, ...] = ()
    faces: tuple[str, ...] = ()
    name: str = ""

    def to_json(self, shown: Mapping[str, str] | None = None) -> str:
        """One line of the journal; `shown` says how faces are to be called there."""
        faces = self.faces if shown is None else [shown.get(f, f) for f in self.faces]
        line: dict[str, Any] = {"event": self.kind, "to": self.to}
        line |= {"people": self.people, "faces": faces}
        if self.name:
            line["name"] = self.name
        return json.dumps(line)


def vouched(labels: NDArray[np.int32], pinned: People) -> dict[int, int]:
    """The person of every module that holds pinned faces: whom most of those are. Several modules
    may be one person, when somebody said so. `labels`, `pinned` (m,), -1 = noise or nobody."""
    given: dict[int, int] = {}
    for module, person in _shares(labels, pinned):
        given.setdefault(module, person)
    return given


def inherited(labels: NDArray[np.int32], before: People, given: dict[int, int]) -> dict[int, int]:
    """Which person every other module goes on as: the one most of whose faces it holds, if that
    person is not a larger module's or `given` already. `labels`, `before` (m,), -1 = noise, new."""
    found: dict[int, int] = {}
    taken = set(given.values())
    for module, person in _shares(labels, before):
        if module not in found and module not in given and person not in taken:
            found[module] = person
            taken.add(person)
    return found


def _shares(labels: NDArray[np.int32], people: People) -> list[tuple[int, int]]:
    """(module, person) by falling number of common faces."""
    known = (labels >= 0) & (people >= 0)
    pairs, counts = np.unique(
        np.stack([labels[known], people[known]], axis=1), axis=0, return_counts=True
    )
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -counts))
    return [(int(pairs[pick, 0]), int(pairs[pick, 1])) for pick in order.tolist()]


def nearest_vouched(
    labels: NDArray[np.int32], pinned: People, found: People, embeddings: Array
) -> People:
    """`found` (m,) with pinned faces where they are pinned; in a module that holds faces pinned to
    several people every other face goes to the one whose pinned faces it resembles most."""
    people = np.where(pinned >= 0, pinned, found)
    for module in np.unique(labels[(pinned >= 0) & (labels >= 0)]).tolist():
        inside = labels == module
        there = np.unique(pinned[inside & (pinned >= 0)])
        if len(there) > 1:
            means = np.stack([embeddings[inside & (pinned == p)].mean(axis=0) for p in there])
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
            free = np.flatnonzero(inside & (pinned < 0))
            people[free] = there[(embeddings[free] @ means.T).argmax(axis=1)]
    return people


def created(people: People, first: int, end: int) -> list[Change]:
    """The new people among `people`, whose ids lie in [first, end)."""
    there = np.unique(people[(people >= first) & (people < end)])
    return [Change("created", person) for person in there.tolist()]


def moves(before: People, after: People, old: int) -> list[Change]:
    """Merges and splits among the `old` faces that were there before."""
    moved = np.flatnonzero((before[:old] != after[:old]) & (before[:old] >= 0))
    changes = []
    stay = set(after[:old].tolist())
    for to, rows in grouped(after, moved):
        sources = sorted(set(before[rows].tolist()))
        gone = tuple(p for p in sources if p not in stay)
        if gone and to >= 0:
            changes.append(Change("merged", int(to), (*gone,)))
        changes += [Change("split", int(to), (p,)) for p in sources if p in stay]
    return changes


def grouped(
    people: People, rows: Sequence[int] | range | NDArray[np.int64]
) -> list[tuple[int, list[int]]]:
    """`rows` by their person, in the order of the people."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(people[row]), []).append(int(row))
    return sorted(groups.items())
