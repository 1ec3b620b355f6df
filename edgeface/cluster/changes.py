"""What an update did to the people of a pile: the lines of its journal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

People = NDArray[np.int64]


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


def inherited(labels: NDArray[np.int32], before: People) -> dict[int, int]:
    """Which person every module goes on as: the one most of whose faces it holds, if that person
    is not a larger module's. `labels`, `before` (m,), -1 = noise or new."""
    known = (labels >= 0) & (before >= 0)
    pairs, counts = np.unique(
        np.stack([labels[known], before[known]], axis=1), axis=0, return_counts=True
    )
    given: dict[int, int] = {}
    taken: set[int] = set()
    for pick in np.lexsort((pairs[:, 1], pairs[:, 0], -counts)) if len(pairs) else []:
        module, person = int(pairs[pick, 0]), int(pairs[pick, 1])
        if module not in given and person not in taken:
            given[module] = person
            taken.add(person)
    return given


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
