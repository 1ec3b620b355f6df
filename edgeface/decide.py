"""Open-set decisions: who a probe is, or that nobody in the gallery is.

Three rules stand between a similarity and a name: the threshold (calibrated to a false-positive
identification rate), the margin over the runner-up, and exclusivity, because one person cannot be
in a frame twice. `Confirmation` adds time: a name needs agreeing decisions to appear and
disagreeing ones to go, and the person a track shows is held to a slightly lower threshold than a
newcomer, or a face at the threshold would be named in every other frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeface.assign import assign
from edgeface.types import Decision, Match, Status, Threshold

NONE = float("nan")


@dataclass(frozen=True, slots=True)
class Rules:
    """`margin`: least lead in cosine over the second person; `confirm`: agreeing decisions until a
    name appears; `release`: disagreeing ones until it goes; `hold`: by how much the cosine of a
    person already shown may fall below the threshold. `hold` names nobody: who is shown has passed
    the threshold itself `confirm` times."""

    margin: float = 0.03
    confirm: int = 2
    release: int = 4
    hold: float = 0.03


def for_person(threshold: Threshold, person: int, shown: int | None, hold: float) -> Threshold:
    """The threshold `person` must reach where `shown` is the person named so far; a lowered one
    says so in its origin."""
    if person != shown:
        return threshold
    return Threshold(threshold.value - hold, f"{threshold.origin},held")


def decide(
    matches: Sequence[Match],
    threshold: Threshold,
    *,
    margin: float = 0.03,
    shown: int | None = None,
    hold: float = 0.0,
) -> Decision:
    """Decide for one probe.

    Args:
        matches: people by falling similarity, one entry per person; may be empty.
        threshold: least cosine of a match.
        margin: least lead over the runner-up; less makes the decision `uncertain`.
        shown, hold: the person named so far, for whom `threshold` is lower by `hold`.
    """
    if not matches:
        return Decision(Status.UNKNOWN, None, None, NONE, NONE, threshold)
    best = matches[0]
    if best.similarity < threshold.value:
        threshold = for_person(threshold, best.person_id, shown, hold)
    lead = best.similarity - matches[1].similarity if len(matches) > 1 else float("inf")
    if best.similarity < threshold.value:
        return Decision(Status.UNKNOWN, None, None, best.similarity, lead, threshold)
    if lead < margin:
        return Decision(Status.UNCERTAIN, None, None, best.similarity, lead, threshold)
    return Decision(Status.MATCH, best.name, best.person_id, best.similarity, lead, threshold)


def decide_together(
    matches: Sequence[Sequence[Match]],
    threshold: Threshold,
    *,
    margin: float = 0.03,
    shown: Sequence[int | None] = (),
    hold: float = 0.0,
) -> list[Decision]:
    """Decide for all probes of one frame so that no person is named twice.

    The people above the threshold are assigned to probes at the highest total similarity; a probe
    is then judged among the people that nobody else holds. `shown` is the person each probe's track
    shows so far, for whom the threshold is lower by `hold`.
    """
    named = list(shown) or [None] * len(matches)
    fit = [
        [m for m in row if m.similarity >= for_person(threshold, m.person_id, who, hold).value]
        for row, who in zip(matches, named, strict=True)
    ]
    people = sorted({m.person_id for good in fit for m in good})
    cost = np.full((len(matches), len(people)), 10.0)
    for i, good in enumerate(fit):
        for m in good:
            cost[i, people.index(m.person_id)] = -m.similarity
    pairs = assign(cost, limit=hold - threshold.value) if people else []
    held = {probe: people[column] for probe, column in pairs}
    decisions = []
    for i, row in enumerate(matches):
        others = {person for probe, person in held.items() if probe != i}
        free = [m for m in row if m.person_id not in others]
        if not free and row:
            # Everyone this probe resembles is somebody else in the frame: a stranger, and the
            # similarity that was set aside still travels with the result.
            decisions.append(
                Decision(Status.UNKNOWN, None, None, row[0].similarity, NONE, threshold)
            )
        else:
            decisions.append(decide(free, threshold, margin=margin, shown=named[i], hold=hold))
    return decisions


class Confirmation:
    """The decision a track shows, from the decisions its frames make."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._shown: Decision | None = None
        self._candidate: int | None = None
        self._agreeing = 0
        self._disagreeing = 0

    def update(self, decision: Decision) -> Decision:
        """Take one frame's decision, return what to show: a match only once confirmed."""
        person = decision.person_id if decision.status is Status.MATCH else None
        if self._shown is not None and person == self._shown.person_id:
            self._disagreeing, self._candidate = 0, None
            self._shown = decision
            return decision
        self._agreeing = self._agreeing + 1 if person == self._candidate else 1
        self._candidate = person
        if person is not None and self._agreeing >= self._rules.confirm:
            self._shown, self._disagreeing = decision, 0
            return decision
        if self._shown is not None:
            self._disagreeing += 1
            if self._disagreeing < self._rules.release:
                return self._shown
            self._shown = None
        if person is None:
            return decision
        return replace(decision, status=Status.UNCERTAIN, name=None, person_id=None)
