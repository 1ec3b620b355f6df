"""Verification of pairs, and what a threshold costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def _checked(similarity: Floats, same: Bools) -> tuple[NDArray[np.float64], Bools]:
    s, truth = np.asarray(similarity, np.float64), np.asarray(same, bool)
    if s.ndim != 1 or s.shape != truth.shape:
        raise ArgumentError(f"expected two equally long vectors, got {s.shape} and {truth.shape}")
    if not np.isfinite(s).all():
        raise ArgumentError("similarity has NaN or infinite values")
    return s, truth


def best_threshold(similarity: Floats, same: Bools) -> float:
    """The threshold t with most pairs right under "same iff similarity >= t"; of equals the lowest.

    Midpoint between the neighbouring similarities; -inf or inf where accepting or rejecting all is
    best. O(n log n).
    """
    s, truth = _checked(similarity, same)
    order = np.argsort(s)
    s, truth = s[order], truth[order]
    # right[i] = pairs right when the i lowest are rejected; a cut is possible only between values.
    right = np.concatenate([[0], np.cumsum(~truth)]) + np.concatenate(
        [np.cumsum(truth[::-1])[::-1], [0]]
    )
    cut = np.concatenate([[True], s[1:] > s[:-1], [True]])
    i = int(np.argmax(np.where(cut, right, -1)))
    if i == 0:
        return float("-inf")
    if i == len(s):
        return float("inf")
    return float((s[i - 1] + s[i]) / 2)


@dataclass(frozen=True, slots=True)
class Verified:
    """What "same iff similarity >= `threshold`" gets right, in [0, 1]; `precision` is 1 where
    nothing is accepted, `f1` 0 where nothing is accepted rightly."""

    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float


def verified(similarity: Floats, same: Bools, threshold: float) -> Verified:
    """How well a threshold tells pairs of one person from pairs of two.

    `similarity` (n,) and `same` (n,), with at least one pair of each. ArgumentError otherwise.
    """
    s, truth = _checked(similarity, same)
    if truth.all() or not truth.any():
        raise ArgumentError("pairs of one person and pairs of two are needed")
    accepted = s >= threshold
    right = int((accepted & truth).sum())
    precision = right / int(accepted.sum()) if accepted.any() else 1.0
    recall = right / int(truth.sum())
    f1 = 2 * right / (int(accepted.sum()) + int(truth.sum()))
    return Verified(threshold, float((accepted == truth).mean()), precision, recall, f1)


def best_f1_threshold(similarity: Floats, same: Bools) -> float:
    """The similarity that is the threshold with the highest F1 on these pairs; of equals the
    lowest. O(n log n)."""
    s, truth = _checked(similarity, same)
    order = np.argsort(-s, kind="stable")
    s, truth = s[order], truth[order]
    f1 = 2 * np.cumsum(truth) / (np.arange(1, len(s) + 1) + max(1, int(truth.sum())))
    last = np.append(s[1:] < s[:-1], True)  # equal similarities pass together
    best = np.flatnonzero(last & (f1 >= f1[last].max() - 1e-12))
    return float(s[best[-1]])


def verification_accuracy(
    similarity: Floats, same: Bools, fold: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Accuracy per fold, the threshold of each chosen on all the other folds.

    LFW View 2 (Huang et al. 2007): 10 folds of 600 pairs; report mean and standard deviation.
    `fold` (n,) numbers each pair's fold. Raises ArgumentError with fewer than two folds.
    """
    s, truth = _checked(similarity, same)
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ArgumentError(f"expected at least two folds, got {len(folds)}")
    accuracies = []
    for f in folds:
        test = fold == f
        threshold = best_threshold(s[~test], truth[~test])
        accuracies.append(np.mean((s[test] >= threshold) == truth[test]))
    return np.array(accuracies)


def threshold_at_far(impostor: Floats, far: float) -> float:
    """The lowest threshold at which at most `far` of the impostor similarities are accepted
    (similarity >= threshold). ArgumentError if `far` is not in [0, 1] or there is no impostor."""
    s = np.sort(np.asarray(impostor, np.float64))[::-1]
    if not 0.0 <= far <= 1.0:
        raise ArgumentError(f"far must be in [0, 1], got {far}")
    if not len(s):
        raise ArgumentError("no impostor similarity given")
    allowed = int(np.floor(far * len(s) + 1e-9))
    if allowed >= len(s):
        return float("-inf")
    return float(np.nextafter(s[allowed], np.inf))


def tar_at_far(similarity: Floats, same: Bools, far: float) -> float:
    """True accept rate at the lowest threshold with a false accept rate of at most `far`."""
    s, truth = _checked(similarity, same)
    return float(np.mean(s[truth] >= threshold_at_far(s[~truth], far)))


def roc(similarity: Floats, same: Bools) -> tuple[Floats, Floats, Floats]:
    """(false accept rate, true accept rate, threshold), one entry per distinct similarity, falling
    threshold; starts at (0, 0, inf)."""
    s, truth = _checked(similarity, same)
    order = np.argsort(-s, kind="stable")
    s, truth = s[order], truth[order]
    last = np.concatenate([s[1:] < s[:-1], [True]])
    accepted = np.cumsum(truth)[last] / max(1, int(truth.sum()))
    false = np.cumsum(~truth)[last] / max(1, int((~truth).sum()))
    zero = np.zeros(1)
    return (
        np.concatenate([zero, false]),
        np.concatenate([zero, accepted]),
        np.concatenate([[np.inf], s[last]]),
    )


def equal_error_rate(similarity: Floats, same: Bools) -> float:
    """The rate at which false accepts equal false rejects, linear between the points of the ROC."""
    false, true, _ = roc(similarity, same)
    reject = 1.0 - true
    i = int(np.argmax(false >= reject))
    if i == 0:
        return float(false[0])
    gap0, gap1 = reject[i - 1] - false[i - 1], reject[i] - false[i]
    t = gap0 / (gap0 - gap1)
    return float(false[i - 1] + t * (false[i] - false[i - 1]))
