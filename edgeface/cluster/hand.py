"""What somebody says about the people of a pile, which later clustering keeps to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from edgeface.cluster.changes import Change, People
from edgeface.cluster.update import Pile
from edgeface.errors import ArgumentError


def merge(pile: Pile, into: int, other: int) -> tuple[Pile, Change]:
    """Make person `other` the same as `into`, who keeps the id.

    Raises:
        ArgumentError: one person twice, or nobody has the id.
    """
    if into == other:
        raise ArgumentError(f"person {into} cannot be merged with themselves; name two people")
    for person in (into, other):
        if not (pile.people == person).any():
            raise ArgumentError(f"nobody in the pile is person {person}")
    people = np.where(pile.people == other, np.int64(into), pile.people)
    return _pinned(pile, people, {into}), Change("merged", into, (other,))


def split(pile: Pile, faces: Collection[str]) -> tuple[Pile, Change]:
    """Make some faces of one person a new person, who gets the next id.

    Raises:
        ArgumentError: no faces, faces of several people or of nobody, or all that a person has.
    """
    rows = np.array([name in faces for name in pile.names], bool)
    whose = np.unique(pile.people[rows])
    if int(rows.sum()) != len(set(faces)) or len(whose) != 1 or whose[0] < 0:
        raise ArgumentError("a split takes faces of one person that are in the pile")
    if rows.sum() == (pile.people == whose[0]).sum():
        raise ArgumentError(f"these are all faces of person {whose[0]}; rename them instead")
    new = pile.next_id
    people = np.where(rows, np.int64(new), pile.people)
    parted = _pinned(replace(pile, next_id=new + 1), people, {int(whose[0]), new})
    return parted, Change("split", new, (int(whose[0]),), tuple(sorted(faces)))


def name(pile: Pile, person: int, name: str) -> tuple[Pile, Change]:
    """Call person `person` `name`: from now on their faces are theirs, whatever comes.

    Raises:
        ArgumentError: nobody has the id.
    """
    if not (pile.people == person).any():
        raise ArgumentError(f"nobody in the pile is person {person}")
    return _pinned(pile, pile.people, {person}), Change("named", person, name=name)


def _pinned(pile: Pile, people: People, fixed: set[int]) -> Pile:
    """The pile with these `people`, and all faces of the `fixed` ones pinned."""
    held = np.isin(people, sorted(fixed))
    return replace(pile, people=people, pinned=np.where(held, people, pile.pinned))
