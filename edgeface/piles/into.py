"""The people of a pile become people of a gallery: those who are there already gain samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeface.decide import Rules, decide
from edgeface.gallery import Faces, Gallery
from edgeface.piles.folder import Sorted
from edgeface.piles.report import Row, folder_name, people, printable
from edgeface.recognisability import ENROLLED
from edgeface.types import Array, Match, Status, Threshold

SAME = 0.9999  # cosine from which two embeddings are one and the same sample


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What became of the people of a pile: how many were `created`, how many were `recognised` as
    somebody the gallery knew, and how many faces were `added`."""

    created: int
    recognised: int
    added: int


def enroll_people(
    result: Sorted, gallery: Gallery, *, threshold: Threshold, at_least: int = 2
) -> Enrolled:
    """Add every person with a name or with `at_least` faces to a gallery, as one change that can be
    undone; faces it has already are left out, so that to do it again adds nothing.

    A person who has no name yet is whoever of the gallery at least half of their faces are, each
    decided with `threshold` as in `identify`; otherwise they become `person-00007`. Faces too hard
    to recognise for `Identifier.enroll`, and second copies of a picture, are not added.
    """
    place_of = {id(row): i for i, row in enumerate(result.rows)}
    taken = {person.name for person in gallery.people()}
    groups: list[Faces] = []
    recognised = created = 0
    for person, rows in people(result.rows):
        fit = [row for row in rows if row.recognisability >= ENROLLED]
        once = list({row.number: row for row in fit}.values())
        if person < 0 or not once or (len(once) < at_least and not rows[0].label):
            continue
        places = [place_of[id(row)] for row in once]
        embeddings = result.embeddings[places]
        matches = gallery.search_many(embeddings, 5)
        known = _known(matches, threshold)
        name = rows[0].label or known or _free(folder_name(person), taken)
        fresh = [
            i
            for i, found in enumerate(matches)
            if not any(m.name == name and m.similarity >= SAME for m in found)
        ]
        recognised += name in taken
        created += name not in taken
        taken.add(name)
        if fresh:
            groups.append(_faces(name, once, embeddings, result.qualities[places], fresh))
    gallery.enroll_clusters(groups)
    return Enrolled(created, recognised, sum(len(g.embeddings) for g in groups))


def _known(matches: Sequence[Sequence[Match]], threshold: Threshold) -> str:
    """Who of the gallery most of a person's faces are, "" if nobody."""
    margin = Rules().margin
    decisions = [decide(m, threshold, margin=margin) for m in matches]
    votes = Counter(d.name for d in decisions if d.status is Status.MATCH and d.name is not None)
    (name, count), *_ = [*votes.most_common(1), ("", 0)]
    return name if count * 2 >= len(decisions) else ""


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with a number where another pile's person has it already."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _faces(
    name: str, rows: Sequence[Row], embeddings: Array, qualities: Array, fresh: Sequence[int]
) -> Faces:
    return Faces(
        name,
        embeddings[np.array(fresh)],
        [float(qualities[i]) for i in fresh],
        [printable(f"{rows[i].file}#{rows[i].number}") for i in fresh],
    )
