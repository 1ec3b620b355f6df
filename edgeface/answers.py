"""What the gallery and a submodel bank say of a face, made one answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgeface.submodels import SubmodelBank
from edgeface.types import Array, Decision, Status


def ask_bank(bank: SubmodelBank | None, embedding: Array) -> Decision | None:
    """What a submodel bank says of one embedding (d,). Its classes get negative person ids, so that
    they are never taken for people of the gallery."""
    if bank is None:
        return None
    (answer,) = bank.identify(embedding[None])
    if answer.person_id is None:
        return answer
    return replace(answer, person_id=-1 - answer.person_id)


def complete(decisions: Sequence[Decision], elsewhere: Sequence[Decision | None]) -> list[Decision]:
    """The gallery's decisions of one frame, and the bank's where the gallery knows nobody but
    perhaps a numbered stranger: the most similar first, no class twice in the frame. Where both
    refuse a face, the one that came nearer to its threshold is told."""
    result, taken = [_nearer(*pair) for pair in zip(decisions, elsewhere, strict=True)], set()
    order = sorted(
        (i for i, d in enumerate(elsewhere) if d is not None and d.person_id is not None),
        key=lambda i: -elsewhere[i].similarity,  # type: ignore[union-attr]
    )
    for i in order:
        answer = elsewhere[i]
        decided = result[i].status in (Status.MATCH, Status.IGNORED)
        if answer is None or decided or answer.person_id in taken:
            continue
        taken.add(answer.person_id)
        result[i] = answer
    return result


def _nearer(decision: Decision, answer: Decision | None) -> Decision:
    """Of two refusals of one face the one with the smaller distance to its threshold."""
    if answer is None or {decision.status, answer.status} != {Status.UNKNOWN}:
        return decision
    lack = [d.threshold.value - d.similarity for d in (decision, answer)]
    return answer if math.isnan(lack[0]) or lack[1] < lack[0] else decision
