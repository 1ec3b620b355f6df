"""Open-set decisions: who a probe is, or that nobody in the gallery is.

Three rules stand between a similarity and a name: the threshold (calibrated to a false-positive
identification rate; strangers whom the gallery numbered have one of their own), the margin over the
runner-up, and exclusivity, because one person cannot be in a frame twice. `Confirmation` adds time:
a name needs agreeing decisions to appear and disagreeing ones to go, and the person a track shows
is held to a slightly lower threshold than a newcomer, or a face at the threshold would be named in
every other frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeface.assign import assign
from edgeface.types import Decision, Kind, Match, Status, Threshold

NONE = float("nan")


# What a decision for a person of each kind is called.
STATUS = {
    Kind.KNOWN: Status.MATCH,
    Kind.STRANGER: Status.STRANGER,
    Kind.IGNORED: Status.IGNORED,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What it takes to get a name and to lose it. `hold` names nobody: who is shown has passed the
    threshold itself `confirm` times."""

    margin: float = 0.03  # cosine, least lead over the second person; more: more are `uncertain`
    confirm: int = 2  # agreeing decisions until a name appears; more: later and surer
    release: int = 4  # disagreeing decisions until it goes; more: steadier, and wrong for longer
    hold: float = 0.03  # cosine below the threshold at which a name stays; more: steadier


def _limit(
    match: Match, threshold: Threshold, stranger: Threshold, shown: int | None, hold: float
) -> Threshold:
    """What a person must reach: the threshold of their kind, lowered for who is shown so far
    where that is needed; a lowered one says so in its origin."""
    limit = stranger if match.kind is Kind.STRANGER else threshold
    if match.person_id != shown or match.similarity >= limit.value:
        return limit
    return Threshold(limit.value - hold, f"{limit.origin},held")


def _fits(match: Match, limit: Threshold) -> bool:
    return match.similarity >= limit.value


def decide(
    matches: Sequence[Match],
    threshold: Threshold,
    *,
    stranger: Threshold | None = None,
    margin: float = 0.03,
    shown: int | None = None,
    hold: float = 0.0,
) -> Decision:
    """Decide for one probe.

    Args:
        matches: people by falling similarity, one entry per person; may be empty.
        threshold: least cosine of a match.
        stranger: least cosine at which a numbered stranger is recognised; None for `threshold`.
        margin: least lead over everybody else; less makes the decision `uncertain`.
        shown, hold: the person named so far, for whom the threshold is lower by `hold`.

    Returns:
        the most similar person who reaches their threshold, a `match` or a `stranger`; else
        `unknown` with what the most similar person would have needed.
    """
    if not matches:
        return Decision(Status.UNKNOWN, None, None, NONE, NONE, threshold)
    limits = [_limit(m, threshold, stranger or threshold, shown, hold) for m in matches]
    fit = (i for i, (m, t) in enumerate(zip(matches, limits, strict=True)) if _fits(m, t))
    index = next(fit, None)
    at = 0 if index is None else index
    best, limit = matches[at], limits[at]
    others = [m.similarity for i, m in enumerate(matches) if i != at]
    lead = best.similarity - max(others) if others else float("inf")
    nobody = Decision(Status.UNKNOWN, None, None, best.similarity, lead, limit)
    if index is None:
        return nobody
    if lead < margin:
        return nobody.nobody(Status.UNCERTAIN)
    status = STATUS[best.kind]
    return replace(nobody, status=status, name=best.name, person_id=best.person_id, kind=best.kind)


def decide_together(
    matches: Sequence[Sequence[Match]],
    threshold: Threshold,
    *,
    stranger: Threshold | None = None,
    margin: float = 0.03,
    shown: Sequence[int | None] = (),
    hold: float = 0.0,
) -> list[Decision]:
    """Decide for all probes of one frame so that no person is named twice.

    The people who reach their threshold are assigned to probes at the highest total similarity; a
    probe is then judged among the people that nobody else holds, see `decide`. `shown` is the
    person each probe's track shows so far, for whom the threshold is lower by `hold`.
    """
    apart = stranger or threshold
    named = list(shown) or [None] * len(matches)
    fit = [
        [m for m in row if _fits(m, _limit(m, threshold, apart, who, hold))]
        for row, who in zip(matches, named, strict=True)
    ]
    people = sorted({m.person_id for good in fit for m in good})
    cost = np.full((len(matches), len(people)), 10.0)
    for i, good in enumerate(fit):
        for m in good:
            cost[i, people.index(m.person_id)] = -m.similarity
    lowest = min(threshold.value, apart.value) - hold
    pairs = assign(cost, limit=-lowest) if people else []
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
            decisions.append(
                decide(free, threshold, stranger=apart, margin=margin, shown=named[i], hold=hold)
            )
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
        person = decision.person_id
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
        return decision.nobody(Status.UNCERTAIN)
