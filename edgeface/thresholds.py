"""The thresholds of a gallery, asked for at every decision so that they are those of this moment.

People are enrolled, strangers are learnt and thresholds calibrated while cameras run, in this
process or another. Who decides therefore asks; the answer is worked out anew only after a change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgeface.calibrate import Calibration, from_model
from edgeface.cohort import Cohort, Progress, chosen, resemblance
from edgeface.gallery import Gallery, GrowthRules, Kind
from edgeface.models import ModelCard
from edgeface.submodels import SubmodelBank
from edgeface.types import Threshold

CALIBRATION = "calibration"  # the gallery note that holds it
# How often a stranger may join another one. On simulated videos of 346 training people, rates of
# 0.3, 1, 3 and 10 % gave a BCubed F of 83.0, 83.6, 82.2 and 78.7 once tidied (`edgeface.tidy`; all
# at once: 83.7), and of 70, 80, 81 and 80 before that.
LINKING_FPIR = 0.01

Linking = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a probe has to reach: `known` to be named as somebody whom a user named, `stranger` to
    be taken for a stranger the gallery numbered. `stamp` is the state of the gallery they are
    for."""

    known: Threshold
    stranger: Threshold
    stamp: object = None


def expected(card: ModelCard, size: int) -> Threshold:
    """The threshold at which a card expects a stranger to be named once in a thousand times, with
    `size` people enrolled."""
    measured = Calibration.of_card(card)
    return card.threshold if measured is None else measured.default_at(size)


class ThresholdProvider:
    """Called, it gives the `Thresholds` for the gallery as it is now; for several threads.

    The threshold of the known is the first there is of: a `fixed` one; the gallery's calibrated
    one, at the number of known people; the one stored with the gallery; the one at which the
    embedder's card expects a stranger to be named once in a thousand times. Numbered strangers
    never raise it: they are held to the rate at which strangers may join one another.

    While nothing changes a call costs a look at the file's date, for a gallery on a server a round
    trip.
    """

    def __init__(self, gallery: Gallery, card: ModelCard, fixed: Threshold | None = None) -> None:
        self._gallery, self._card, self._fixed = gallery, card, fixed
        self._kept: Thresholds | None = None

    def __call__(self) -> Thresholds:
        stamp = self._gallery.stamp()
        kept = self._kept
        if kept is None or kept.stamp != stamp:
            # A change that comes between the stamp and here is met at the next call.
            known = self._known()
            kept = self._kept = Thresholds(known, self._stranger(known), stamp)
        return kept

    @property
    def linking(self) -> Linking | None:
        """From how many strangers there are, the similarity at which a track joins one of them;
        None where the threshold is fixed or no impostors were ever measured."""
        if self._fixed is not None:
            return None
        own = self._own()
        # The safe side of a model is that strangers stay apart; whom to join is another question.
        curve = own if own is not None and own.origin == "calibrated" else None
        curve = curve or Calibration.of_card(self._card)
        return None if curve is None else partial(curve.value_at, fpir=LINKING_FPIR)

    def modelled(self, fpir: float, progress: Progress | None = None) -> Calibration:
        """The calibration of the gallery for `fpir` by the impostor model beside the embedder, from
        how alike its people are; never laxer than what the card expects. `progress` is told how
        many people were compared, and of how many.

        Raises:
            CalibrationError: nobody is enrolled, there is no impostor model beside the embedder, or
                it knows of no rate as small as `fpir`.
        """
        card, size = self._card, self._gallery.count(Kind.KNOWN)
        model = Cohort.load(card.path.with_suffix(".cohort.npz"), model=card.digest)
        names = [p.name for p in self._gallery.people() if p.kind is Kind.KNOWN and p.n_samples]
        rows = [
            np.stack([sample.embedding for sample in self._gallery.samples(name)])
            for name in chosen(names)
        ]
        forecast = model.forecast(size, resemblance(rows, progress=progress))
        return from_model(
            forecast.values, forecast.expected, forecast.safe, forecast.high,
            fpir=fpir, size=size, people=model.people, least=model.least(size),
            floor=expected(self._card, size).value,
        )  # fmt: skip

    def of_bank(self, bank: SubmodelBank) -> Threshold:
        """The threshold of a submodel bank: the fixed one, its own, or what the card expects of a
        gallery of as many people."""
        return self._fixed or bank.threshold or expected(self._card, len(bank))

    def _known(self) -> Threshold:
        if self._fixed is not None:
            return self._fixed
        size = self._gallery.count(Kind.KNOWN)
        own = self._own()
        if own is not None and size:
            limit = own.at(size)
            if own.origin == "calibrated":
                return limit
            return max(limit, expected(self._card, size), key=lambda t: t.value)
        stored = self._gallery.threshold
        return expected(self._card, size) if stored is None else stored

    def _stranger(self, known: Threshold) -> Threshold:
        linking = self.linking
        if linking is None:
            return Threshold(known.value + GrowthRules().link, f"{known.origin},linking")
        count = max(self._gallery.count(Kind.STRANGER), 1)
        return Threshold(round(linking(count), 4), f"linking:fpir={LINKING_FPIR:g}@N={count}")

    def _own(self) -> Calibration | None:
        text = self._gallery.note(CALIBRATION)
        return None if text is None else Calibration.from_json(text)
