"""How much a face counts in a pile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.piles.fitness import fitness, reason
from edgeface.recognisability import NAMED
from edgeface.types import Flaw


@given(st.floats(0, 1), st.floats(0, 1))
def test_fitness_rises_with_the_chance(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= fitness(low) <= fitness(high) < 1


def test_who_is_just_recognisable_counts_half_and_a_good_face_in_full() -> None:
    assert fitness(NAMED) == pytest.approx(0.5)
    assert fitness(0.0) == 0.0
    assert np.mean([fitness(c) for c in (0.7, 0.8, 0.9)]) > 0.97


def test_the_reason_is_in_words() -> None:
    assert reason(0.9, None) == reason(NAMED, Flaw.BLURRED) == ""
    assert reason(NAMED - 0.01, Flaw.TURNED_AWAY) == "turned away"
