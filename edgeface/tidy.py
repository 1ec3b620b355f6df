"""Strangers who were met one by one, compared all at once.

Online, a track has to join a stranger or open one before anything else is known. With everybody at
hand the clusters of `edgeface.cluster` tell better who is one person.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster import cluster
from edgeface.gallery import Gallery, Kind, Person


@dataclass(frozen=True, slots=True)
class Merged:
    """A stranger who was `gone` into another one, who was `kept`; names."""

    kept: str
    gone: str


def tidy(gallery: Gallery) -> list[Merged]:
    """Merge the strangers whose samples fall into one cluster, the later into the earlier.

    Nobody known by name is touched, nor two people who are known to differ. Every merge is an entry
    of the journal and can be undone. Clusters of a few faces tell little: better once a day than
    after every clip.
    """
    strangers = [p for p in gallery.people() if p.kind is Kind.STRANGER]
    strangers.sort(key=lambda person: person.id)
    samples = [gallery.samples(person.name) for person in strangers]
    if len(strangers) < 2:
        return []
    labels = cluster([s.embedding for own in samples for s in own]).labels
    ends = np.cumsum([len(own) for own in samples])[:-1]
    together: dict[int, list[Person]] = defaultdict(list)
    for person, own in zip(strangers, np.split(labels, ends), strict=True):
        together[_most(own)].append(person)
    return [one for group in together.values() for one in _merge(gallery, group)]


def _most(labels: NDArray[np.int32]) -> int:
    found, counts = np.unique(labels, return_counts=True)
    return int(found[counts.argmax()])


def _merge(gallery: Gallery, group: list[Person]) -> list[Merged]:
    done: list[Merged] = []
    first, *others = group
    kept = [first]
    for person in others:
        # A merge hands on whom the merged one differs from, so this is asked anew each time.
        apart = gallery.different_from(person.id)
        into = next((k for k in kept if k.id not in apart), None)
        if into is None:
            kept.append(person)
        else:
            gallery.merge(into.name, person.name)
            done.append(Merged(into.name, person.name))
    return done
