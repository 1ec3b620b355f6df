"""Clustering metrics against definitions written out pair by pair, on random labels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.metrics.clustering import (
    adjusted_rand_index,
    bcubed,
    bcubed_by_size,
    contingency,
    fowlkes_mallows,
    normalized_mutual_information,
    pairwise,
    singleton_rate,
)

labelings = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        *[st.lists(st.integers(0, 5), min_size=n, max_size=n).map(np.array) for _ in range(2)]
    )
)


def pairs(truth, found):
    together = [(a, b) for a, b in combinations(range(len(truth)), 2) if found[a] == found[b]]
    same = [(a, b) for a, b in combinations(range(len(truth)), 2) if truth[a] == truth[b]]
    both = len(set(together) & set(same))
    return both / len(together) if together else 1.0, both / len(same) if same else 1.0


@given(labelings)
@settings(deadline=None)
def test_pairwise_counts_pairs(both) -> None:
    truth, found = both
    score = pairwise(truth, found)
    assert (score.precision, score.recall) == pytest.approx(pairs(truth, found))


@given(labelings)
@settings(deadline=None)
def test_bcubed_averages_over_samples(both) -> None:
    truth, found = both
    precision = np.mean([np.mean(truth[found == found[i]] == truth[i]) for i in range(len(truth))])
    recall = np.mean([np.mean(found[truth == truth[i]] == found[i]) for i in range(len(truth))])
    score = bcubed(truth, found)
    assert (score.precision, score.recall) == pytest.approx((precision, recall))


@given(labelings)
@settings(deadline=None)
def test_labels_are_only_names_and_truth_and_clusters_swap(both) -> None:
    truth, found = both
    renamed = np.array([40, 10, 70, 0, 30, 20])[found]
    assert adjusted_rand_index(truth, found) == pytest.approx(adjusted_rand_index(truth, renamed))
    for measure in (adjusted_rand_index, normalized_mutual_information, fowlkes_mallows):
        assert measure(truth, found) == pytest.approx(measure(found, truth))
    assert bcubed(truth, found).precision == pytest.approx(bcubed(found, truth).recall)


@given(labelings)
@settings(deadline=None)
def test_perfect_is_one(both) -> None:
    truth, _ = both
    assert pairwise(truth, truth).f == bcubed(truth, truth).f == 1.0
    assert normalized_mutual_information(truth, truth) == pytest.approx(1.0)
    assert adjusted_rand_index(truth, truth) == pytest.approx(1.0)


def test_known_values() -> None:
    # Values of scikit-learn 1.9: adjusted_rand_score, normalized_mutual_info_score and
    # fowlkes_mallows_score.
    truth, found = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]
    assert adjusted_rand_index(truth, found) == pytest.approx(2 / 27)
    assert fowlkes_mallows(truth, found) == pytest.approx(1 / np.sqrt(12))
    assert normalized_mutual_information(truth, found) == pytest.approx(0.520665, abs=1e-6)


def test_agrees_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(5)
    truth, found = rng.integers(0, 40, 500), rng.integers(0, 60, 500) // 2
    assert adjusted_rand_index(truth, found) == pytest.approx(
        sklearn.adjusted_rand_score(truth, found)
    )
    assert normalized_mutual_information(truth, found) == pytest.approx(
        sklearn.normalized_mutual_info_score(truth, found)
    )
    assert fowlkes_mallows(truth, found) == pytest.approx(
        sklearn.fowlkes_mallows_score(truth, found)
    )


def test_noise_is_a_cluster_per_sample() -> None:
    truth = [0, 0, 0, 1]
    assert bcubed(truth, [5, 5, -1, -1]) == bcubed(truth, [5, 5, 6, 7])
    assert singleton_rate([5, 5, -1, -1]) == 0.5


def test_scores_by_size_of_the_true_class() -> None:
    truth = np.array([0, 1, 1, 2, 2, 2, *[3] * 30])
    found = np.array([0, 0, 1, 2, 2, 2, *[3] * 15, *[4] * 15])
    scores = bcubed_by_size(truth, found)
    assert list(scores) == ["1", "2", "3-5", "21+"]
    assert scores["1"].precision == 0.5
    assert scores["2"].recall == 0.5
    assert scores["3-5"].f == 1.0
    assert (scores["21+"].precision, scores["21+"].recall) == (1.0, 0.5)


def test_huge_clusters_do_not_overflow() -> None:
    labels = np.zeros(3_000_000, np.int64)
    score = pairwise(labels, labels)
    assert score.f == 1.0
    assert adjusted_rand_index(labels, labels) == 1.0


@pytest.mark.parametrize("bad", [[[0, 1]], [0.5, 1.0]])
def test_labels_must_be_integers_in_a_row(bad) -> None:
    with pytest.raises(ValueError, match="one-dimensional integer"):
        contingency(bad, [0, 1])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 true labels but 3"):
        contingency([0, 1], [0, 1, 2])
