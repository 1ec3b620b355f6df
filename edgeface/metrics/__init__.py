"""Measures of quality on numpy arrays, each with its source."""

from edgeface.metrics.identification import (
    Interval,
    beta_quantile,
    binomial_interval,
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
    "Interval",
    "best_threshold",
    "beta_quantile",
    "binomial_interval",
    "equal_error_rate",
    "fnir",
    "fpir",
    "roc",
    "tar_at_far",
    "threshold_at_far",
    "tpir_at_fpir",
    "verification_accuracy",
]
