"""How far a face is trusted in a pile: its recognisability, made the weight of its links."""

from __future__ import annotations

from edgeface.recognisability import NAMED
from edgeface.types import Flaw

# Of the steepness: the weight of a face at the least chance is a half, of one at twice that .94.
STEEPNESS = 4


def fitness(chance: float) -> float:
    """The weight in [0, 1] of a face whose owner is found with `chance`, a half at the least chance
    of a face that is named. Links between faces and certainty fall with it."""
    return chance**STEEPNESS / (chance**STEEPNESS + NAMED**STEEPNESS)


def reason(chance: float, flaw: Flaw | None) -> str:
    """Why a face is nobody, in words; "" for one that can be judged."""
    return "" if chance >= NAMED or flaw is None else str(flaw).replace("_", " ")
