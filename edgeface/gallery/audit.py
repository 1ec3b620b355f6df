"""What looks wrong in a gallery, found by leaving each sample out and asking whose it seems."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from edgeface.gallery.gallery import Gallery
from edgeface.gallery.records import Person, Sample
from edgeface.types import Array

BLOCK = 2048  # samples compared with everybody at once


class Flaw(StrEnum):
    """What may be wrong."""

    DAMAGED = "damaged"  # a sample whose row is damaged, and which is left out of everything
    MISLABELLED = "mislabelled"  # a sample resembles somebody else more than its own person
    OUTLIER = "outlier"  # a sample resembles none of its person's other samples
    DUPLICATE = "duplicate"  # two people resemble each other as one person does


@dataclass(frozen=True, slots=True)
class Finding:
    """One suspicion: `person` and, for a mislabelled sample or a duplicate, `other`; `sample` the
    id of the sample in question (None for a duplicate); `similarity` the cosine that raised it, NaN
    for a damaged sample."""

    flaw: Flaw
    person: str
    other: str | None
    sample: int | None
    similarity: float


def audit(gallery: Gallery, threshold: float) -> list[Finding]:
    """The suspicions, most serious kind first. `threshold` is the cosine from which two faces count
    as one person. Takes time quadratic in the number of samples."""
    people = gallery.people()
    rows = [(p, s) for p in people for s in gallery.samples(p.name)]
    found = [Finding(Flaw.DAMAGED, name, None, i, math.nan) for name, i in gallery.damaged()]
    if not rows:
        return found
    embeddings: Array = np.stack([s.embedding for _, s in rows])
    owners = np.array([p.id for p, _ in rows])
    order = list(Flaw)
    found += _samples(rows, embeddings, owners, threshold)
    found += _duplicates(gallery, people, embeddings, owners, threshold)
    return sorted(found, key=lambda f: (order.index(f.flaw), -f.similarity))


def _samples(
    rows: list[tuple[Person, Sample]],
    embeddings: Array,
    owners: np.ndarray[tuple[int], np.dtype[np.int64]],
    threshold: float,
) -> Iterator[Finding]:
    """Mislabelled samples and outliers, by each sample's nearest own and nearest foreign one."""
    for start in range(0, len(rows), BLOCK):
        here = slice(start, start + BLOCK)
        sims = embeddings[here] @ embeddings.T
        sims[np.arange(len(sims)), np.arange(start, start + len(sims))] = -np.inf
        same = owners[here][:, None] == owners[None, :]
        own = np.where(same, sims, -np.inf).max(axis=1)
        foreign = np.where(same, -np.inf, sims)
        nearest = foreign.argmax(axis=1)
        for i, (person, sample) in enumerate(rows[here]):
            strange = float(foreign[i, nearest[i]])
            if person.n_samples > 1 and strange >= threshold and strange > own[i]:
                other = rows[int(nearest[i])][0].name
                yield Finding(Flaw.MISLABELLED, person.name, other, sample.id, strange)
            elif person.n_samples > 2 and own[i] < threshold:
                yield Finding(Flaw.OUTLIER, person.name, None, sample.id, float(own[i]))


def _duplicates(
    gallery: Gallery,
    people: list[Person],
    embeddings: Array,
    owners: np.ndarray[tuple[int], np.dtype[np.int64]],
    threshold: float,
) -> Iterator[Finding]:
    """Pairs of people whose mean faces are closer than the threshold and not known to differ."""
    present = [p for p in people if p.n_samples]
    position = {p.id: i for i, p in enumerate(present)}
    means = np.zeros((len(present), embeddings.shape[1]), np.float32)
    np.add.at(means, np.array([position[o] for o in owners.tolist()]), embeddings)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    for start in range(0, len(present), BLOCK):
        sims = means[start : start + BLOCK] @ means.T
        for i, j in np.argwhere(sims >= threshold).tolist():
            one, other = present[start + i], present[j]
            if one.id < other.id and other.id not in gallery.different_from(one.id):
                yield Finding(Flaw.DUPLICATE, one.name, other.name, None, float(sims[i, j]))
