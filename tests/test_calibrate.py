"""Thresholds: what they promise is what held-out impostors do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgeface import metrics
from edgeface.calibrate import Calibration, calibrate, trials_needed
from edgeface.errors import CalibrationError


def searches(n: int, size: int, seed: int, dim: int = 48) -> np.ndarray:
    """Best similarity of n strangers to `size` people, everybody drawn alike."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n + size, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows[:n] @ rows[n:].T).max(axis=1)


@pytest.mark.parametrize("fpir", [1e-1, 1e-2])
@pytest.mark.parametrize("size", [10, 300])
def test_the_interval_covers_the_true_rate(fpir: float, size: int) -> None:
    """Distribution free: over many cohorts the true FPIR lies inside as often as stated."""
    truth = searches(50_000, size, 1)
    inside = []
    for seed in range(60):
        some = np.random.default_rng(seed).choice(truth[:25_000], 600, replace=False)
        result = calibrate(some, fpir=fpir, size=size)
        inside.append(metrics.fpir(truth[25_000:], result.value) in result.measured)
    assert np.mean(inside) > 0.85


def test_the_threshold_is_an_order_statistic() -> None:
    result = calibrate(np.arange(999) / 1000.0, fpir=1e-2, size=7)
    assert result.value == pytest.approx(0.989)
    assert metrics.fpir(np.arange(999) / 1000.0, result.value) == pytest.approx(10 / 999)
    assert result.measured.value == pytest.approx(0.01)
    assert result.low < result.value < result.high
    assert result.threshold.origin == "calibrated:fpir=1e-2@N=7"


def test_the_threshold_interval_covers_the_true_quantile() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.ppf(0.99)
    results = [calibrate(rng.standard_normal(500), fpir=1e-2, size=1) for _ in range(300)]
    assert 0.92 < np.mean([r.low <= truth <= r.high for r in results]) <= 1.0


@pytest.mark.parametrize("fpir", [1e-1, 1e-2, 1e-3])
def test_too_few_impostors_are_refused(fpir: float) -> None:
    needed = trials_needed(fpir)
    assert needed == round(3 / fpir)
    scores = np.random.default_rng(0).random(needed)
    assert calibrate(scores, fpir=fpir, size=3).trials == needed
    with pytest.raises(CalibrationError, match=r"too few.*: 1 more people"):
        calibrate(scores[1:], fpir=fpir, size=3)


@pytest.mark.parametrize("fpir", [0.0, 1.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(fpir: float) -> None:
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        calibrate(np.zeros(10), fpir=fpir, size=1)


@pytest.mark.parametrize("scores", [[], [[0.1]], [0.1, float("nan")], [float("inf")]])
def test_similarities_that_are_none_are_refused(scores: list[float]) -> None:
    with pytest.raises(CalibrationError, match="finite"):
        calibrate(scores, fpir=0.1, size=1)


def test_an_empty_gallery_is_refused() -> None:
    with pytest.raises(CalibrationError, match="enrol"):
        calibrate(np.zeros(30), fpir=0.1, size=0)
    with pytest.raises(CalibrationError, match="enrol"):
        calibrate(np.zeros(30), fpir=0.1, size=4).at(0)


@pytest.mark.parametrize("size", [25, 400, 1600])
def test_a_threshold_derived_for_another_size_keeps_its_rate(size: int) -> None:
    result = calibrate(searches(20_000, 100, 1), fpir=1e-2, size=100)
    derived = result.at(size)
    assert derived.origin == f"calibrated:fpir=1e-2@N={size},from=100"
    measured = metrics.fpir(searches(20_000, size, 2), derived.value)
    assert 0.6e-2 < measured < 1.6e-2


def test_larger_galleries_need_higher_thresholds() -> None:
    result = calibrate(searches(1000, 50, 1), fpir=1e-2, size=50)
    values = [result.at(n).value for n in (1, 10, 50, 51, 500, 5000, 10**6, 10**9)]
    assert values == sorted(values)
    assert values[-1] <= 1.0
    assert result.at(50) == result.threshold


def test_a_calibration_survives_storage() -> None:
    result = calibrate(searches(500, 20, 1), fpir=1e-2, size=20)
    again = Calibration.from_json(result.to_json())
    assert again == result
    assert again.at(40) == result.at(40)
    with pytest.raises(CalibrationError, match="calibrate again"):
        Calibration.from_json('{"value": 1}')


@settings(deadline=None)
@given(
    st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_binomial_interval_is_clopper_pearson(share: tuple[int, int], confidence: float) -> None:
    count, trials = share
    expected = stats.binomtest(count, trials).proportion_ci(confidence, "exact")
    got = metrics.binomial_interval(count, trials, confidence)
    assert got.low == pytest.approx(expected.low, abs=1e-9, rel=1e-6)
    assert got.high == pytest.approx(expected.high, abs=1e-9, rel=1e-6)
    assert count / trials in got


def test_the_rule_of_three() -> None:
    assert metrics.binomial_interval(0, 3000, 0.90).high == pytest.approx(1e-3, rel=0.01)


def test_open_set_rates() -> None:
    mated, correct = [0.9, 0.8, 0.7, 0.2], [True, True, False, True]
    nonmated = [0.1, 0.3, 0.75, 0.5]
    assert metrics.fpir(nonmated, 0.5) == 0.5
    assert metrics.fnir(mated, correct, 0.5) == 0.5
    assert metrics.fnir(mated, correct, 0.85) == 0.75
    assert metrics.tpir_at_fpir(mated, correct, nonmated, 0.0) == 0.5
    assert metrics.tpir_at_fpir(mated, correct, nonmated, 0.25) == 0.5
    assert metrics.tpir_at_fpir(mated, correct, nonmated, 1.0) == 0.75
    with pytest.raises(ValueError, match="one each"):
        metrics.fnir(mated, correct[1:], 0.5)
    with pytest.raises(ValueError, match="n >= 1"):
        metrics.fpir([], 0.5)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.floats(0, 1))
def test_tpir_at_fpir_respects_the_rate(nonmated: list[float], rate: float) -> None:
    """A mated search at every non-mated similarity: what answers is at most the rate."""
    answered = metrics.tpir_at_fpir(nonmated, [True] * len(nonmated), nonmated, rate)
    assert answered <= rate + 1e-6 or math.isclose(answered, rate)


def test_a_looser_rate_means_a_lower_value_that_grows_with_the_gallery() -> None:
    rng = np.random.default_rng(0)
    result = calibrate(rng.normal(0.2, 0.1, 5000), fpir=1e-3, size=50)
    assert result.value_at(50, fpir=1e-3) == pytest.approx(result.at(50).value, abs=0.01)
    assert result.value_at(50, fpir=0.05) < result.value_at(50, fpir=0.01) < result.value
    assert result.value_at(50, fpir=0.05) < result.value_at(500, fpir=0.05)


def test_a_cards_curve_is_not_believed_where_labels_are_wrong() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(0.1, 0.08, 300_000)
    # Ten pairs of "different" people who are one person under two names.
    mixed = np.concatenate([clean, rng.uniform(0.55, 0.8, 10)])
    honest, fooled = (calibrate(x, fpir=1e-3, size=1) for x in (clean, mixed))
    for size in (10, 100, 1000):
        wanted = honest.default_at(size).value
        assert fooled.default_at(size).value == pytest.approx(wanted, abs=0.04)
        assert fooled.at(size).value >= fooled.default_at(size).value - 1e-4
    assert fooled.at(100).value > honest.default_at(100).value + 0.1
