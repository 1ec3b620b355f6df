"""Measures of quality on numpy arrays, each with its source."""

from edgeface.metrics.clustering import (
    Agreement,
    Contingency,
    adjusted_rand_index,
    bcubed,
    bcubed_by_size,
    contingency,
    fowlkes_mallows,
    normalized_mutual_information,
    pairwise,
    singleton_rate,
)
from edgeface.metrics.identification import (
    ClosedSet,
    Interval,
    beta_quantile,
    binomial_interval,
    closed_set,
    fnir,
    fpir,
    tpir_at_fpir,
)
from edgeface.metrics.verification import (
    best_threshold,
    equal_error_rate,
    roc,
    tar_at_far,
    threshold_at_far,
    verification_accuracy,
)

__all__ = [
    "Agreement",
    "ClosedSet",
    "Contingency",
    "Interval",
    "adjusted_rand_index",
    "bcubed",
    "bcubed_by_size",
    "best_threshold",
    "beta_quantile",
    "binomial_interval",
    "closed_set",
    "contingency",
    "equal_error_rate",
    "fnir",
    "fowlkes_mallows",
    "fpir",
    "normalized_mutual_information",
    "pairwise",
    "roc",
    "singleton_rate",
    "tar_at_far",
    "threshold_at_far",
    "tpir_at_fpir",
    "verification_accuracy",
]
