"""What a threshold promised against what was seen: the intervals hold, the warning is seldom false
and finds what is broken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeface.calibrate import calibrate
from edgeface.errors import ArgumentError
from edgeface.metrics import Interval
from edgeface.promise import Warned, judge

RUNS, STRANGERS = 200, 1000


def looked_at_each_time(promised: Interval, named: np.ndarray) -> set[Warned | None]:
    """What somebody is told who looks after every stranger. The evidence for `more` is largest
    right after a wrong name, that for `fewer` right before one, so only there is it worked out."""
    places = np.flatnonzero(named)
    looks = {*(places + 1).tolist(), *places.tolist(), len(named)}
    wrong = named.cumsum()
    return {judge(promised, int(wrong[n - 1]), n).warning for n in looks if n}


def test_the_promised_interval_holds_the_true_rate_as_often_as_it_says() -> None:
    # The best similarity of a stranger is uniform: whatever its law, ranks are all that counts.
    # The interval is exact, so 200 runs would lie at or above .95 in three of five tries only.
    rng, runs, holds = np.random.default_rng(16), 2000, 0
    for _ in range(runs):
        found = calibrate(rng.random(STRANGERS), fpir=0.02, size=50)
        holds += found.measured.low <= 1.0 - found.value <= found.measured.high
    assert abs(holds / runs - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / runs)


def test_what_is_seen_holds_the_true_rate_and_kept_promises_are_not_warned_of() -> None:
    rng, holds, kept, false = np.random.default_rng(16), 0, 0, 0
    for _ in range(RUNS):
        found = calibrate(rng.random(STRANGERS), fpir=0.02, size=50)
        truth = 1.0 - found.value
        named = rng.random(STRANGERS) >= found.value
        seen = judge(found.measured, int(named.sum()), STRANGERS).seen
        assert seen is not None
        holds += seen.low <= truth <= seen.high
        if found.measured.low <= truth <= found.measured.high:
            kept += 1
            false += bool(looked_at_each_time(found.measured, named) - {None})
    assert holds / RUNS >= 0.95
    assert false / kept <= 0.05


@pytest.mark.parametrize(("truth", "told"), [(0.014, Warned.MORE), (0.007, Warned.FEWER)])
def test_a_rate_at_the_very_end_of_the_interval_is_kept(truth: float, told: Warned) -> None:
    rng, promised = np.random.default_rng(5), Interval(0.01, 0.007, 0.014)
    runs = [looked_at_each_time(promised, rng.random(STRANGERS) < truth) for _ in range(RUNS)]
    assert sum(told in run for run in runs) / RUNS <= 0.05


def test_a_broken_promise_is_told_of() -> None:
    rng, promised = np.random.default_rng(6), Interval(0.01, 0.007, 0.014)
    for truth, told, trials in ((0.05, Warned.MORE, 500), (0.0, Warned.FEWER, 3000)):
        runs = [looked_at_each_time(promised, rng.random(trials) < truth) for _ in range(RUNS)]
        assert sum(told in run for run in runs) / RUNS >= 0.9, told


def test_what_is_told_of_two_of_311() -> None:
    outcome = judge(Interval(0.01, 0.007, 0.014), 2, 311)
    assert outcome.warning is None and outcome.seen is not None
    assert (outcome.wrong, outcome.trials) == (2, 311)
    assert outcome.seen.low < 2 / 311 < outcome.seen.high
    assert judge(None, 5, 5).warning is None
    assert judge(Interval(0.01, 0.0, 0.02), 0, 0).seen is None


def test_only_mistakes_were_told_of() -> None:
    promised = Interval(0.01, 0.007, 0.014)
    assert judge(promised, 3, 3).warning is Warned.MORE
    assert judge(promised, 3, 3, others=200).warning is None


@example(1.0, 5e-324, 0, 0, 0)
@given(
    st.floats(0, 1), st.floats(0, 1), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 99)
)
def test_any_counts_have_an_answer(a: float, b: float, wrong: int, right: int, others: int) -> None:
    low, high = sorted((a, b))
    outcome = judge(Interval(low, low, high), wrong, wrong + right, others)
    assert outcome.trials == wrong + right
    more = judge(Interval(low, low, high), wrong + 50, wrong + right + 50, others)
    if outcome.warning is Warned.MORE:
        assert more.warning is not Warned.FEWER


@pytest.mark.parametrize(("wrong", "trials", "others"), [(2, 1, 0), (-1, 1, 0), (0, 0, -1)])
def test_counts_that_cannot_be(wrong: int, trials: int, others: int) -> None:
    with pytest.raises(ArgumentError, match="cannot be"):
        judge(None, wrong, trials, others)
