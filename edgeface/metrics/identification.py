"""Open-set identification, after ISO/IEC 19795-1:2021 and Grother, Ngan and Hanaoka, NISTIR 8271
(FRVT part 2).

A mated search has its person in the gallery, a non-mated search has not. A search answers with its
most similar person when that similarity reaches the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Interval:
    """A share and its confidence interval, `low` <= `value` <= `high`, all in [0, 1]."""

    value: float
    low: float
    high: float

    def __contains__(self, share: float) -> bool:
        return self.low <= share <= self.high


@dataclass(frozen=True, slots=True)
class ClosedSet:
    """How searches are answered whose people are all in the gallery, in [0, 1]: the share of right
    answers, and the means over the people searched for of precision, recall and F1."""

    accuracy: float
    precision: float
    recall: float
    f1: float


def closed_set(truth: ArrayLike, answers: ArrayLike) -> ClosedSet:
    """Of the true and the answered person (n,) int of every search, n >= 1. Macro averages over the
    people in `truth`; the precision of one who is never answered is 0."""
    true, found = np.asarray(truth), np.asarray(answers)
    if true.ndim != 1 or true.shape != found.shape or not len(true):
        raise ArgumentError(
            f"expected an answer to each search, got {true.shape} and {found.shape}"
        )
    people, own = np.unique(true, return_inverse=True)
    place = np.minimum(np.searchsorted(people, found), len(people) - 1)
    known = people[place] == found
    hits = np.bincount(own[true == found], minlength=len(people))
    answered = np.bincount(place[known], minlength=len(people))
    precision, recall = hits / np.maximum(answered, 1), hits / np.bincount(own)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    right = float((true == found).mean())
    return ClosedSet(right, float(precision.mean()), float(recall.mean()), float(f1.mean()))


def fpir(nonmated: ArrayLike, threshold: float) -> float:
    """False positive identification rate: the share of non-mated searches that answer with anybody.

    `nonmated` (n,): the similarity of the most similar person of each search, n >= 1.
    """
    return float(np.mean(_scores(nonmated, "nonmated") >= threshold))


def fnir(mated: ArrayLike, correct: ArrayLike, threshold: float) -> float:
    """False negative identification rate at rank 1: the share of mated searches that do not answer
    with their person.

    `mated` (n,): the similarity of the most similar person of each search; `correct` (n,) bool:
    whether it is the right one; n >= 1.
    """
    scores, right = _scores(mated, "mated"), np.asarray(correct, bool)
    if right.shape != scores.shape:
        raise ArgumentError(f"correct has shape {right.shape}, mated {scores.shape}: give one each")
    return float(1.0 - np.mean(right & (scores >= threshold)))


def tpir_at_fpir(mated: ArrayLike, correct: ArrayLike, nonmated: ArrayLike, rate: float) -> float:
    """True positive identification rate (1 - FNIR) at the lowest threshold whose FPIR is at most
    `rate` on the given non-mated searches."""
    scores = np.sort(_scores(nonmated, "nonmated"))[::-1]
    allowed = math.floor(rate * len(scores) + 1e-9)
    # Just above the first similarity that must not answer.
    threshold = -np.inf if allowed >= len(scores) else np.nextafter(scores[allowed], np.inf)
    return 1.0 - fnir(mated, correct, float(threshold))


def binomial_interval(count: int, trials: int, confidence: float = 0.95) -> Interval:
    """`count` of `trials` as a share with its exact interval (Clopper and Pearson 1934).

    With count = 0 its upper end is about 3 / trials at 95 %, one-sided: the rule of three.
    """
    if not 0 <= count <= trials or trials < 1:
        raise ArgumentError(f"{count} of {trials} is no share: expected 0 <= count <= trials >= 1")
    tail = (1.0 - confidence) / 2.0
    low = beta_quantile(tail, count, trials - count + 1) if count else 0.0
    high = beta_quantile(1.0 - tail, count + 1, trials - count) if count < trials else 1.0
    return Interval(count / trials, low, high)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The value below which a Beta(a, b) variable falls with `probability`; a, b > 0."""
    low, high = 0.0, 1.0
    while high - low > 1e-15 and high - low > 1e-10 * high:
        middle = 0.5 * (low + high)
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function (DLMF 8.17.22, Lentz's continued fraction)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    value = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * value / a


def _scores(values: ArrayLike, what: str) -> NDArray[np.float64]:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
        raise ArgumentError(
            f"{what}: expected (n,) similarities, n >= 1, no NaN; got {scores.shape}"
        )
    return scores
