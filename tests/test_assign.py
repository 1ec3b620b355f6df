"""The assignment is optimal; scipy is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from edgeface.assign import assign


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8), st.floats(-0.5, 1.2))
def test_costs_as_little_as_the_oracle(seed: int, n: int, m: int, limit: float) -> None:
    cost = np.random.default_rng(seed).uniform(-0.5, 1, (n, m))
    pairs = assign(cost, limit=limit)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    assert all(cost[p] <= limit for p in pairs)
    padded = np.hstack([cost, np.full((n, n), limit)])
    best = padded[linear_sum_assignment(padded)].sum()
    total = sum(cost[p] for p in pairs) + limit * (n - len(pairs))
    assert total == pytest.approx(best, abs=1e-9)


def test_nothing_to_pair() -> None:
    assert assign(np.zeros((0, 3)), limit=1.0) == []
    assert assign(np.zeros((3, 0)), limit=1.0) == []
    assert assign(np.full((2, 2), 5.0), limit=1.0) == []
