"""Rules by which a gallery grows by itself, made so that it does not grow wrong.

Self-extending galleries fill with other people unless every step is gated: here an automatic sample
needs a clear margin over the threshold, a sample that somebody vouched for must recognise it too
(looking new describes a stranger as well), it must be sharp enough, and have been seen twice. New
strangers need two sightings as well. Faces of one picture are different people, for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery.gallery import Gallery
from edgeface.gallery.records import Provenance
from edgeface.types import Array, Kind, Match, Template, Threshold

logger = logging.getLogger("edgeface")


@dataclass(frozen=True, slots=True)
class GrowthRules:
    """Margins are cosines above (or below) the identification threshold, times are seconds. For
    strangers the margins count from where a track joins one, see `Growth`."""

    link: float = 0.03  # above: a track joins an earlier stranger, where nothing else says when
    unlink: float = 0.05  # below: it leaves whom it joined; between the two nothing changes
    doubt: float = 0.05  # a track this little below somebody known opens no stranger
    grow: float = 0.10  # above: a face may become an automatic sample of somebody known
    gather: float = 0.05  # above: one of a stranger, who has no samples but automatic ones
    anchor: float = 0.03  # above: so well must a vouched sample recognise that face
    novelty: float = 0.90  # cosine to the person's samples from which a face adds nothing
    quality: float = 0.4  # least mean quality of what is kept
    confidence: float = 0.6  # least agreement of the faces of what is kept
    apart: float = 1.0  # seconds between the first and the second sighting
    most: int = 20  # automatic samples of one person
    strangers: int = 10_000  # how many are kept; see `Gallery.forget_strangers`


@dataclass(slots=True)
class _Sighting:
    """What is remembered of a running track: whom it joined and since when it looks so."""

    person: int | None
    since: float


class Growth:
    """Tells whose a track is, strangers included, and lets the gallery learn from it.

    One per video; give it each track's template whenever that changes. All that it keeps between
    calls is about running tracks, the rest is in the gallery.

    `linking` gives the least similarity at which a track joins an earlier stranger, from how many
    strangers the gallery has. To give somebody a wrong name is worse than to take two strangers for
    one, so it may be lower than the threshold at which people are named.
    """

    def __init__(
        self,
        gallery: Gallery,
        rules: GrowthRules | None = None,
        *,
        linking: Callable[[int], float] | None = None,
    ) -> None:
        self._gallery, self._rules = gallery, rules or GrowthRules()
        self._linking = linking
        self._sightings: dict[int, _Sighting] = {}
        self._full = False  # said once that no more strangers are kept

    def step(self) -> AbstractContextManager[None]:
        """Everything seen within this block, as the tracks of one frame, is learnt as one change:
        committing each pair of 12 new faces took 2.4 s."""
        return self._gallery.batch()

    def see(
        self,
        track: int,
        template: Template,
        *,
        time: float,
        threshold: Threshold,
        present: Iterable[int] = (),
        source: str | None = None,
    ) -> Match | None:
        """Whose the track is now, None while nobody can say.

        `present`: the ids of the people that other tracks of the same picture belong to; none of
        them can be this one, and they are remembered as different from this one. `source` is kept
        with what is learned.
        """
        others = set(present)
        match = self._belongs(track, template, threshold.value, others)
        sighting = self._sightings.get(track)
        person = None if match is None else match.person_id
        if sighting is None or sighting.person != person:
            # A change of mind starts the two sightings anew.
            self._sightings[track] = _Sighting(person, time)
            return self._apart(match, others)
        if time - sighting.since < self._rules.apart or not self._fit(template):
            return self._apart(match, others)
        if match is None:
            match = self._open(template, threshold.value, source)
            sighting.person = None if match is None else match.person_id
        elif self._teaches(match, template, threshold.value):
            quality = template.weight / max(1, template.n_faces)
            self._gallery.grow(match.person_id, template.embedding, quality=quality, source=source)
        return self._apart(match, others)

    def end(self, track: int) -> None:
        """Forget a track that is gone."""
        self._sightings.pop(track, None)

    def _belongs(
        self, track: int, template: Template, threshold: float, others: set[int]
    ) -> Match | None:
        """The person the track belongs to, with hysteresis for the one it already has."""
        matches = [
            m
            for m in self._gallery.search(template.embedding, 5 + len(others))
            if m.person_id not in others
        ]
        held = self._sightings.get(track)
        for match in matches:
            if held and match.person_id == held.person:
                needed = self._needed(match, threshold) - self._rules.unlink
                return match if match.similarity >= needed else None
        if not matches:
            return None
        best = matches[0]
        return best if best.similarity >= self._needed(best, threshold) else None

    def _needed(self, match: Match, threshold: float) -> float:
        """The similarity at which a track belongs to somebody."""
        if match.kind is not Kind.STRANGER:
            return threshold
        if self._linking is None:
            return threshold + self._rules.link
        return self._linking(self._gallery.count(Kind.STRANGER))

    def _fit(self, template: Template) -> bool:
        """Whether a template is good enough to be kept: sharp faces that agree."""
        quality = template.weight / max(1, template.n_faces)
        return quality >= self._rules.quality and template.confidence >= self._rules.confidence

    def _open(self, template: Template, threshold: float, source: str | None) -> Match | None:
        """A new stranger, unless the face is too close to somebody known to be sure, or there are
        as many strangers as are kept."""
        if self._gallery.count(Kind.STRANGER) >= self._rules.strangers:
            if not self._full:
                logger.warning(
                    "the gallery keeps %d strangers and learns no more: forget those not seen for "
                    "a while",
                    self._rules.strangers,
                )
            self._full = True
            return None
        self._full = False
        for near in self._gallery.search(template.embedding, 1):
            known = near.kind is not Kind.STRANGER
            limit = threshold if known else self._needed(near, threshold)
            if near.similarity >= limit - (self._rules.doubt if known else 0.0):
                return None
        quality = template.weight / max(1, template.n_faces)
        person = self._gallery.add_stranger(template.embedding, quality=quality, source=source)
        return Match(person.id, person.name, 1.0, person.kind)

    def _teaches(self, match: Match, template: Template, threshold: float) -> bool:
        """Whether the gallery may learn the face as one more sample of the person."""
        rules = self._rules
        needed = self._needed(match, threshold)
        stranger = match.kind is Kind.STRANGER
        margin = rules.gather if stranger else rules.grow
        if not needed + margin <= match.similarity < rules.novelty:
            return False
        samples = self._gallery.samples(match.name)
        automatic = [s for s in samples if s.provenance is Provenance.AUTOMATIC]
        # A stranger has nobody's word: the face they were opened with stands in for it.
        vouched = [s for s in samples if s.provenance is Provenance.USER] or samples[:1]
        if len(automatic) >= rules.most or not vouched:
            return False
        anchors: Array = np.stack([s.embedding for s in vouched])
        return float((anchors @ template.embedding).max()) >= needed + rules.anchor

    def _apart(self, match: Match | None, others: set[int]) -> Match | None:
        if match is not None:
            for other in others - {match.person_id}:
                try:
                    self._gallery.never_same(match.person_id, other)
                except GalleryError:  # merged or forgotten by somebody else meanwhile
                    continue
        return match
