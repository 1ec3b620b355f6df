"""Verification figures against written-out oracles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.metrics import (
    best_threshold,
    equal_error_rate,
    roc,
    tar_at_far,
    threshold_at_far,
    verification_accuracy,
)

pairs = st.lists(
    st.tuples(st.integers(-8, 8).map(lambda v: v / 8), st.booleans()), min_size=2, max_size=40
)


def accuracy(similarity, same, threshold):
    return np.mean((similarity >= threshold) == same)


@given(pairs)
def test_best_threshold_is_never_beaten_by_any_cut(rows):
    similarity, same = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    cuts = [-np.inf, np.inf, *similarity, *(similarity + 1e-3)]
    best = max(accuracy(similarity, same, c) for c in cuts)
    assert accuracy(similarity, same, best_threshold(similarity, same)) == best


@given(pairs, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_threshold_at_far_is_the_lowest_that_keeps_the_promise(rows, far):
    impostor = np.array([r[0] for r in rows])
    threshold = threshold_at_far(impostor, far)
    assert np.mean(impostor >= threshold) <= far + 1e-12
    below = impostor[impostor < threshold]
    if len(below):
        assert np.mean(impostor >= below.max()) > far


def test_each_fold_uses_the_threshold_of_the_others():
    # Fold 0 separates at 0.5; fold 1's scores are shifted, so fold 0's threshold fails on it.
    similarity = np.array([0.2, 0.3, 0.7, 0.8, 0.6, 0.65, 0.9, 0.95])
    same = np.array([False, False, True, True] * 2)
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert verification_accuracy(similarity, same, fold).tolist() == [0.75, 0.5]


def test_tar_counts_genuine_above_the_kth_impostor():
    impostor = np.linspace(0.0, 0.5, 1000)
    genuine = np.array([0.2, 0.4995, 0.4996, 0.9])
    similarity = np.concatenate([impostor, genuine])
    same = np.concatenate([np.zeros(1000, bool), np.ones(4, bool)])
    assert tar_at_far(similarity, same, 1e-3) == 0.75  # one impostor (0.5) may pass


@given(pairs)
@settings(max_examples=50)
def test_roc_is_monotone_and_ends_at_one(rows):
    similarity, same = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    false, true, threshold = roc(similarity, same)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    assert (np.diff(threshold) < 0).all()
    assert (false[0], true[0]) == (0.0, 0.0)
    assert true[-1] == (1.0 if same.any() else 0.0)


def test_equal_error_rate_of_symmetric_overlap():
    similarity = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])
    same = np.array([False] * 4 + [True] * 4)
    assert equal_error_rate(similarity, same) == pytest.approx(0.25)


def test_equal_error_rate_is_zero_when_separable():
    assert equal_error_rate(np.array([0.1, 0.9]), np.array([False, True])) == 0.0


@pytest.mark.parametrize(
    "similarity,same", [([0.1, np.nan], [True, False]), ([0.1], [True, False])]
)
def test_bad_input_is_named(similarity, same):
    with pytest.raises(ValueError, match=r"NaN|equally long"):
        best_threshold(np.array(similarity), np.array(same))
